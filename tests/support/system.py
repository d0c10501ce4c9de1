"""The whole system in a folder of its own: started by its own stack, watched, killed, compared."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from raidhub_dagster.settings import STACK_ENV, Settings
from raidhub_dagster.stack.process import find_program, is_taken
from raidhub_dagster.stack.supervisor import Supervisor
from raidhub_dagster.storage.postgres import connect
from tests.support.typed import typed

FIRST_ID = 16_790_000_001
DAGSTER = ("dagster-webserver", "dagster-daemon", "dagster-code")


def free_base() -> int:
    """The first of fourteen ports in a row that nobody has."""
    for base in range(21_000 + os.getpid() % 500 * 20, 32_000, 20):
        if not any(is_taken(base + n) for n in range(14)):
            return base
    raise AssertionError("no fourteen free ports in a row")


class System:
    """A running stack without Dagster."""

    def __init__(self, home: Path) -> None:
        self.supervisor = Supervisor(home)
        self.settings = Settings(_env_file=home / STACK_ENV)
        self.simulator = self.settings.pgcr_origin

    def pid(self, name: str) -> int:
        """0 when it does not run."""
        return self.supervisor.states()[name].pid

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.pid(name))

    def kill(self, name: str) -> bool:
        """`kill -9`; False when it was not running."""
        pid = self.pid(name)
        if pid:
            os.kill(pid, signal.SIGKILL)
        return bool(pid)

    def stop(self, name: str) -> None:
        """Orderly, and returns when it has ended; nothing starts it again but `start`."""
        self.supervisor.stop_process(name)

    def start(self, name: str) -> None:
        self.supervisor.start_process(name)

    def log(self, name: str) -> str:
        """What the process wrote so far."""
        return (self.supervisor.logs / f"{name}.log").read_text("utf-8", "replace")

    def health(self, name: str) -> dict[str, str]:
        """Checks of a process' /healthz, each "ok" or its reason; empty when it does not answer."""
        answer = self._ask_health(name)
        checks: dict[str, str] = {} if answer is None else answer.json()["checks"]
        return checks

    def is_well(self, name: str) -> bool:
        """True when /healthz says that the process does its work."""
        answer = self._ask_health(name)
        return answer is not None and answer.ok

    def _ask_health(self, name: str) -> requests.Response | None:
        port = getattr(self.settings, f"{name}_metrics_port")
        try:
            return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
        except requests.ConnectionError:
            return None

    def requests_seen(self, endpoint: str) -> int:
        """Requests at the simulator since its start: "report" or "other"; refused ones too."""
        text = requests.get(f"{self.simulator}/metrics", timeout=60).text
        pattern = rf'^simulator_requests_total{{endpoint="{endpoint}",.*}} (\S+)$'
        return int(sum(float(n) for n in re.findall(pattern, text, re.MULTILINE)))

    def ask(self, path: str, **body: Any) -> Any:
        """What the simulator's control answers, once it is up."""
        answer = requests.request(
            "POST" if body else "GET", f"{self.simulator}{path}", json=body or None, timeout=60
        )
        answer.raise_for_status()
        return answer.json()

    def raidhub(
        self, *arguments: object, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`raidhub ...`, typed in the folder of the stack."""
        home = self.supervisor.home
        environment = {**os.environ, "RAIDHUB_HOME": str(home)}
        return typed(*arguments, folder=home.parent, environment=environment, timeout_s=timeout_s)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with (
            closing(connect(self.settings, "pytest")) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return cursor.fetchall()

    def execute(self, statement: str) -> None:
        with (
            closing(connect(self.settings, "pytest")) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)

    def number(self, statement: str) -> int:
        return int(self.rows(statement)[0][0])


def wait_for(
    what: str, question: Callable[[], bool], *, limit_s: float, pause_s: float = 0.5
) -> None:
    """Returns when `question` is true. Fails naming `what` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not question():
        assert time.monotonic() < deadline, f"after {limit_s:.0f} s still not: {what}"
        time.sleep(pause_s)


@contextmanager
def system(
    folder: Path,
    *,
    simulator: str,
    atlas: str | None = None,
    without: Collection[str] = DAGSTER,
    limit_s: float = 180,
    **variables: str,
) -> Iterator[System]:
    """A stack without Dagster, and without atlas when there are no arguments for it.

    It must be up within `limit_s`. `variables` are of the environment. All of it ends with the
    block, or with this process.
    """
    folder.chmod(0o711)  # PostgreSQL's other user must be able to walk in
    environment = {
        **{k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields},
        "RAIDHUB_PORT_BASE": str(free_base()),
        "RAIDHUB_SIMULATOR_ARGS": f"--cheaters 0 {simulator}",
        "RAIDHUB_ATLAS_ARGS": atlas or "",
        **variables,
    }
    command = [find_program("setpriv"), "--pdeathsig=TERM", "--", sys.executable, "-m"]
    command += ["raidhub_dagster", "up", "--foreground"]
    for name in (*without, *(() if atlas else ("atlas",))):
        command += ["--without", name]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_for(
            "the stack is up",
            lambda: "Dagster:" in (folder / "up.log").read_text() or process.poll() is not None,
            limit_s=limit_s,
        )
        assert process.poll() is None, (folder / "up.log").read_text()
        yield System(folder / ".raidhub")
    finally:
        process.terminate()
        process.wait(120)
