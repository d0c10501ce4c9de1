"""The only reader of the environment: frozen, typed settings, each with its meaning and default.

A section is a class; `example.env` and docs/configuration.md are made from them
(`raidhub config example`, `raidhub config docs`). Order of precedence: process environment, `.env`,
then `stack.env` of the embedded stack (written by `raidhub up`, so that commands typed beside a
running stack find it). Values are trimmed; an empty one counts as unset.
"""

import logging
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from raidhub_dagster.errors import ConfigurationError

STACK_ENV = "stack.env"  # in RAIDHUB_HOME


def _trimmed(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _no_service_link(value: Any) -> Any:
    """Kubernetes sets ZEUS_PORT=tcp://10.0.0.1:7777 where a service is called `zeus`."""
    if isinstance(value, str) and value.strip().startswith("tcp://"):
        raise ValueError("was set by Kubernetes; the pod needs enableServiceLinks: false")
    return value


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, and of unbalanced brackets
        is_address = False
    if not is_address:
        raise ValueError("is no address that begins with http:// or https:// and a host")
    return value


def _secret_address(value: SecretStr) -> SecretStr:
    _address(value.get_secret_value())
    return value


def _level(value: str) -> str:
    known = logging.getLevelNamesMapping()
    if value.upper() not in known:
        raise ValueError(f"is none of {', '.join(known).lower()}")
    return value


def _ip(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("is no IP address") from None


Text = Annotated[str, BeforeValidator(_trimmed)]
Secret = Annotated[SecretStr, BeforeValidator(_trimmed)]
Port = Annotated[
    int, BeforeValidator(_trimmed), BeforeValidator(_no_service_link), Field(ge=1, le=65535)
]
Address = Annotated[Text, AfterValidator(_address)]
SecretAddress = Annotated[Secret, AfterValidator(_secret_address)]
Level = Annotated[Text, AfterValidator(_level)]
Ip = Annotated[Text, AfterValidator(_ip)]


class _Section(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        env_file_encoding="utf-8",
        populate_by_name=True,
        allow_inf_nan=False,  # of hours and rates: no clock can add them
        hide_input_in_errors=True,  # an error goes into logs and events, and the input is a secret
    )


class Bungie(_Section):
    """Bungie's API."""

    bungie_api_key: Secret | None = Field(
        default=None,
        description="The only setting without a default. With the simulator (no ZEUS_WWW_URL and no"
        " ZEUS_STATS_URL) one is made up.",
    )
    bungie_url_base: Address | None = Field(
        default=None,
        description="What callers ask for everything but reports: zeus at ZEUS_HOST and ZEUS_PORT."
        " Set, it goes around zeus, straight to that address and without anybody's limits.",
        examples=["http://localhost:7777"],
    )
    pgcr_url_base: Address | None = Field(
        default=None, description="The same for reports.", examples=["http://localhost:7777"]
    )
    bungie_user_agent: Text = Field(
        default="RaidHub-Dagster/0.1 (+https://github.com/raidhub)",
        description="Bungie wants to know whom to call: put your own address here.",
    )


class Zeus(_Section):
    """Zeus, the proxy in front of the API."""

    zeus_host: Text = Field(default="localhost", description="Where callers find it.")
    zeus_port: Port = Field(default=7777, description="Where it listens and callers find it.")
    # Whoever reaches the port and has the key spends our budget. An address, since a name may stand
    # for several, or for another one.
    zeus_bind: Ip = Field(
        default="127.0.0.1",
        description="The address it listens on; callers from other machines, or pods, need 0.0.0.0"
        " or ::.",
    )
    zeus_www_url: Address = Field(
        default="https://www.bungie.net",
        description="Whom it asks for everything but reports. Setting this or the next one crawls"
        " that address; without both, `raidhub up` starts the simulator.",
    )
    zeus_stats_url: Address = Field(
        default="https://stats.bungie.net", description="Whom it asks for reports."
    )
    zeus_api_keys: Secret | None = Field(
        default=None,
        description="Keys it shows there, separated by commas; without any, BUNGIE_API_KEY.",
    )
    ipv6: Ip | None = Field(
        default=None,
        validation_alias=AliasChoices("IPV6", "ZEUS_IPV6"),
        description="First of its source addresses (--v6_n of them, one after another).",
        examples=["2001:db8::1000"],
    )
    # The API promises 25 a second on average over 10 s; crawlers run 40 with this burst for years
    # (docs/domain/bungie-api.md).
    zeus_stats_rate: float = Field(
        default=40.0,
        ge=0,
        description="Reports a second of one source address; 0 is no limit.",
    )
    zeus_stats_burst: float = Field(default=90.0, ge=1, description="So many of them at once.")
    zeus_www_rate: float = Field(
        default=12.0,
        ge=0,
        description="Other requests a second of one source address; 0 is no limit.",
    )
    zeus_www_burst: float = Field(default=25.0, ge=1, description="So many of them at once.")
    zeus_cache_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds for which settings, manifest, groups and profiles are answered from"
        " memory; 0 is never.",
    )


class Crawl(_Section):
    """The crawl."""

    crawl_ceiling: int = Field(
        default=100_000_000_000,
        gt=0,
        description="Ids above are bogus: a few far beyond the head were seen.",
    )
    young_report_s: float = Field(
        default=120.0,
        ge=0,
        description="A raid fetched within so many seconds of its end is fetched again, twice: some"
        " reports grow after their publication. 0 is never.",
    )
    young_first_recheck_s: float = Field(
        default=900.0, gt=0, description="So many seconds after its end the first time."
    )
    young_last_recheck_s: float = Field(
        default=172_800.0, gt=0, description="So many seconds after its end the second time."
    )
    missed_pgcr_log_file_path: Path | None = Field(
        default=None, description="A log of missed ids of the predecessor, to be imported."
    )


class Archives(_Section):
    """Historical archives (docs/domain/archives.md)."""

    archive_source: Text | None = Field(
        default=None,
        description="The folder, or the http(s) address, of the files <from>-<to>.jsonl.zst;"
        " without one there are none, but beside the simulator `raidhub up` sets"
        " RAIDHUB_HOME/archives.",
    )
    archive_index: Text = Field(
        default="",
        description="What lists them below an address; empty: the address itself.",
    )


class Queues(_Section):
    """Queues."""

    is_contest_weekend: bool = Field(
        default=False,
        description="true puts every topic on its contest number of workers; else the definitions"
        " tell when.",
    )
    player_fresh_h: float = Field(
        default=24.0, ge=0, description="Hours for which nobody asks for a crawled player again."
    )
    clan_fresh_h: float = Field(
        default=3.0, ge=0, description="Hours for which nobody asks for a crawled clan again."
    )


class CheatChecks(_Section):
    """Cheat checks and learned scores (docs/domain/cheat-learning.md)."""

    cheat_version: Text | None = Field(
        default=None,
        description="Version of the rules, a file of raidhub_dagster/cheat_detection/heuristics;"
        " empty: the release's. Another one is for comparing.",
    )
    cheat_model_dir: Path | None = Field(
        default=None,
        description="Where trained models lie, some 5 MB each; by default `models` in RAIDHUB_HOME."
        " On a cluster all steps share it.",
    )


class Alerts(_Section):
    """Alerts: addresses of Discord webhooks; without one the alert is a line of the log."""

    atlas_webhook_url: SecretAddress | None = Field(
        default=None, description="What needs a person: the crawl, the stream, failed runs."
    )
    hades_webhook_url: SecretAddress | None = Field(
        default=None, description="Summaries of recovery."
    )
    cheat_check_webhook_url: SecretAddress | None = Field(
        default=None, description="Flagged raids."
    )
    nemesis_webhook_url: SecretAddress | None = Field(
        default=None, description="Risen cheat levels and raids taken off the boards."
    )
    gm_report_webhook_url: SecretAddress | None = Field(
        default=None,
        description="Not Discord's: who gets a report of a player who rises to level 2 or above.",
    )
    gm_report_webhook_auth: Secret | None = Field(
        default=None, description="What such a report carries as authorization."
    )
    alerts_role_id: Text | None = Field(
        default=None,
        validation_alias=AliasChoices("ALERTS_ROLE_ID", "DISCORD_ALERTS_ROLE_ID"),
        description="The role that grave alerts mention.",
    )
    dagster_ui_url: Address | None = Field(
        default=None,
        description="Where people reach Dagster's UI: alerts of failed runs link there.",
        examples=["http://localhost:3000"],
    )
    repository_url: Address | None = Field(
        default=None,
        description="Where the source is read on the web; without it assets link to local files.",
    )
    repository_branch: Text = Field(default="main", description="Which branch is read there.")


class Recovery(_Section):
    """Recovery."""

    # The crawl's own tenth of its workers takes minutes for them, eight workers of recovery half a
    # minute.
    missed_backlog_rows: int = Field(
        default=1000, gt=0, description="More due missed ids start a run of recovery at once."
    )


class Postgres(_Section):
    """PostgreSQL: with a host set, that server is used instead of a private one."""

    postgres_host: Text = Field(default="localhost", description="The server.")
    postgres_port: Port = Field(default=5432, description="Its port.")
    postgres_user: Text | None = Field(
        default=None, description="The owner of the tables; by default the user of the process."
    )
    postgres_password: Secret | None = Field(default=None, description="The owner's password.")
    postgres_db: Text = Field(
        default="raidhub", description="The database; `raidhub migrate` makes it."
    )
    postgres_readonly_user: Text = Field(
        default="readonly", description="The role of outside readers; `raidhub migrate` makes it."
    )
    postgres_readonly_password: Secret | None = Field(
        default=None, description="Without one that role is made without login."
    )
    postgres_writer_user: Text = Field(
        default="raidhub_writer",
        description="The role of processes that read and write rows and make no table; `raidhub"
        " migrate` makes it.",
    )
    postgres_writer_password: Secret | None = Field(
        default=None,
        description="With one it may log in, and then its name and password are the POSTGRES_USER"
        " and POSTGRES_PASSWORD of everything but `raidhub migrate`.",
    )
    postgres_dagster_user: Text = Field(
        default="raidhub_dagster", description="The role of Dagster's own database."
    )
    postgres_dagster_password: Secret | None = Field(
        default=None,
        description="With one Dagster's own database belongs to that role, else to whoever"
        " migrates.",
    )


class Rabbitmq(_Section):
    """RabbitMQ: with a host set, that server is used instead of a private one."""

    rabbitmq_host: Text = Field(default="localhost", description="The server.")
    rabbitmq_port: Port = Field(default=5672, description="Its port for AMQP.")
    rabbitmq_ui_port: Port = Field(default=15672, description="Its management API.")
    rabbitmq_user: Text = Field(default="guest", description="The user of all our processes.")
    rabbitmq_password: Secret = Field(default=SecretStr("guest"), description="Its password.")


class Clickhouse(_Section):
    """ClickHouse: with a host set, that server is used instead of a private one."""

    clickhouse_host: Text = Field(default="localhost", description="The server.")
    clickhouse_port: Port = Field(
        default=9000, description="Its native port, for programs of others: ours speak HTTP."
    )
    clickhouse_http_port: Port = Field(default=8123, description="Its port for HTTP.")
    clickhouse_user: Text = Field(default="default", description="The user of all our processes.")
    clickhouse_password: Secret = Field(default=SecretStr(""), description="Its password.")
    clickhouse_db: Text = Field(
        default="default", description="The database; `raidhub migrate` makes it."
    )


class Stack(_Section):
    """The stack of `raidhub up`."""

    raidhub_home: Path = Field(
        default=Path(".raidhub"), description="Where its data, logs and stack.env are."
    )
    manifest_dir: Path | None = Field(
        default=None,
        description="The game's manifests, up to four files of 400 MB each; by default `manifest`"
        " in RAIDHUB_HOME. The steps of one run must find the same folder.",
    )
    raidhub_port_base: Port = Field(
        default=3000,
        description="The Dagster UI is here, all other services on the thirteen ports after it.",
    )
    raidhub_simulator_args: Text = Field(
        default="",
        description="More flags for `raidhub simulate`, as on a command line.",
        examples=["--rate 100"],
    )
    raidhub_atlas_args: Text = Field(
        default="", description="The same for `raidhub atlas`.", examples=["--workers 50"]
    )
    raidhub_zeus_args: Text = Field(
        default="", description="The same for `raidhub zeus`.", examples=["--v6_n 4"]
    )
    postgres_bin: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("RAIDHUB_POSTGRES_BIN"),
        description="Folder of PostgreSQL's programs, where they are not in Debian's place.",
        examples=["/usr/lib/postgresql/17/bin"],
    )
    rabbitmq_sbin: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("RAIDHUB_RABBITMQ_SBIN"),
        description="The same for RabbitMQ.",
        examples=["/usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8/sbin"],
    )


