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
@click.option("--without", multiple=True, help="Not this one of them; can be given again.")
@click.option(
    "--slots",
    type=click.IntRange(1, 200),
    help="Batches handled at the same time, a topic. Without it they follow the queue.",
)
@click.option("--batch", type=click.IntRange(1, 1000), help="Messages a slot takes at once.")
def hermes(
    topics: tuple[str, ...], without: tuple[str, ...], slots: int | None, batch: int | None
) -> None:
    """Consume the queues and relay the outbox until it is stopped."""
    from streaming.hermes import process

    for option, names in (("--topic", topics), ("--without", without)):
        unknown = [name for name in names if name not in process.NAMES]
        if unknown:
            raise click.BadParameter(
                f"{', '.join(unknown)}; there are: {', '.join(process.NAMES)}", param_hint=option
            )
    chosen = [name for name in topics or process.NAMES if name not in without]
    if not chosen:
        raise click.UsageError("--without leaves nothing to run")
    process.run(Settings.load(), chosen, slots=slots, batch=batch)


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 250),
    default=25,
    show_default=True,
    help="Reports fetched at the same time.",
)
@click.option(
    "--target",
    type=click.IntRange(min=1),
    help="Begin at this id less the buffer. Only for the first start: then the ledger knows.",
)
@click.option(
    "--buffer",
    type=click.IntRange(min=0),
    default=10_000,
    show_default=True,
    help="Ids to begin behind the target, or behind the newest stored raid: reports come late.",
)
@click.option("--until", type=click.IntRange(min=1), help="End when all ids up to this are done.")
@click.option(
    "--block-size",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Ids of one lease.",
)
@click.option(
    "--lease-s",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="A lease not prolonged for so long is taken over by others.",
)
@click.option(
    "--retry-scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiplies every pause between two tries of an id: below 1 for simulations.",
)
def atlas(
    workers: int,
    target: int | None,
    buffer: int,
    until: int | None,
    block_size: int,
    lease_s: float,
    retry_scale: float,
) -> None:
    """Crawl reports upwards and publish raids until it is stopped."""
    from streaming.atlas import process
    from streaming.atlas.crawler import Options

    process.run(
        Settings.load(),
        Options(workers=workers, block_size=block_size, until=until, lease_s=lease_s),
        target=target,
        buffer=buffer,
        retry_scale=retry_scale,
    )


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Listen here.  [default: ZEUS_PORT]")
@click.option("--host", help="Listen on this address only.  [default: all]")
@click.option(
    "--interface",
    default="enp1s0",
    show_default=True,
    help="The network interface that carries the source addresses.",
)
@click.option(
    "--v6_n",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Source addresses, counted up from IPV6.",
)
@click.option("--dev", is_flag=True, help="One source address; the limits stay.")
def zeus(port: int | None, host: str | None, interface: str, v6_n: int, dev: bool) -> None:
    """Pass requests on to Bungie within its limits until it is stopped."""
    from streaming.zeus import process

    settings = Settings.load()
    process.run(
        settings,
        process.Options(
            port=port or settings.zeus_port, host=host, interface=interface, v6_n=v6_n, dev=dev
        ),
    )
