"""The manifest from its zip to the tables: one as large as the game's, in a durable PostgreSQL.

`load_s` is the issue's own figure: weapons, classes, feats and the search for unknown raids, all
rows new. `reload_s` is the same when nothing differs; `bring_s` the file before it: download from
this machine, unpacking, checks, switch. Medians of five rounds. `database_mb` says how much it is.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import Endpoints
from raidhub_dagster.manifest import load, versions
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import connected
from simulator import manifest
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server
from tests.support.manifests import make_skull, make_tables

ITEMS = 25_000
WEAPONS = 4_000
ACTIVITIES = 6_000
SKULLS = 400
# A record of 2026 has 7 to 9 kB of JSON, of which some hundred bytes are read.
FILLER = {
    f"block{n}": {"hash": 3_000_000_000 + n, "values": list(range(n, n + 20)), "text": "x" * 60}
    for n in range(32)
}
ROUNDS = 5


def make_manifest(tracked: list[int]) -> manifest.Tables:
    """Every sixth item a weapon, every activity of `tracked` with feats."""
    items = [
        (manifest.weapon(n, 3_000_000_000 + n) if n < WEAPONS else _item(3_000_000_000 + n))
        | FILLER
        for n in range(ITEMS)
    ]
    activities = [{"hash": hash_, **FILLER} for hash_ in tracked]
    activities += [{"hash": 1_000_000 + n, **FILLER} for n in range(ACTIVITIES - len(tracked))]
    classes = [
        {"hash": hash_, "displayProperties": {"name": name}}
        for hash_, name in ((671679327, "Hunter"), (2271682572, "Warlock"), (3655393761, "Titan"))
    ]
    skulls = [make_skull(2_000_000 + n) for n in range(SKULLS)]
    return make_tables(items, skulls, activities, classes)


def _item(hash_: int) -> dict[str, object]:
    return {"hash": hash_, "itemType": 2, "displayProperties": {"name": "Armour"}}


@contextmanager
def _serving(path: str, body: bytes) -> Iterator[str]:
    """The address of a server that knows this manifest."""
    index = json.dumps(
        {
            "Response": {"version": "bench", "mobileWorldContentPaths": {"en": path}},
            "ErrorCode": 1,
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_file = self.path == path
            self.send_response(200)
            kind = "application/octet-stream" if is_file else "application/json"
            self.send_header("Content-Type", kind)
            answer = body if is_file else index
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def _load_all(connection: Connection, folder: Path) -> float:
    started = time.perf_counter()
    for target in load.TARGETS:
        load.load_target(connection, folder, target, force=True)
    load.find_unknown_raids(connection, folder)
    return time.perf_counter() - started


def _forget(connection: Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE definitions.weapon_definition, definitions.activity_feat_definition"
        )


def run() -> Figures:
    with server() as settings, connected(settings, "bench") as connection:
        data = manifest.database(make_manifest(sorted(load_tracked_hashes(connection))))
        path = "/common/world_sql_content_bench.content"
        packed = manifest.zipped(data, "bench")
        with tempfile.TemporaryDirectory() as name, _serving(path, packed) as address:
            folder = Path(name)

            def client() -> BungieClient:
                return BungieClient(Endpoints(address, address), "bench", "Bench/1")

            bring, loads, reloads = [], [], []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                versions.choose(connection, client, folder)
                versions.bring(connection, client, folder, force=True)
                bring.append(time.perf_counter() - started)
                _forget(connection)
                loads.append(_load_all(connection, folder))
                reloads.append(_load_all(connection, folder))
    return {
        "load_s": statistics.median(loads),
        "reload_s": statistics.median(reloads),
        "bring_s": statistics.median(bring),
        "database_mb": len(data) / 1e6,
        "weapons": WEAPONS,
    }


if __name__ == "__main__":
    report(run)
