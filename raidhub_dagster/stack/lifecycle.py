"""A stack from nothing to running, and back: the order, the waits, and what is left behind."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

from raidhub_dagster.errors import ConfigurationError, TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.environment import Environment, leftovers
from raidhub_dagster.stack.process import UnhealthyError, ask_all, is_taken, running, wait_until
from raidhub_dagster.stack.services import Service, services
from raidhub_dagster.stack.supervisor import Supervisor
from raidhub_dagster.storage import clickhouse_lookups
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.migrations import migrate_postgres, prepare_history
from raidhub_dagster.storage.seeds import seed

Tell = Callable[[str], None]

# Loading definitions takes the code server 5-15 s on two busy cores, the broker's first boot 10.
_READY_LIMIT_S = 180
# The slowest probe gives up after 10 s by itself, and says then what it was waiting for.
_PROBE_LIMIT_S = 12
_STORES_PHASE = 1  # after it the schema is brought up to date

_STORES = frozenset({"postgres", "clickhouse"})
# Each of these takes 9 s to end.
_NEEDED_BY_NONE = frozenset({"dagster-webserver", "dagster-daemon"})

# supervisord keeps none of these going.
_ENDED = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})


class Health(NamedTuple):
    """One service as it is now; `problem` is None when it does its work."""

    name: str
    state: str
    problem: str | None


@dataclass(frozen=True)
class Stack:
    """The stack that `environment` describes."""

    environment: Environment

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.environment.home)

    @property
    def address(self) -> str:
        """Of the Dagster UI."""
        return f"http://127.0.0.1:{self.environment.port('dagster-webserver')}"

    def up(
        self, tell: Tell, *, without: Collection[str] = (), tied: bool
    ) -> subprocess.Popen[bytes] | None:
        """Starts what does not run, but for `without`, and waits until everything answers.

        Returns supervisord's process when it was started here; `tied`, it dies with us. Raises
        ConfigurationError for a taken port, a missing program or an unknown name, TransientError
        naming the service that does not get ready; what runs by then keeps running.
        """
        with self._alone():
            running = self.supervisor.pid() is not None
            if not running:
                self._sweep(tell)
                self.environment.write(without)
            everything = services(self.environment)
            if unknown := set(without) - {s.name for s in everything}:
                known = ", ".join(s.name for s in everything)
                raise ConfigurationError(f"no service {', '.join(unknown)}; there are: {known}")
            wanted = [s for s in everything if s.name not in without]
            states = self.supervisor.states()
            kept = {name for name, known in states.items() if known.state not in _ENDED}
            missing = [s for s in wanted if s.is_local and s.name not in kept]
            if running and not missing:
                tell("already running")
                return None
            for service in missing:
                _check_ports(service)
            for service in missing:
                service.server.prepare()
            servers = [s.server for s in wanted if s.is_local]
            self.supervisor.write(servers, self.environment.variables())
            process = None
            if running:
                self.supervisor.add_processes()
            else:
                process = self.supervisor.start(tied=tied)
            for phase, group in groupby(sorted(wanted, key=lambda s: s.phase), lambda s: s.phase):
                self._start(list(group), missing, tell)
                if phase == _STORES_PHASE:
                    self._bring_up_to_date(tell)
            return process

    def down(self, tell: Tell) -> None:
        """Ends everything in reverse order; also what a killed supervisord left."""
        if not self.environment.home.exists():
            tell("not running")
            return
        with self._alone():
            if self.supervisor.pid() is None and not leftovers(self.environment.home):
                tell("not running")
                return
            self.supervisor.shut_down(at_once=_NEEDED_BY_NONE)
            self._sweep(tell)
            tell("stopped")

    @contextmanager
    def stores(self, tell: Tell) -> Iterator[Settings]:
        """Inside, PostgreSQL and ClickHouse answer and nobody of this stack uses them.

        Yields the settings that lead to them. Raises ConfigurationError when the stack runs.
        """
        local = self.environment.has_postgres or self.environment.has_clickhouse
        if not local:
            yield self.environment.settings
            return
        with self._alone(), ExitStack() as opened:
            if self.supervisor.pid() is not None:
                raise ConfigurationError("the stack runs; end it first: raidhub down")
            self._sweep(tell)
            self.environment.write()
            self.supervisor.logs.mkdir(exist_ok=True)
            for service in services(self.environment):
                if service.name in _STORES and service.is_local:
                    _check_ports(service)
                    log = self.supervisor.logs / f"{service.name}.log"
                    opened.enter_context(running(service.server, log))
                    tell(f"{service.name:18} ready")
            yield self.environment.settings

    def health(self) -> list[Health]:
        """Every service asked once. Raises TransientError when no stack runs here."""
        states = self.supervisor.running()
        asked = {
            service.name: service
            for service in services(self.environment)
            if service.name in states or not service.is_local  # else left out on purpose
        }
        answers = ask_all(
            {name: partial(_problem, service) for name, service in asked.items()},
            limit_s=_PROBE_LIMIT_S,
        )
        found = []
        for service in asked.values():
            known = states.get(service.name)
            state = "external" if known is None else known.state.lower()
            answer = answers[service.name]
            problem = str(answer) if isinstance(answer, TransientError) else answer
            if known is not None and known.state != "RUNNING":
                problem = f"{state}: {known.description or problem}"
            found.append(Health(service.name, state, problem))
        return found

    def _start(self, group: list[Service], missing: list[Service], tell: Tell) -> None:
        begun = time.monotonic()
        for service in group:
            if service in missing:
                self.supervisor.start_process(service.name)
        for service in group:
            problem = None if service.is_local else _problem(service)
            if problem is not None:
                tell(f"{service.name:18} waiting for it: {problem}")
            try:
                wait_until(lambda s=service: self._ask(s), limit_s=_READY_LIMIT_S)  # type: ignore[misc]  # mypy infers no default of a lambda
            except UnhealthyError as error:
                log = self.supervisor.logs / f"{service.name}.log"
                where = f"; see {log}" if service.is_local else ""
                raise TransientError(f"{service.name} does not get ready: {error}{where}") from None
            kind = "ready" if service.is_local else "answers (external)"
            tell(f"{service.name:18} {kind} after {time.monotonic() - begun:.1f} s")

    def _ask(self, service: Service) -> None:
        known = self.supervisor.states().get(service.name)
        if service.is_local and known is not None and known.state == "FATAL":
            raise TransientError(f"{service.name} does not start: {known.description}")
        if service.is_local and known is not None and known.state == "BACKOFF":
            raise UnhealthyError(known.description)
        service.server.probe()

    def _bring_up_to_date(self, tell: Tell) -> None:
        settings = self.environment.settings
        done = [*migrate_postgres(settings), *migrate_clickhouse(settings)]
        tell(f"{'schema':18} {len(done)} migrations applied")
        changed = sum(report.inserted + report.updated for report in seed(settings))
        clickhouse_lookups.refresh(settings)
        tell(f"{'definitions':18} {changed} rows changed")
        prepare_history(settings)

    def _sweep(self, tell: Tell) -> None:
        """Ends processes that outlived their supervisord: the children of its children."""
        home = self.environment.home
        for number, limit_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            found = leftovers(home)
            if not found:
                return
            tell(f"ending {len(found)} processes left over from a stack that was killed")
            for pid in found:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

            def question() -> None:
                if left := leftovers(home):
                    raise UnhealthyError(f"processes do not end: {left}")

            try:
                wait_until(question, limit_s=limit_s)
            except UnhealthyError:
                continue

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two `up` at once would start two supervisords on the same ports."""
        self.environment.make_home()
        with (self.environment.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _problem(service: Service) -> str | None:
    try:
        service.server.probe()
    except UnhealthyError as error:
        return str(error)
    return None


def _check_ports(service: Service) -> None:
    for port, variable in service.ports.items():
        if is_taken(port):
            raise ConfigurationError(
                f"port {port} for {service.name} is taken; set {variable} to another"
                + ("" if variable == "RAIDHUB_PORT_BASE" else ", or RAIDHUB_PORT_BASE for all")
            )
