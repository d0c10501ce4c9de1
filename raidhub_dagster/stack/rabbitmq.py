"""A private RabbitMQ node from the system's programs: epmd, the node, their files and health.

Debian's package brings a service and a user of its own. Every path, port and cookie is given here,
so that neither the machine's broker nor its epmd is touched.
"""

import re
import socket
from dataclasses import dataclass
from pathlib import Path

import pika
from pika.exceptions import AMQPError

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, Launch, UnhealthyError, find_program, reach

_DEBIAN = Path("/usr/lib/rabbitmq/lib")

# Erlang's schedulers spin while they wait, for latency; on two shared cores that is our own time.
# Whoever reaches the port between nodes and has the cookie runs code in the node: loopback only.
_ERLANG_OPTIONS = (
    "-noinput +sbwt none +sbwtdcpu none +sbwtdio none"
    f" -kernel inet_dist_use_interface {{{HOST.replace('.', ',')}}}"
)


@dataclass(frozen=True)
class EpmdServer:
    """Erlang's name server, which a node asks at start; Debian's Erlang starts none by itself."""

    folder: Path
    port: int
    name: str = "epmd"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def launch(self) -> Launch:
        binaries = sorted(Path("/usr/lib/erlang").glob("erts-*/bin"), reverse=True)
        epmd = find_program("epmd", *binaries)
        return Launch((epmd, "-address", HOST, "-port", str(self.port)), self.folder)

    def probe(self) -> None:
        reach(HOST, self.port)


@dataclass(frozen=True)
class RabbitmqServer:
    """The node that `settings` name, its files below `folder`."""

    settings: Settings
    folder: Path
    epmd_port: int
    distribution_port: int
    name: str = "rabbitmq"

    def prepare(self) -> None:
        """Writes configuration and plugins; safe to run again."""
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n", "utf-8")
        (self.folder / "rabbitmq.conf").write_text(_configuration(self.settings), "utf-8")
        (self.folder / "rabbitmq.conf").chmod(0o600)  # holds the password

    def launch(self) -> Launch:
        folder = self.folder.resolve()
        return Launch(
            command=(find_server(self.settings),),
            folder=folder,
            environment={
                "HOME": str(folder / "home"),  # holds the Erlang cookie
                "ERL_EPMD_ADDRESS": HOST,
                "ERL_EPMD_PORT": str(self.epmd_port),
                # A name is unique per epmd, and ours serves this node only. It names the folder of
                # the messages too, so it may depend neither on a port nor on where we are.
                "RABBITMQ_NODENAME": "raidhub@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": HOST,
                "RABBITMQ_NODE_PORT": str(self.settings.rabbitmq_port),
                "RABBITMQ_DIST_PORT": str(self.distribution_port),
                "RABBITMQ_CONF_ENV_FILE": "/dev/null",
                "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(folder / "log"),
                "RABBITMQ_PID_FILE": str(folder / "pid"),
                "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
                "RABBITMQ_PLUGINS_EXPAND_DIR": str(folder / "plugins"),
                "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
                # With input "allowed" the start script becomes the node instead of waiting for it,
                # so that a signal, and the death of our starter, reach the node itself.
                "RABBITMQ_ALLOW_INPUT": "1",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_OPTIONS,
            },
            stop_wait_s=30,
        )

    def probe(self) -> None:
        host, port = self.settings.rabbitmq_host, self.settings.rabbitmq_port
        reach(host, port)
        credentials = pika.PlainCredentials(
            self.settings.rabbitmq_user, self.settings.rabbitmq_password.get_secret_value()
        )
        address = pika.ConnectionParameters(
            host, port, credentials=credentials, socket_timeout=5, blocked_connection_timeout=5
        )
        try:
            pika.BlockingConnection(address).close()
        except (AMQPError, OSError, socket.gaierror) as error:
            reason = str(error) or type(error).__name__
            raise UnhealthyError(f"{reason} on {host}:{port}") from None


def find_server(settings: Settings) -> str:
    """RAIDHUB_RABBITMQ_SBIN, else Debian's newest version, else PATH. Raises ConfigurationError.

    Debian's `/usr/sbin/rabbitmq-server` changes to the user of the system's service: not that one.
    """
    if settings.rabbitmq_sbin is not None:
        path = settings.rabbitmq_sbin / "rabbitmq-server"
        if not path.exists():
            raise ConfigurationError(f"RAIDHUB_RABBITMQ_SBIN: there is no {path}")
        return str(path)
    found = [p for p in _DEBIAN.glob("rabbitmq_server-*/sbin") if p.is_dir()]
    return find_program("rabbitmq-server", *sorted(found, key=_version, reverse=True))


def _version(sbin: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", sbin.parent.name)]


def _configuration(settings: Settings) -> str:
    return f"""\
# Written by `raidhub up` at each start: changes made here are lost.
listeners.tcp.1 = {HOST}:{settings.rabbitmq_port}
management.tcp.ip = {HOST}
management.tcp.port = {settings.rabbitmq_ui_port}
default_user = {settings.rabbitmq_user}
default_pass = {settings.rabbitmq_password.get_secret_value()}
# The supervisor keeps and rotates what the node prints.
log.console = true
log.console.level = info
log.file = false
# Publishers are held back below this much free disk; the default of 50 MB is gone in seconds.
disk_free_limit.absolute = 500MB
"""
