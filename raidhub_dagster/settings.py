"""The only reader of the environment: frozen, typed settings with a reason for each default.

Order of precedence: process environment, `.env`, then `stack.env` of the embedded stack (written
by `raidhub up`, so that commands typed beside a running stack find it). Values are trimmed; an
empty one counts as unset.
"""

from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from raidhub_dagster.errors import ConfigurationError

STACK_ENV = "stack.env"  # in RAIDHUB_HOME


def _trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_trimmed)]
Secret = Annotated[SecretStr, BeforeValidator(_trimmed)]
Port = Annotated[int, BeforeValidator(_trimmed), Field(ge=1, le=65535)]


def _address(value: Any) -> Any:
    """An address to listen on, as a number: a name may stand for several, or for another one."""
    return str(ip_address(_trimmed(value)))


Listen = Annotated[str, BeforeValidator(_address)]


class Settings(BaseSettings):
    """Every setting, by the name of its environment variable in lower case."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        env_file_encoding="utf-8",
        populate_by_name=True,
        hide_input_in_errors=True,  # an error goes into logs and events, and the input is a secret
    )

    environment: Text = "development"
    log_level: Text = "info"

    postgres_host: Text = "localhost"
    postgres_port: Port = 5432
    postgres_user: Text | None = None  # libpq's own default: the user of the process
    postgres_password: Secret | None = None
    postgres_db: Text = "raidhub"
    postgres_readonly_user: Text = "readonly"
    postgres_readonly_password: Secret | None = None  # None: the role is made without login
    # For processes that only read and write rows: all of the stream's, and Dagster's runs. They are
    # given it as POSTGRES_USER; only `raidhub migrate` needs it under this name.
    postgres_writer_user: Text = "raidhub_writer"
    postgres_writer_password: Secret | None = None  # None: the role is made without login
    # With a password Dagster's history is this role's; None: POSTGRES_USER keeps it.
    postgres_dagster_user: Text = "raidhub_dagster"
    postgres_dagster_password: Secret | None = None

    rabbitmq_host: Text = "localhost"
    rabbitmq_port: Port = 5672
    rabbitmq_ui_port: Port = 15672
    rabbitmq_user: Text = "guest"
    rabbitmq_password: Secret = SecretStr("guest")

    clickhouse_host: Text = "localhost"
    clickhouse_port: Port = 9000
    clickhouse_http_port: Port = 8123
    clickhouse_user: Text = "default"
    clickhouse_password: Secret = SecretStr("")
    clickhouse_db: Text = "default"

    bungie_api_key: Secret | None = None
    # What callers ask: zeus unless set (`www_base`, `pgcr_base`).
    bungie_url_base: Text | None = None
    pgcr_url_base: Text | None = None
    # Bungie wants to know whom to call; a fork puts its own address here.
    bungie_user_agent: Text = "RaidHub-Dagster/0.1 (+https://github.com/raidhub)"

    # Ids above are bogus: a few far beyond the head were seen (docs/domain/crawl.md).
    crawl_ceiling: int = Field(default=100_000_000_000, gt=0)

    # Zeus: where callers find it, whom it asks, and with which keys and source addresses.
    zeus_host: Text = "localhost"
    zeus_port: Port = 7777
    # Whoever reaches the port and has the key spends our budget: this machine only, unless told.
    # In a container 0.0.0.0, or :: where callers come by IPv6 as well.
    zeus_bind: Listen = "127.0.0.1"
    zeus_www_url: Text = "https://www.bungie.net"
    zeus_stats_url: Text = "https://stats.bungie.net"
    zeus_api_keys: Secret | None = None  # separated by commas; None: BUNGIE_API_KEY
    ipv6: Text | None = Field(default=None, validation_alias=AliasChoices("IPV6", "ZEUS_IPV6"))
    # Requests a second of one source address; 0 switches the limit off. The API promises 25 on
    # average over 10 s; crawlers run 40 with this burst for years (docs/domain/bungie-api.md).
    zeus_stats_rate: float = Field(default=40.0, ge=0)
    zeus_stats_burst: float = Field(default=90.0, ge=1)
    zeus_www_rate: float = Field(default=12.0, ge=0)
    zeus_www_burst: float = Field(default=25.0, ge=1)
    # So long a success is given to everybody who asks the same; 0 switches it off.
    zeus_cache_s: float = Field(default=5.0, ge=0)

    # Alerts; without an address they go nowhere but into the log.
    atlas_webhook_url: Secret | None = None
    hades_webhook_url: Secret | None = None
    cheat_check_webhook_url: Secret | None = None
    nemesis_webhook_url: Secret | None = None
    gm_report_webhook_url: Secret | None = None
    gm_report_webhook_auth: Secret | None = None
    alerts_role_id: Text | None = Field(
        default=None, validation_alias=AliasChoices("ALERTS_ROLE_ID", "DISCORD_ALERTS_ROLE_ID")
    )

    # Where people reach Dagster's UI, for links in alerts; unset: the stack's own on this machine.
    dagster_ui_url: Text | None = None
    # Where the source is read on the web, for links from assets; unset: paths on this machine.
    repository_url: Text | None = None
    repository_branch: Text = "main"

    # True puts every topic on its contest number of workers; else the definitions tell when.
    is_contest_weekend: bool = False
    # Version of the cheat rules; None: that of this release. Another one is for comparing.
    cheat_version: Text | None = None
    # Younger than this is fresh enough: nobody asks the API again.
    player_fresh_h: float = Field(default=24.0, ge=0)
    clan_fresh_h: float = Field(default=3.0, ge=0)
    # A raid fetched so soon after its end is fetched twice more, so long after its end: Bungie
    # publishes some reports before they are whole. 0 switches it off.
    young_report_s: float = Field(default=120.0, ge=0)
    young_first_recheck_s: float = Field(default=900.0, gt=0)
    young_last_recheck_s: float = Field(default=172_800.0, gt=0)
    # More due missed ids than this start a run of recovery at once: the crawl's own tenth of its
    # workers takes minutes for them, eight workers of recovery half a minute.
    missed_backlog_rows: int = Field(default=1000, gt=0)
    missed_pgcr_log_file_path: Path | None = None  # a legacy log to import

    # Historical archives: a folder, or an http(s) address below which they lie. None: no archives.
    archive_source: Text | None = None
    # What lists them below an address; empty: the address itself (a server's page of the folder).
    archive_index: Text = ""

    # Models of the learned scores, some 5 MB each; on a cluster a folder that all steps share.
    cheat_model_dir: Path | None = None  # None: `models` in RAIDHUB_HOME

    # Where /metrics and /healthz are served, which ask for no key: this machine only, unless told.
    # In a container 0.0.0.0 or ::, or neither Prometheus nor a probe gets in.
    metrics_host: Listen = "127.0.0.1"
    atlas_metrics_port: Port = 8080
    hermes_metrics_port: Port = 8081
    zeus_metrics_port: Port = 8082
    relay_metrics_port: Port = 8083
    prometheus_host: Text = "localhost"
    prometheus_port: Port = 9090

    # The embedded stack. Its ports are counted up from the base, the UI first.
    raidhub_home: Path = Path(".raidhub")
    # Four files of up to 400 MB each; the steps of one run must find the same folder.
    manifest_dir: Path | None = None  # None: `manifest` in RAIDHUB_HOME
    raidhub_port_base: Port = 3000
    raidhub_simulator_args: Text = ""  # more flags, as on a command line
    raidhub_atlas_args: Text = ""
    raidhub_zeus_args: Text = ""
    postgres_bin: Path | None = Field(
        default=None, validation_alias=AliasChoices("RAIDHUB_POSTGRES_BIN")
    )
    rabbitmq_sbin: Path | None = Field(
        default=None, validation_alias=AliasChoices("RAIDHUB_RABBITMQ_SBIN")
    )

    @classmethod
    def load(cls, *, stack_env: bool = True) -> Self:
        """Settings of this process; without `stack_env` only what a person set.

        Raises ConfigurationError with one line that names each unusable variable.
        """
        try:
            given = cls(_env_file=".env")
            if not stack_env:
                return given
            return cls(_env_file=(given.raidhub_home / STACK_ENV, ".env"))
        except ValidationError as error:
            wrong = "; ".join(
                f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)
            )
            raise ConfigurationError(f"unusable setting: {wrong}") from None

    @property
    def of_history(self) -> Self:
        """The same settings with the login for Dagster's own database."""
        if self.postgres_dagster_password is None:
            return self
        login = {
            "postgres_user": self.postgres_dagster_user,
            "postgres_password": self.postgres_dagster_password,
        }
        return self.model_copy(update=login)

    @cached_property
    def api_key(self) -> str:
        """The key for Bungie's API. Raises ConfigurationError when it is not set."""
        if self.bungie_api_key is None:
            raise ConfigurationError("BUNGIE_API_KEY is not set; see example.env")
        return self.bungie_api_key.get_secret_value()

    @property
    def _zeus_base(self) -> str:
        host = f"[{self.zeus_host}]" if ":" in self.zeus_host else self.zeus_host
        return f"http://{host}:{self.zeus_port}"

    @property
    def www_base(self) -> str:
        """Base address of everything but reports: zeus, unless a person chose another."""
        return self.bungie_url_base or self._zeus_base

    @property
    def zeus_local(self) -> str:
        """Address under which this machine reaches its own zeus."""
        return _reached(self.zeus_bind)

    @property
    def metrics_local(self) -> str:
        """Address under which this machine reaches the metrics of its own processes."""
        return _reached(self.metrics_host)

    @property
    def ui_base(self) -> str:
        """Address of Dagster's UI, without a slash at its end."""
        return (self.dagster_ui_url or f"http://localhost:{self.raidhub_port_base}").rstrip("/")

    @property
    def pgcr_base(self) -> str:
        """Base address of reports: zeus, unless a person chose another."""
        return self.pgcr_url_base or self._zeus_base

    @property
    def pgcr_origin(self) -> str:
        """Who answers for reports in the end, behind zeus."""
        return self.pgcr_url_base or self.zeus_stats_url

    @cached_property
    def upstream_keys(self) -> tuple[str, ...]:
        """The keys that zeus shows to Bungie. Raises ConfigurationError when there is none."""
        given = self.zeus_api_keys.get_secret_value() if self.zeus_api_keys else ""
        return tuple(k for key in given.split(",") if (k := key.strip())) or (self.api_key,)

    @property
    def manifest_folder(self) -> Path:
        return self.manifest_dir or self.raidhub_home / "manifest"

    @property
    def cheat_model_folder(self) -> Path:
        return self.cheat_model_dir or self.raidhub_home / "models"

    @classmethod
    def secret_variables(cls) -> list[str]:
        """Variables of the environment whose values no log, list or other program may have."""
        return [n.upper() for n, field in cls.model_fields.items() if _is_secret(field.annotation)]

    def was_set(self, name: str) -> bool:
        """True when a person gave the setting `name` (lower case) instead of its default."""
        return name in self.model_fields_set


def _reached(listening: str) -> str:
    """Nobody connects to "every address": whoever listens on all of them listens on loopback."""
    return "127.0.0.1" if ip_address(listening).is_unspecified else listening


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))
