"""One server of ours as a process: how it is started, tied to its starter, watched and ended.

What a server needs to run (files, options, its own health question) is told by the module named
after it; who starts several of them is the supervisor, or a fixture of the tests.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from raidhub_dagster.errors import ConfigurationError, TransientError
from raidhub_dagster.settings import Settings

HOST = "127.0.0.1"

Result = TypeVar("Result")


class UnhealthyError(TransientError):
    """A server does not do its work (yet); the message is one line that says why."""


@dataclass(frozen=True)
class Launch:
    """How to start one process.

    `stop_signal` asks it to finish its work, `stop_wait_s` is how long that may take.
    """

    command: tuple[str, ...]
    folder: Path  # its working directory
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None  # another user to run as, only ever set when we are root
    stop_signal: signal.Signals = signal.SIGTERM
    stop_wait_s: int = 15
    # Else it has no use for our secrets and inherits none: PostgreSQL runs as another user, who may
    # read what it inherited.
    is_ours: bool = False

    def tied_command(self) -> list[str]:
        """The command behind `setpriv`: the kernel kills it when its starter dies, however it dies.

        The tie is set after the change of user (a change of user clears it) and survives `exec`,
        so each command must end as the server itself, not as a shell that waits for one.
        """
        become: list[str] = []
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            become = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        tie = [find_program("setpriv"), *become, "--pdeathsig=KILL", "--"]
        if self.is_ours:
            return [*tie, *self.command]
        forget = [f"--unset={name}" for name in Settings.secret_variables()]
        return [*tie, find_program("env"), *forget, *self.command]


class Server(Protocol):
    """What can be started and asked; implementations stand in the modules beside this one."""

    @property
    def name(self) -> str: ...

    def prepare(self) -> None:
        """Makes or mends its files; safe to run again. Raises ConfigurationError."""

    def launch(self) -> Launch: ...

    def probe(self) -> None:
        """Returns when it answers. Raises UnhealthyError with the reason."""


def find_program(name: str, *folders: Path) -> str:
    """Path of `name` in `folders` or PATH. Raises ConfigurationError when it is nowhere."""
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(f"the program {name} is not installed; run ./bootstrap.sh")
    return found


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """True when a server on this machine cannot listen on `port`."""
    with socket.socket() as probe:
        # Connections of a stack that just stopped linger for a minute; they hinder no server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def reach(host: str, port: int) -> None:
    """Raises UnhealthyError when nothing accepts connections at the address."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise UnhealthyError(f"{reason} on {host}:{port}") from None


def wait_until(
    question: Callable[[], None],
    *,
    limit_s: float,
    pause_s: float = 0.1,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Asks `question` until it raises no UnhealthyError; past `limit_s` raises the last one."""
    end = clock() + limit_s
    while True:
        try:
            return question()
        except UnhealthyError:
            if clock() >= end:
                raise
        sleep(pause_s)


def ask_all(
    questions: Mapping[str, Callable[[], Result]], *, limit_s: float
) -> dict[str, Result | TransientError]:
    """Answers to all questions, asked at the same time; what a question raises is its answer.

    Whatever has not answered after `limit_s` gets a TransientError that says so, and is left to
    itself: its thread does not keep the process from ending.
    """
    answers: dict[str, Result | TransientError] = {}

    def ask(name: str, question: Callable[[], Result]) -> None:
        try:
            answers[name] = question()
        except TransientError as error:
            answers[name] = error
        except Exception as error:  # noqa: BLE001  drivers raise what they like
            said = " ".join(str(error).split()) or type(error).__name__
            answers[name] = TransientError(said)

    threads = {
        name: threading.Thread(target=ask, args=(name, question), name=name, daemon=True)
        for name, question in questions.items()
    }
    for thread in threads.values():
        thread.start()
    ends_at = time.monotonic() + limit_s
    for thread in threads.values():
        thread.join(max(0.0, ends_at - time.monotonic()))
    late = TransientError(f"no answer within {limit_s:g} s")
    return {name: answers.get(name, late) for name in questions}


@contextmanager
def running(server: Server, log: Path, *, limit_s: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Starts `server` in the foreground, yields when it answers, ends it at the end.

    Raises UnhealthyError when it does not answer within `limit_s`, with the last lines it wrote.
    """
    server.prepare()
    launch = server.launch()
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  a command of ours
            launch.tied_command(),
            cwd=launch.folder,
            env={**os.environ, **launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is for the starter, which stops it
        )

    def question() -> None:
        if process.poll() is not None:
            tail = " / ".join(log.read_text("utf-8", "replace").splitlines()[-5:])
            raise ConfigurationError(f"{server.name} ended with {process.returncode}: {tail}")
        server.probe()

    try:
        wait_until(question, limit_s=limit_s)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(launch.stop_signal)
        try:
            process.wait(launch.stop_wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
