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
    type=click.IntRange(min=1),
    help="Reports fetched at the same time at the start; then the pace decides. Default: 25.",
)
@click.option(
    "--min-workers",
    type=click.IntRange(min=1),
    help="The pace never goes below. Default: 5, or --workers if that is less.",
)
@click.option(
    "--max-workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The pace never goes above; 0 is 250, with --dev 8.",
)
@click.option(
    "--target",
    type=click.IntRange(min=-1),
    default=-1,
    show_default=True,
    help="Begin at this id less the buffer, -1 for where the data ends. Only for the first start:"
    " then the ledger knows.",
)
@click.option(
    "--buffer",
    type=click.IntRange(min=-1),
    default=10_000,
    show_default=True,
    help="Ids to begin behind the target, or behind the newest stored raid: reports come late."
    " -1 is automatic: 10000, with --dev 100.",
)
@click.option("--dev", is_flag=True, help="Few workers that ask for a sample of the ids.")
@click.option(
    "--dev-skip",
    type=click.IntRange(min=0),
    help="With --dev: ids to skip after each that is asked. Default: 4.",
)
@click.option("--until", type=click.IntRange(min=1), help="End when all ids up to this are done.")
@click.option(
    "--block-size",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Ids of one lease at most.",
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
    workers: int | None,
    min_workers: int | None,
    max_workers: int,
    target: int,
    buffer: int,
    dev: bool,
    dev_skip: int | None,
    until: int | None,
    block_size: int,
    lease_s: float,
    retry_scale: float,
) -> None:
    """Crawl reports upwards and publish raids until it is stopped."""
    from streaming.atlas import flags, process
    from streaming.atlas.crawler import Options

    try:
        settled = flags.settle(
            workers=workers,
            least=min_workers,
            most=max_workers,
            target=target,
            buffer=buffer,
            dev=dev,
            dev_skip=dev_skip,
        )
    except flags.FlagError as error:
        raise click.BadParameter(str(error), param_hint=error.flag) from None
    process.run(
        Settings.load(),
        settled,
        Options(block_size=block_size, until=until, lease_s=lease_s, scale=retry_scale),
    )


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Listen here.  [default: ZEUS_PORT]")
@click.option("--host", help="Listen on this address.  [default: ZEUS_BIND]")
@click.option(
    "--interface",
    default="enp1s0",
    show_default=True,
    help="The network interface that carries the source addresses, unless they are loopback's.",
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
    """Pass requests on to Bungie within its limits until it is stopped.

    When the interface lacks source addresses, the commands that add them are the output.
    """
    from streaming.zeus import process
    from streaming.zeus.addresses import MissingAddressesError, NoInterfaceError

    settings = Settings.load()
    options = process.Options(
        port=port or settings.zeus_port,
        host=host or settings.zeus_bind,
        interface=interface,
        v6_n=v6_n,
        dev=dev,
    )
    try:
        process.run(settings, options)
    except NoInterfaceError as error:
        raise click.BadParameter(str(error), param_hint="--interface") from None
    except MissingAddressesError as error:
        click.echo("\n".join(error.commands))
        raise
