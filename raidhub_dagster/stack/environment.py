"""Addresses and secrets of a stack: what nobody set is chosen here and kept in `stack.env`.

Secrets are made once and stay; addresses follow RAIDHUB_PORT_BASE at each start.
"""

import os
import secrets
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dotenv import dotenv_values

from raidhub_dagster.settings import STACK_ENV, Settings
from raidhub_dagster.stack.process import HOST

# Counted up from RAIDHUB_PORT_BASE; the order is what people remember, so new ones go to the end.
_PORTS = (
    "dagster-webserver",
    "postgres",
    "rabbitmq",
    "rabbitmq-ui",
    "clickhouse",
    "simulator",
    "dagster-code",
    "atlas",
    "hermes",
    "relay",
    "epmd",
    "rabbitmq-distribution",
    "zeus",
    "zeus-metrics",
)
# Loopback addresses that stand for our IPv6 ones where the simulator plays Bungie: Linux takes any
# of 127.0.0.0/8 as a source, and each has a budget of its own.
_SIMULATED_SOURCES = "127.0.1.1"


@dataclass(frozen=True)
class Environment:
    """One stack: `given` is what a person set, everything else follows from it."""

    given: Settings

    @cached_property
    def home(self) -> Path:
        return self.given.raidhub_home.resolve()

    @property
    def archives(self) -> Path:
        """Where archives are looked for when the simulator plays Bungie and nobody set a place."""
        return self.home / "archives"

    @cached_property
    def settings(self) -> Settings:
        """What every process of the stack sees."""
        return Settings(_env_file=(self.home / STACK_ENV, ".env"))

    @cached_property
    def port_base(self) -> int:
        """What a person set, now or when the stack started, so that `status` needs no variable."""
        kept = dotenv_values(self.home / STACK_ENV).get("RAIDHUB_PORT_BASE")
        if kept is None or self.given.was_set("raidhub_port_base"):
            return self.given.raidhub_port_base
        return int(kept)

    def port(self, name: str) -> int:
        """The port reserved for `name`."""
        return self.port_base + _PORTS.index(name)

    @property
    def has_postgres(self) -> bool:
        return not self.given.was_set("postgres_host")

    @property
    def has_rabbitmq(self) -> bool:
        return not self.given.was_set("rabbitmq_host")

    @property
    def has_clickhouse(self) -> bool:
        return not self.given.was_set("clickhouse_host")

    @property
    def has_zeus(self) -> bool:
        """A person who set where callers ask has a proxy of their own, or wants none."""
        return not self._is_set("zeus_host", "bungie_url_base", "pgcr_url_base")

    @property
    def has_simulator(self) -> bool:
        """Without an address of the API we play it ourselves: nobody crawls Bungie by accident."""
        return self.has_zeus and not self._is_set("zeus_www_url", "zeus_stats_url")

    def _is_set(self, *names: str) -> bool:
        return any(self.given.was_set(name) for name in names)

    def make_home(self) -> None:
        """Open to walkers, because PostgreSQL may run as another user; the files are closed."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o711)

    def write(self, without: Collection[str] = ()) -> None:
        """Chooses what nobody set and writes `stack.env`, readable by its owner only.

        A stack `without` zeus has callers that ask the API themselves.
        """
        self.make_home()
        path = self.home / STACK_ENV
        kept = dotenv_values(path) if path.exists() else {}
        path.touch(mode=0o600)
        chosen = {"RAIDHUB_PORT_BASE": str(self.port_base)} | self._chosen(kept, without)
        if "ARCHIVE_SOURCE" in chosen:
            self.archives.mkdir(exist_ok=True)
        lines = [f"{name}={value}" for name, value in chosen.items()]
        heading = "# Written by `raidhub up`; what .env or the environment say wins over it.\n"
        path.write_text(heading + "\n".join(lines) + "\n", "utf-8")
        vars(self).pop("settings", None)

    def variables(self) -> dict[str, str]:
        """`stack.env` and where Dagster finds its instance: the environment of every process."""
        written = dotenv_values(self.home / STACK_ENV)
        return {name: value for name, value in written.items() if value is not None} | {
            "RAIDHUB_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
        }

    def exports(self) -> str:
        """Lines for `eval` in a shell; those of libpq too, for psql and pg_dump."""
        settings = self.settings
        libpq = {
            "PGHOST": settings.postgres_host,
            "PGPORT": str(settings.postgres_port),
            "PGDATABASE": settings.postgres_db,
        }
        if settings.postgres_user:
            libpq["PGUSER"] = settings.postgres_user
        if settings.postgres_password:
            libpq["PGPASSWORD"] = settings.postgres_password.get_secret_value()
        return "\n".join(
            f"export {name}={shlex.quote(value)}"
            for name, value in {**self.variables(), **libpq}.items()
        )

    def _chosen(self, kept: dict[str, str | None], without: Collection[str]) -> dict[str, str]:
        def secret(name: str) -> str:
            return kept.get(name) or secrets.token_hex(16)

        chosen: dict[str, str] = {}
        if self.has_postgres:
            chosen |= {
                "POSTGRES_HOST": HOST,
                "POSTGRES_PORT": str(self.port("postgres")),
                "POSTGRES_USER": "raidhub",
                "POSTGRES_PASSWORD": secret("POSTGRES_PASSWORD"),
            }
        if self.has_rabbitmq:
            chosen |= {
                "RABBITMQ_HOST": HOST,
                "RABBITMQ_PORT": str(self.port("rabbitmq")),
                "RABBITMQ_UI_PORT": str(self.port("rabbitmq-ui")),
            }
        if self.has_clickhouse:
            chosen |= {
                "CLICKHOUSE_HOST": HOST,
                "CLICKHOUSE_HTTP_PORT": str(self.port("clickhouse")),
            }
        www, stats = self.given.zeus_www_url, self.given.zeus_stats_url
        if self.has_simulator:
            www = stats = f"http://{HOST}:{self.port('simulator')}"
            chosen |= {
                "ZEUS_WWW_URL": www,
                "ZEUS_STATS_URL": stats,
                "IPV6": _SIMULATED_SOURCES,
                "BUNGIE_API_KEY": secret("BUNGIE_API_KEY"),
                "ARCHIVE_SOURCE": str(self.archives),
            }
        if self.has_zeus and "zeus" not in without:
            chosen |= {"ZEUS_HOST": self.given.zeus_local, "ZEUS_PORT": str(self.port("zeus"))}
        elif self.has_zeus:
            chosen |= {"BUNGIE_URL_BASE": www, "PGCR_URL_BASE": stats}
        metrics = {"atlas": "atlas", "hermes": "hermes", "relay": "relay", "zeus": "zeus-metrics"}
        for process, port in metrics.items():
            chosen[f"{process}_metrics_port".upper()] = str(self.port(port))
        return {
            name: value for name, value in chosen.items() if not self.given.was_set(name.lower())
        }


def is_ours(pid: int, home: Path) -> bool:
    """True when process `pid` was started by the stack in `home` (its environment says so)."""
    try:
        found = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return False
    return f"{STACK_MARK}={home}".encode() in found.split(b"\0")


STACK_MARK = "RAIDHUB_STACK"  # in the environment of every process of a stack: its home


def leftovers(home: Path) -> list[int]:
    """Processes of the stack in `home`, other than this one."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [pid for pid in pids if pid != os.getpid() and is_ours(pid, home)]
