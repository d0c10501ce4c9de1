"""`raidhub dev`: the stack of this folder, whose processes start anew when their code changes."""

from collections.abc import Iterable
from pathlib import Path

import click
from watchfiles import watch

from raidhub_dagster.commands.stack import here
from raidhub_dagster.stack.supervisor import Supervisor

_ROOT = Path(__file__).resolve().parents[2]
_STREAM = frozenset({"zeus", "atlas", "hermes", "relay"})
_CODE = frozenset({"dagster-code"})

# Who loaded a file, by how its path begins; the first line that fits. All that is not in a line
# above the last two is the domain, which the stream and Dagster share.
READERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("simulator/", frozenset({"simulator"})),
    ("streaming/zeus/", frozenset({"zeus"})),
    ("streaming/atlas/", frozenset({"atlas"})),
    ("streaming/hermes/", frozenset({"hermes", "relay"})),
    ("streaming/", _STREAM),
    ("assets/", _CODE),
    ("sensors/", _CODE),
    ("raidhub_dagster/checks/", _CODE),
    ("raidhub_dagster/jobs/", _CODE),
    ("raidhub_dagster/definitions.py", _CODE),
    ("raidhub_dagster/descriptions.py", _CODE),
    ("raidhub_dagster/failures.py", _CODE),
    ("raidhub_dagster/resources.py", _CODE),
    ("raidhub_dagster/schedules.py", _CODE),
    ("raidhub_dagster/commands/", frozenset()),  # loaded anew by each call
    ("raidhub_dagster/stack/", frozenset()),  # of the stack itself: down, then up
    ("raidhub_dagster/", _STREAM | _CODE),
    ("sql/", _STREAM | _CODE),
)
FOLDERS = sorted({beginning.partition("/")[0] for beginning, _ in READERS})


def readers(paths: Iterable[str]) -> set[str]:
    """Services that loaded one of these files; paths are relative to the checkout."""
    found: set[str] = set()
    for path in paths:
        found |= next((who for beginning, who in READERS if path.startswith(beginning)), set())
    return found


@click.command()
@click.option(
    "--without", multiple=True, metavar="SERVICE", help="Leave it out; can be given again."
)
def dev(without: tuple[str, ...]) -> None:
    """Start the stack, then start anew whatever reads a file that changes, until Ctrl-C.

    The stack stays up; `raidhub down` ends it. What does not start any more says why in its log.
    """
    stack = here()
    stack.up(click.echo, without=without, tied=False)
    click.echo(f"Dagster: {stack.address}\nwatching {', '.join(FOLDERS)}; Ctrl-C ends the watching")
    for changes in watch(*(_ROOT / name for name in FOLDERS), raise_interrupt=False):
        paths = sorted({str(Path(path).relative_to(_ROOT)) for _, path in changes})
        names = readers(paths)
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        click.echo(f"{paths[0]}{more}: {', '.join(restart(stack.supervisor, names)) or 'nobody'}")


def restart(supervisor: Supervisor, names: Iterable[str]) -> list[str]:
    """Ends those of `names` that run, and starts them and those that had fallen; returns both."""
    states = supervisor.states()
    known = sorted(set(names) & set(states))
    for name in known:
        if states[name].state in {"RUNNING", "STARTING", "BACKOFF"}:
            supervisor.stop_process(name)
        supervisor.start_process(name)
    return known
