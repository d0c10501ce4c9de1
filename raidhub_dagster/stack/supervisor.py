"""supervisord as the keeper of a stack's processes: its configuration, its start, its answers.

It restarts what falls, with growing pauses, keeps and rotates what processes print, and ends them
in reverse order. Every child is tied to it, and it is tied to nobody unless asked to be.
"""

import http.client
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from raidhub_dagster.errors import TransientError
from raidhub_dagster.stack.environment import STACK_MARK
from raidhub_dagster.stack.process import Server, UnhealthyError, find_program, wait_until

_SOCKET_PATH_BYTES = 90  # the kernel takes 107, and supervisord adds its pid while it makes one

_GONE = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class State:
    """What supervisord says about one process: STOPPED, STARTING, RUNNING, BACKOFF, FATAL, ..."""

    name: str
    state: str
    description: str
    pid: int


@dataclass(frozen=True)
class Supervisor:
    """The supervisord of the stack in `home`."""

    home: Path

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def socket(self) -> Path:
        path = self.home / "supervisor.sock"
        if len(str(path)) < _SOCKET_PATH_BYTES:
            return path
        digest = sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"raidhub-{os.getuid()}-{digest}.sock"

    def write(self, servers: Sequence[Server], environment: Mapping[str, str]) -> None:
        """Renders `supervisord.conf`; `servers` in the order of their start."""
        self.logs.mkdir(parents=True, exist_ok=True)
        everyone = {**environment, STACK_MARK: str(self.home), "PYTHONUNBUFFERED": "1"}
        parts = [
            _section(
                "supervisord",
                nodaemon="true",  # whoever starts it puts it into the background
                logfile=self.logs / "supervisord.log",
                logfile_maxbytes="10MB",
                logfile_backups=2,
                pidfile=self.home / "supervisord.pid",
                environment=_pairs(everyone),
            ),
            _section("unix_http_server", file=self.socket, chmod="0700"),
            # supervisord finds its own interface by this name.
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
        ]
        parts += [self._program(server, place) for place, server in enumerate(servers, start=1)]
        path = self.home / "supervisord.conf"
        path.touch(mode=0o600)  # holds secrets
        path.write_text("\n".join(parts), "utf-8")

    def _program(self, server: Server, place: int) -> str:
        launch = server.launch()
        return _section(
            f"program:{server.name}",
            command=shlex.join(launch.tied_command()),
            directory=launch.folder,
            environment=_pairs(launch.environment),
            priority=place,  # ended in reverse
            autostart="false",  # `up` starts each when those before it answer
            autorestart="true",
            startsecs=2,
            startretries=100,  # a pause of 1, 2, 3 ... s between them: for more than an hour
            stopsignal=launch.stop_signal.name.removeprefix("SIG"),
            stopwaitsecs=launch.stop_wait_s,
            killasgroup="true",
            redirect_stderr="true",
            stdout_logfile=self.logs / f"{server.name}.log",
            stdout_logfile_maxbytes="20MB",
            stdout_logfile_backups=3,
        )

    def start(self, *, tied: bool) -> subprocess.Popen[bytes]:
        """Starts supervisord and waits until it answers; `tied`, it dies with this process."""
        self.socket.unlink(missing_ok=True)  # of one that was killed
        tie = [find_program("setpriv"), "--pdeathsig=KILL", "--"] if tied else []
        configuration = str(self.home / "supervisord.conf")
        with (self.logs / "supervisord.out").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  a command of ours
                [
                    *tie,
                    sys.executable,
                    "-m",
                    "raidhub_dagster.stack.supervisord",
                    "-c",
                    configuration,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                start_new_session=True,
            )

        def question() -> None:
            if self.pid() is None:
                raise UnhealthyError(f"supervisord does not answer; see {output.name}")

        wait_until(question, limit_s=20)
        return process

    def pid(self) -> int | None:
        """Supervisord's own process; None when none answers."""
        try:
            pid: int = self._ask("getPID")
        except _GONE:
            return None
        return pid

    def states(self) -> dict[str, State]:
        """By name; empty when supervisord is not there."""
        try:
            return {
                one["name"]: State(
                    one["name"], one["statename"], one["description"] or one["spawnerr"], one["pid"]
                )
                for one in self._ask("getAllProcessInfo")
            }
        except _GONE:
            return {}

    def running(self) -> dict[str, State]:
        """`states` of a stack that is there. Raises TransientError when none runs here."""
        states = self.states()
        if not states:
            raise TransientError("the stack is not running; start it with: raidhub up")
        return states

    def add_processes(self) -> None:
        """Takes in those of the configuration that it does not know yet; touches no other."""
        ((added, _changed, _removed),) = self._ask("reloadConfig")
        for name in added:
            self._ask("addProcessGroup", name)

    def start_process(self, name: str) -> None:
        self._ask("startProcess", name, False)

    def stop_process(self, name: str) -> None:
        """Returns when it has ended; `start_process` starts it again."""
        self._ask("stopProcess", name, True)

    def shut_down(
        self, *, at_once: Collection[str] = (), sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Ends all processes in reverse order, then itself; returns when it is gone.

        Those of `at_once` do not wait for their turn.
        """
        pid = self.pid()
        if pid is None:
            return
        for name, state in self.states().items():
            if name in at_once and state.state == "RUNNING":
                self._ask("stopProcess", name, False)
        self._ask("shutdown")
        while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
            sleep(0.1)

    def _ask(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(serverurl=f"unix://{self.socket}")
        # The address means nothing: the transport knows the socket.
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _section(name: str, **options: object) -> str:
    lines = [f"{key} = {_escaped(value)}" for key, value in options.items() if value != ""]
    return "\n".join([f"[{name}]", *lines, ""])


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")  # supervisord expands %(name)s


def _pairs(environment: Mapping[str, str]) -> str:
    quoted = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in environment.items()
    )
    return ",".join(f'{name}="{value}"' for name, value in quoted)
