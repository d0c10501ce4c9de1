"""A running simulator for tests of what asks Bungie's API, and the same world to look into."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import requests

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import Endpoints
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.stack.process import HOST, find_program, free_port
from simulator import definitions
from simulator.faults import Faults
from simulator.world import FIRST_ID, Clan, Player, World, WorldConfig

IDS = 10_000
PLAYERS = 12_000  # 110 clans, some of them of more than a page


class Bungie:
    """The API at `address`; `world` says what it has to answer."""

    def __init__(self, address: str, world: World) -> None:
        self.address = address
        self.world = world

    def ask(self, path: str, **body: Any) -> Any:
        """A control of the simulator: POST with a body, else GET."""
        answer = requests.request(
            "POST" if body else "GET", f"{self.address}{path}", json=body or None, timeout=60
        )
        answer.raise_for_status()
        return answer.json()

    def faults(self, **changed: float) -> None:
        self.ask("/sim/faults", **changed)

    def calm(self) -> None:
        """Everything on, and nothing goes wrong."""
        self.ask("/sim/maintenance", on=False)
        self.faults(**msgspec.structs.asdict(Faults.calm()))

    def requests_so_far(self) -> int:
        return sum(self.ask("/truth/requests").values())

    def player(self, wanted: Callable[[Player], bool] = lambda _: True) -> Player:
        """The first player of raids who is as wanted."""
        return next(p for p in self.players() if wanted(p))

    def players(self) -> Iterator[Player]:
        """Those who were in some raid, each once."""
        return (self.world.player(number) for number in self._raids)

    @cached_property
    def _raids(self) -> dict[int, set[int]]:
        """Number of a player -> ids of their raids."""
        found: dict[int, set[int]] = {}
        for instance_id in self.raids():
            for entry in self.world.run(instance_id).entries:
                found.setdefault(entry.player, set()).add(instance_id)
        return found

    def clan(self, wanted: Callable[[Clan], bool]) -> Clan:
        clans = (self.world.clan(number) for number in range(self.world.clans))
        return next(clan for clan in clans if clan is not None and wanted(clan))

    def raids(self) -> Iterator[int]:
        """Ids of all raids that are published."""
        return (i for i in range(FIRST_ID, FIRST_ID + IDS) if self.world.is_raid(i))

    def instance(self, instance_id: int) -> Instance:
        """The raid as the parser reads it."""
        with BungieClient(Endpoints(self.address, self.address), "key", "test") as client:
            found = client.fetch_pgcr(instance_id, ())
        assert found.instance is not None, found
        return found.instance

    def raids_of(self, player: Player) -> set[int]:
        return self._raids[player.number]


@contextmanager
def simulated(folder: Path, *arguments: str) -> Iterator[Bungie]:
    """A calm world whose reports are all published; it ends with the block or with pytest."""
    port = free_port()
    config = WorldConfig(
        epoch=float(int(time.time()) - 7200), first_id=FIRST_ID, players=PLAYERS, odd_share=0.0
    )
    epoch = datetime.fromtimestamp(config.epoch, UTC).isoformat()
    command = [
        *(find_program("setpriv"), "--pdeathsig=KILL", "--", sys.executable, "-m", "simulator"),
        *("--port", str(port), "--head", str(FIRST_ID + IDS - 1), "--epoch", epoch),
        *("--calm", "--players", str(PLAYERS), "--odd-share", "0", *arguments),
    ]
    log = folder / "simulator.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    bungie = Bungie(
        f"http://{HOST}:{port}", World(definitions.load(definitions.DEFAULT_FOLDER), config)
    )
    try:
        while True:
            try:
                requests.get(f"{bungie.address}/healthz", timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                assert process.poll() is None, log.read_text()
        yield bungie
    finally:
        process.terminate()
        process.wait()