class Monitoring(_Section):
    """Metrics and logs."""

    metrics_host: Ip = Field(
        default="127.0.0.1",
        description="The address on which processes serve /metrics and /healthz, which ask for no"
        " key; Prometheus on another machine, and the probes of a cluster, need 0.0.0.0 or ::.",
    )
    atlas_metrics_port: Port = Field(
        default=8080,
        description="/metrics and /healthz of atlas; `raidhub up` counts these ports up from"
        " RAIDHUB_PORT_BASE.",
    )
    hermes_metrics_port: Port = Field(default=8081, description="The same of hermes.")
    zeus_metrics_port: Port = Field(default=8082, description="The same of zeus.")
    relay_metrics_port: Port = Field(
        default=8083, description="The same of a hermes that runs the relay alone."
    )
    prometheus_host: Text = Field(default="localhost", description="Where Prometheus is.")
    prometheus_port: Port = Field(default=9090, description="Its port.")
    log_level: Level = Field(default="info", description="debug, info, warning, error or critical.")
    environment: Text = Field(
        default="development", description="What this installation is called."
    )


class Settings(
    Bungie,
    Zeus,
    Crawl,
    Archives,
    Queues,
    CheatChecks,
    Alerts,
    Recovery,
    Postgres,
    Rabbitmq,
    Clickhouse,
    Stack,
    Monitoring,
):
    """Every setting, by the name of its environment variable in lower case."""

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {k: v for k, v in given.items() if not (isinstance(v, str) and not v.strip())}

    @classmethod
    def names(cls, field: str) -> tuple[str, ...]:
        """The variables that set `field`, the one that is written first."""
        alias = cls.model_fields[field].validation_alias
        given = alias.choices if isinstance(alias, AliasChoices) else ()
        return tuple(dict.fromkeys((*map(str, given), field.upper())))

    @classmethod
    def load(cls, *, stack_env: bool = True) -> Self:
        """Settings of this process; without `stack_env` only what a person set.

        Raises ConfigurationError with one line that names each unusable variable.
        """
        try:
            return cls.read(stack_env=stack_env)
        except ValidationError as error:
            raise ConfigurationError(f"unusable setting: {'; '.join(unusable(error))}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f".env or {STACK_ENV} cannot be read: {error}") from None

    @classmethod
    def read(cls, *, stack_env: bool = True) -> Self:
        """`load` for callers that handle pydantic's ValidationError and errors of files."""
        given = cls(_env_file=".env")
        if not stack_env:
            return given
        return cls(_env_file=(given.raidhub_home / STACK_ENV, ".env"))

    @cached_property
    def api_key(self) -> str:
        """The key for Bungie's API. Raises ConfigurationError when it is not set."""
        if self.bungie_api_key is None:
            raise ConfigurationError("BUNGIE_API_KEY is not set; see example.env")
        return self.bungie_api_key.get_secret_value()

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

    @property
    def roles(self) -> dict[str, str]:
        """Variable -> name of the role, of those that whoever migrates gives something to."""
        return {
            "POSTGRES_READONLY_USER": self.postgres_readonly_user,
            "POSTGRES_WRITER_USER": self.postgres_writer_user,
            "POSTGRES_DAGSTER_USER": self.postgres_dagster_user,
        }

    @classmethod
    def secret_variables(cls) -> list[str]:
        """Variables of the environment whose values no log, list or other program may have."""
        return [n.upper() for n, field in cls.model_fields.items() if _is_secret(field.annotation)]

    def was_set(self, name: str) -> bool:
        """True when a person gave the setting `name` (lower case) instead of its default."""
        return name in self.model_fields_set


# In the order of example.env: what nobody gets around first.
SECTIONS: tuple[type[_Section], ...] = Settings.__bases__


def _reached(listening: str) -> str:
    """Nobody connects to "every address": whoever listens on all of them listens on loopback."""
    return "127.0.0.1" if ip_address(listening).is_unspecified else listening


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def unusable(error: ValidationError) -> list[str]:
    """What is wrong with each variable, a line each and without its value."""
    return [
        f"{str(e['loc'][0]).upper()}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_input=False, include_url=False)
    ]
