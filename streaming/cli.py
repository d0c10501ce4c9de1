"""The commands of the long-running processes; each loads its own code only when it runs."""

import click

from raidhub_dagster.settings import Settings


@click.command()
@click.option(
    "--topic",
    "topics",
    multiple=True,
    help="A topic's queue, or `relay` for the outbox; can be given again. Default: all.",
)
@click.option(
    "--slots", type=click.IntRange(1, 200), help="Batches handled at the same time, a topic."
)
@click.option("--batch", type=click.IntRange(1, 1000), help="Messages a slot takes at once.")
def hermes(topics: tuple[str, ...], slots: int | None, batch: int | None) -> None:
    """Consumes the queues and relays the outbox until it is stopped."""
    from streaming.hermes import process

    unknown = [name for name in topics if name not in process.NAMES]
    if unknown:
        raise click.BadParameter(
            f"{', '.join(unknown)}; there are: {', '.join(process.NAMES)}", param_hint="--topic"
        )
    process.run(Settings.load(), topics or process.NAMES, slots=slots, batch=batch)
