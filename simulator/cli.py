"""The command line: `raidhub simulate` and `python -m simulator`."""

import asyncio
import json
import signal
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import click
import msgspec
import uvloop
from aiohttp import web

from simulator.definitions import DEFAULT_FOLDER, DefinitionError
from simulator.faults import Faults
from simulator.publication import Schedule
from simulator.replay import ReplayError
from simulator.server import build_app
from simulator.service import Config
from simulator.world import FIRST_ID, WorldConfig


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7070, show_default=True, type=click.IntRange(0, 65535))
@click.option("--seed", default=1, show_default=True, help="Another seed is another world.")
@click.option(
    "--players", default=20_000, show_default=True, type=click.IntRange(1), help="Population."
)
@click.option(
    "--rate",
    default=50.0,
    show_default=True,
    type=click.FloatRange(0.001),
    help="Ids that are published a second on average.",
)
@click.option(
    "--start-id",
    default=FIRST_ID,
    show_default=True,
    type=click.IntRange(1),
    help="The first id there is.",
)
@click.option(
    "--backlog",
    default=20_000,
    show_default=True,
    type=click.IntRange(0),
    help="Ids that are published already when an epoch is chosen.",
)
@click.option(
    "--epoch",
    help="When the first id ends, RFC 3339. Default: so long ago that the backlog is out.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that remembers the world, so that a restart continues the same one.",
)
@click.option("--head", type=int, help="Hold the head at this id instead of advancing.")
@click.option(
    "--burst",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds published together.",
)
@click.option(
    "--silence-every",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds; 0: never.",
)
@click.option(
    "--silence",
    default=20.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds a silence lasts, at most two thirds of --silence-every.",
)
@click.option(
    "--raid-share", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="Of ids."
)
@click.option(
    "--historic-share",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Of raids: dated in the years since the release of their activity.",
)
@click.option(
    "--contest-share",
    default=0.4,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Of historic raids: played in a contest or race window.",
)
@click.option(
    "--odd-share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Scales the rare shapes of reports; 0: ordinary raids only.",
)
@click.option(
    "--unknown-share",
    type=click.FloatRange(0, 1),
    help="Of raids: an activity that the definitions lack.  [default: 0.002; 0 when calm]",
)
@click.option(
    "--cheaters",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 0.4),
    help="Of raids: somebody cheats; as many again only look like it.",
)
@click.option("--calm", is_flag=True, help="Nothing goes wrong and nothing takes time.")
@click.option(
    "--fault",
    "fault_settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Sets one fault, on top of --calm or the defaults; names in docs/simulator.md.",
)
@click.option("--api-key", "keys", multiple=True, help="Accept these keys only. Default: any.")
@click.option(
    "--replay",
    "replay_folder",
    type=click.Path(path_type=Path),
    help="Folder of real reports, <id>*.json, that are served under their own ids.",
)
@click.option(
    "--definitions",
    "definitions_folder",
    default=DEFAULT_FOLDER,
    type=click.Path(path_type=Path),
    help="Folder of the definition CSVs.  [default: the project's seeds]",
)
def simulate(
    *,
    host: str,
    port: int,
    seed: int,
    players: int,
    rate: float,
    start_id: int,
    backlog: int,
    epoch: str | None,
    state: Path | None,
    head: int | None,
    burst: float,
    silence_every: float,
    silence: float,
    raid_share: float,
    historic_share: float,
    contest_share: float,
    odd_share: float,
    unknown_share: float | None,
    cheaters: float,
    calm: bool,
    fault_settings: tuple[str, ...],
    keys: tuple[str, ...],
    replay_folder: Path | None,
    definitions_folder: Path,
) -> None:
    """Serve a Bungie API with a world of its own, its faults and the ground truth."""
    if silence_every and 1.5 * silence > silence_every:  # the head must catch up in between
        raise click.BadParameter(
            f"{silence:g} is more than two thirds of --silence-every", param_hint="--silence"
        )
    if unknown_share is None:
        unknown_share = 0.0 if calm else 0.002
    if head is not None:
        backlog = max(head - start_id + 1, 0)
    world = WorldConfig(
        seed=seed,
        epoch=_seconds(epoch) if epoch else round(time.time() - backlog / rate - 2 * burst, 3),
        rate=rate,
        first_id=start_id,
        players=players,
        raid_share=raid_share,
        historic_share=historic_share,
        contest_share=contest_share,
        odd_share=odd_share,
        unknown_share=unknown_share,
        cheaters=cheaters,
    )
    if state is not None:
        world = _remembered(state, world, keep_epoch=epoch is None)
    config = Config(
        world=world,
        schedule=Schedule(
            world.epoch,
            rate,
            start_id,
            burst_s=burst,
            silence_every_s=silence_every,
            silence_s=silence,
        ),
        faults=_faults(Faults.calm() if calm else Faults(), fault_settings),
        head=head,
        keys=frozenset(keys),
        definitions_folder=definitions_folder,
        replay_folder=replay_folder,
    )
    try:
        app = build_app(config, time.time, Random(seed))  # noqa: S311  repeatable, not secret
    except (DefinitionError, ReplayError) as error:
        raise click.ClickException(str(error)) from None
    uvloop.run(_serve(app, host, port))


def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no RFC 3339 time", param_hint="--epoch") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _faults(faults: Faults, settings: tuple[str, ...]) -> Faults:
    values: dict[str, object] = msgspec.structs.asdict(faults)
    for setting in settings:
        name, _, value = setting.partition("=")
        values[name.strip()] = value.strip()
    try:
        return msgspec.convert(values, Faults, strict=False)
    except msgspec.ValidationError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None


def _remembered(path: Path, world: WorldConfig, *, keep_epoch: bool) -> WorldConfig:
    """The world of the state file when it is the one asked for; otherwise an error says why not."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(world), indent=2) + "\n", "utf-8")
            return world
        kept = WorldConfig(**json.loads(path.read_text("utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise click.ClickException(f"{path} cannot be the simulator's state: {error}") from None
    asked = replace(world, epoch=kept.epoch) if keep_epoch else world
    for name, value in asdict(asked).items():
        if value != getattr(kept, name):
            raise click.ClickException(
                f"{path} holds another world ({name} {getattr(kept, name)}, asked for {value}): "
                "use its flags or remove the file"
            )
    return kept


async def _serve(app: web.Application, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT, then lets running requests end."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise click.ClickException(
                f"cannot listen on {host}:{port}: {error.strerror}"
            ) from None
        address = runner.addresses[0]
        click.echo(f"Simulator listens on http://{address[0]}:{address[1]}", err=True)
        await stopping.wait()
    finally:
        await runner.cleanup()
