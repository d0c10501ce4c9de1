"""The face of the product: what a newcomer sees in the browser, on real data."""

import http.client
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, Launch, UnhealthyError, free_port, running
from raidhub_dagster.storage.postgres import connected
from tests.dagster.conftest import World
from tests.dagster.home import BIN, ROOT, dagster_environment, run_job

# The first page loads the code location, and two cores are shared with all other tests.
PATIENCE_MS = 120_000
PLAYERS = 14


@dataclass
class Webserver:
    """dagster-webserver with the repository's workspace.yaml."""

    environment: dict[str, str]
    port: int
    name = "dagster-webserver"

    def prepare(self) -> None:
        pass

    def launch(self) -> Launch:
        command = (str(BIN / self.name), "-w", "workspace.yaml", "-h", HOST, "-p", str(self.port))
        return Launch(command, ROOT, self.environment)

    def probe(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/server_info")
            connection.getresponse().read()
        except OSError as error:
            raise UnhealthyError(str(error)) from None
        finally:
            connection.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures go: RAIDHUB_SCREENSHOTS, or the test's own folder."""
    folder = Path(os.environ.get("RAIDHUB_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def ui(
    postgres: dict[str, Any], settings_for: Callable[..., Settings], tmp_path: Path
) -> Iterator[str]:
    """Address of a webserver beside a database whose leaderboards were refreshed."""
    with connected(settings_for(postgres), "pytest") as connection:
        fill(World(connection))
    environment = dagster_environment(postgres, tmp_path / "home")
    done = run_job("leaderboards_job", {**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    server = Webserver(environment, free_port())
    with running(server, tmp_path / "webserver.log", limit_s=120):
        yield f"http://{HOST}:{server.port}"


def fill(world: World) -> None:
    """Fourteen players in three world-first teams."""
    for number in range(1, PLAYERS + 1):
        world.player(
            4_611_686_018_400_000_000 + number,
            display_name=f"Guardian {number}",
            clears=number * 3,
            fresh_clears=number * 2,
            sherpas=number % 5,
            sum_of_best=90_000 - number,
        )
    members = [4_611_686_018_400_000_000 + number for number in range(1, PLAYERS + 1)]
    for team in range(3):
        ended = timedelta(hours=19 + team)
        world.raid(1_000_000_000 + team, members[team * 4 : team * 4 + 6], completed_after=ended)


@pytest.fixture
def page() -> Iterator[Page]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed; ./bootstrap.sh installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 2200, "height": 1700})  # all of the graph
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def shoot(page: Page, folder: Path, name: str) -> None:
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    print(f"screenshot: {path}")
    assert path.stat().st_size > 10_000  # an empty page is smaller


def test_a_newcomer_finds_the_leaderboards(ui: str, page: Page, screenshots: Path) -> None:
    """The graph and a board's page are what the product shows first; both must say something."""
    page.goto(f"{ui}/asset-groups")
    for group in ("crawl", "core", "definitions", "analytics", "leaderboards"):
        page.get_by_text(group, exact=True).first.wait_for()
    page.get_by_text("fetching statuses").first.wait_for(state="hidden")
    shoot(page, screenshots, "lineage_of_groups")

    page.goto(f"{ui}/locations/raidhub/asset-groups/leaderboards")
    for name in ("wfr_score", "individual_raid_leaderboard", "individual_global_leaderboard"):
        page.get_by_text(name, exact=True).first.wait_for()
    page.get_by_text("Materialized", exact=True).first.wait_for()
    page.get_by_text("Loading...").first.wait_for(state="hidden")
    shoot(page, screenshots, "lineage_of_leaderboards")

    page.goto(f"{ui}/assets/postgres/individual_global_leaderboard")
    page.get_by_text("top_10", exact=True).first.wait_for()
    board = page.locator("table", has_text="fresh_clears").last
    rows = board.locator("tbody tr").all_inner_texts()
    assert [row.split()[:4] for row in rows[:2]] == [
        ["1", "Guardian", "14", "42"],
        ["2", "Guardian", "13", "39"],
    ]
    assert len(rows) == 10
    page.get_by_text("Row count", exact=True).first.wait_for()
    shoot(page, screenshots, "leaderboard")
