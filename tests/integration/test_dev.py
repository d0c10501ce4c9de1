"""What `raidhub dev` does with processes when their code changes, under a real supervisord."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raidhub_dagster.commands.dev import restart
from raidhub_dagster.stack.process import UnhealthyError, wait_until
from raidhub_dagster.stack.services import Program
from raidhub_dagster.stack.supervisor import Supervisor


@pytest.fixture
def supervisor(server_folder: Path) -> Iterator[Supervisor]:
    """Two processes that live, and one that ends at once."""
    keeper = Supervisor(server_folder / "dev")
    programs = [
        Program("atlas", ("sleep", "600"), lambda: None),
        Program("hermes", ("sleep", "600"), lambda: None),
        Program("zeus", ("false",), lambda: None),
    ]
    keeper.write(programs, {})
    process = keeper.start(tied=True)
    for program in programs:
        keeper.start_process(program.name)
    yield keeper
    keeper.shut_down()
    process.wait()


def wait_for(supervisor: Supervisor, **wanted: str) -> dict[str, int]:
    """The process ids once each of `wanted` is in its state."""

    def question() -> None:
        states = supervisor.states()
        found = {name: states[name].state for name in wanted}
        if found != wanted:
            raise UnhealthyError(f"{found}")

    wait_until(question, limit_s=30)
    return {name: state.pid for name, state in supervisor.states().items()}


def test_only_the_readers_of_a_change_are_started_anew(supervisor: Supervisor) -> None:
    """Everything else keeps its connections and what it had in hand."""
    before = wait_for(supervisor, atlas="RUNNING", hermes="RUNNING")
    assert restart(supervisor, ["atlas", "dagster-code"]) == ["atlas"]
    after = wait_for(supervisor, atlas="RUNNING", hermes="RUNNING")
    assert after["atlas"] != before["atlas"]
    assert after["hermes"] == before["hermes"]


def test_what_fell_is_tried_again(supervisor: Supervisor) -> None:
    """A typing error ends a process; the next change mends it, and nobody types a command."""
    wait_for(supervisor, zeus="BACKOFF")
    assert restart(supervisor, ["zeus"]) == ["zeus"]
    supervisor.stop_process("zeus")
    wait_for(supervisor, zeus="STOPPED")
    assert restart(supervisor, ["zeus"]) == ["zeus"]
