"""`raidhub queues`: what is in the queues, and the parked messages' way back."""

from dataclasses import asdict

import click
import msgspec

from raidhub_dagster.messaging import parking, topology
from raidhub_dagster.messaging.overview import overview
from raidhub_dagster.messaging.parking import Parked
from raidhub_dagster.settings import Settings

_SHOWN = 5  # messages that a preview lists
_BODY = 200  # characters of a body that are shown

_COLUMNS = ("ready", "unacked", "per s", "consumers", "workers", "waiting", "parked")


_MAIN = click.Choice(topology.MAIN_QUEUES)
_MAIN_OR_PARKED = click.Choice(
    (*topology.MAIN_QUEUES, *map(topology.parked_queue, topology.MAIN_QUEUES))
)


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a queue, in a list.")
@click.pass_context
def queues(ctx: click.Context, as_json: bool) -> None:
    """Show the queues; with a command, bring parked messages back or away.

    Ready, consumers, waiting (for a retry) and parked are the broker's numbers of this moment;
    unacked and rate come from its management API, workers from the hermes of this machine. Where
    one of these does not answer there is a dash.
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json belongs to the list, without a command")
        return
    states = overview(Settings.load())
    if as_json:
        click.echo(msgspec.json.encode([asdict(state) for state in states]))
        return
    width = max(len(state.name) for state in states)
    click.echo(f"{'queue':{width}}" + "".join(f"{name:>11}" for name in _COLUMNS))
    for s in states:
        rate = None if s.handled_per_s is None else f"{s.handled_per_s:.1f}"
        cells = (s.ready, s.unacknowledged, rate, s.consumers, s.workers, s.waiting, s.parked)
        click.echo(f"{s.name:{width}}" + "".join(f"{_cell(cell):>11}" for cell in cells))


@queues.command()
@click.argument("queue", type=_MAIN, metavar="QUEUE")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a message, a line each.")
def show(queue: str, limit: int, as_json: bool) -> None:
    """List the parked messages of QUEUE, the oldest first: headers and how the body begins."""
    count, found = parking.look(Settings.load(), topology.parked_queue(queue), limit=limit)
    for message in found:
        body = message.body[:_BODY].decode("utf-8", "backslashreplace")
        if as_json:
            shown = {
                "message_id": message.message_id,
                "headers": message.headers,
                "body_bytes": len(message.body),
                "body": body,
            }
            click.echo(msgspec.json.encode(shown, enc_hook=str))
            continue
        click.echo(_headline(message))
        for name, value in sorted(message.headers.items()):
            click.echo(f"    {name}: {_one_line(str(value))}")
        click.echo(f"    body ({len(message.body)} bytes): {_one_line(body)}")
    if not as_json:
        click.echo(f"{count} parked, {len(found)} shown")


@queues.command()
@click.argument("queue", type=_MAIN, metavar="QUEUE")
@click.option("--reason", type=click.Choice(parking.REASONS), help="Only those parked for it.")
@click.option("--limit", type=click.IntRange(1), help="So many at most.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Messages a second."
)
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
def replay(
    queue: str, reason: str | None, limit: int | None, rate: float | None, dry_run: bool
) -> None:
    """Move the parked messages of QUEUE back to it, the oldest first.

    They go as they first came, with all their retries before them. Only what is parked now is
    moved: what is parked again meanwhile stays. Stopped in between, the rest is parked as before.
    """
    done = parking.replay(
        Settings.load(), queue, reason=reason, limit=limit, rate_per_s=rate, dry_run=dry_run
    )
    word = "would go" if dry_run else "went"
    click.echo(f"{done.moved} {word} back to {queue}, {done.kept + done.left} stay parked")


@queues.command()
@click.argument("queue", type=_MAIN_OR_PARKED, metavar="QUEUE[.parked]")
@click.option("--dry-run", is_flag=True, help="Only show what is there; the default.")
@click.option("--yes", is_flag=True, help="Delete it.")
def purge(queue: str, dry_run: bool, yes: bool) -> None:
    """Delete every message of QUEUE, or of its parking queue. Nothing brings them back.

    Without --yes it only shows how many there are, and the first ones.
    """
    if dry_run and yes:
        raise click.UsageError("--dry-run and --yes exclude each other")
    settings = Settings.load()
    if yes:
        click.echo(f"{parking.purge(settings, queue)} messages of {queue} deleted")
        return
    count, found = parking.look(settings, queue, limit=_SHOWN)
    click.echo(f"{count} messages in {queue}; --yes deletes them")
    for message in found:
        click.echo(f"    {_headline(message)}")


def _headline(message: Parked) -> str:
    """What it is and why it is here, in one line."""
    body = message.body[:_BODY].decode("utf-8", "backslashreplace")
    what = message.message_id or _one_line(body)[:60]
    why = _one_line(str(message.headers.get(parking.ERROR, "")))
    return f"{what}: {message.reason} {why}".rstrip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
