"""The face of the product: what a newcomer sees and does in the browser, on real data."""

import http.client
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from raidhub_dagster.definitions import build_defs
from raidhub_dagster.stack.process import (
    HOST,
    Launch,
    UnhealthyError,
    free_port,
    reach,
    running,
)
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage import clickhouse_lookups
from raidhub_dagster.storage.postgres import connected
from tests.conftest import make_settings, own_clickhouse, own_postgres
from tests.dagster.conftest import World
from tests.dagster.home import BIN, ROOT, dagster_environment, run_job
from tests.support.analytics import Analytics, run, send_until_quiet
from tests.support.typed import variables

# The first page loads the code location, and two cores are shared with all other tests.
PATIENCE_MS = 300_000
PLAYERS = 14
DAYS = 14
FIRST_PLAYER = 4_611_686_018_400_000_000
BOARD = "individual_global_leaderboard"
CHECK = f"{BOARD}_is_dense_and_eligible"


@dataclass
class DagsterProcess:
    """One process of Dagster's, beside the others: `ask` returns once it answers."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    ask: Callable[[], None]

    def prepare(self) -> None:
        pass

    def launch(self) -> Launch:
        return Launch(self.command, ROOT, self.environment, is_ours=True)

    def probe(self) -> None:
        self.ask()


@dataclass
class Platform:
    """Address of the UI, and the databases beside it."""

    address: str
    settings: Any
    last_day: datetime


@pytest.fixture(scope="module")
def ui(
    postgres_server: dict[str, Any],
    clickhouse_server: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    """The three Dagster processes, beside stores with ranked players and a fortnight of raids.

    ClickHouse lacks the fortnight.
    """
    folder = tmp_path_factory.mktemp("ui")
    with ExitStack() as stack:
        postgres = stack.enter_context(own_postgres(postgres_server))
        clickhouse = stack.enter_context(own_clickhouse(clickhouse_server, postgres_server))
        settings = make_settings(postgres, clickhouse)
        last_day = fill(settings)
        environment = dagster_environment(postgres, folder / "home")
        environment |= variables(clickhouse)
        # Nobody listens there: no sensor may ask the real API.
        environment |= {"BUNGIE_URL_BASE": f"http://{HOST}:{free_port()}", "BUNGIE_API_KEY": "key"}
        done = run_job("leaderboards_job", {**os.environ, **environment})
        assert done.returncode == 0, done.stderr
        code, web = free_port(), free_port()
        workspace = folder / "workspace.yaml"
        workspace.write_text(
            f"load_from: [{{grpc_server: {{host: {HOST}, port: {code}, location_name: raidhub}}}}]"
        )
        server = ("dagster", "code-server", "start", "-h", HOST, "-p", str(code))
        site = ("dagster-webserver", "-w", str(workspace), "-h", HOST, "-p", str(web))
        daemon = ("-m", "raidhub_dagster.daemon", "run", "-w", str(workspace))
        for name, command, ask in (
            (
                "code",
                (*server, "-m", "raidhub_dagster.definitions"),
                lambda: reach(HOST, code),
            ),
            ("webserver", site, lambda: answer(web)),
        ):
            process = DagsterProcess(name, (str(BIN / command[0]), *command[1:]), environment, ask)
            stack.enter_context(running(process, folder / f"{name}.log", limit_s=120))
        process = DagsterProcess("daemon", (sys.executable, *daemon), environment, lambda: None)
        stack.enter_context(running(process, folder / "daemon.log"))
        yield Platform(f"http://{HOST}:{web}", settings, last_day)


def answer(port: int) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/server_info")
        connection.getresponse().read()
    except OSError as error:
        raise UnhealthyError(str(error)) from None
    finally:
        connection.close()


def fill(settings: Any) -> datetime:
    """Fourteen ranked players in three world-first teams; two raids a day until today."""
    with (
        connected(settings, "pytest") as connection,
        closing(ch.connect(settings, "pytest")) as client,
    ):
        world = World(connection)
        for number in range(1, PLAYERS + 1):
            world.player(
                FIRST_PLAYER + number,
                display_name=f"Guardian {number}",
                clears=number * 3,
                fresh_clears=number * 2,
                sherpas=number % 5,
                sum_of_best=90_000 - number,
            )
        members = [FIRST_PLAYER + number for number in range(1, PLAYERS + 1)]
        for team in range(3):
            ended = timedelta(hours=19 + team)
            world.raid(
                1_000_000_000 + team, members[team * 4 : team * 4 + 6], completed_after=ended
            )
        clickhouse_lookups.refresh_lookups(connection, client)
        stores = Analytics(settings, connection, client)
        # An hour back, so that all have ended, and each within the hour, so within the day.
        last = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=1)
        stores.store(
            *(
                run(
                    2_000_000_000 + day * 2 + number,
                    started=last - timedelta(days=day, minutes=20 * number),
                    duration=900,
                    players=tuple(1 + (day + number + n) % 12 for n in range(3)),
                )
                for day in range(DAYS)
                for number in range(2)
            )
        )
        send_until_quiet(stores)
        client.command("TRUNCATE TABLE instance")
        return last


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures go: RAIDHUB_SCREENSHOTS, or the test's own folder."""
    folder = Path(os.environ.get("RAIDHUB_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    executable = shutil.which("chromium")
    assert executable is not None, "chromium is not installed: run ./bootstrap.sh"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1300, "height": 850})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        page.screenshot(path=tmp_path / "ended.png")  # where a failed test stood
        browser.close()


def shoot(seen: Page | Locator, folder: Path, name: str) -> None:
    """Pictures that docs/images keeps are small by themselves: flat colours, one screen."""
    path = folder / f"{name}.png"
    seen.screenshot(path=path)
    print(f"screenshot: {path}")
    assert 10_000 < path.stat().st_size < 150_000  # an empty page is smaller


def test_a_newcomer_finds_the_leaderboards(ui: Platform, page: Page, screenshots: Path) -> None:
    """The graph and a board's page are what the product shows first; both must say something."""
    page.goto(f"{ui.address}/asset-groups")
    graph = build_defs().resolve_asset_graph()
    for group in sorted({str(graph.get(key).group_name) for key in graph.get_all_asset_keys()}):
        page.get_by_text(group, exact=True).first.wait_for()
    page.get_by_text("fetching statuses").first.wait_for(state="hidden")
    shoot(page, screenshots, "groups")

    page.goto(f"{ui.address}/locations/raidhub/asset-groups/leaderboards")
    for name in ("wfr_score", "individual_raid_leaderboard", BOARD):
        page.get_by_text(name, exact=True).first.wait_for()

    page.goto(f"{ui.address}/assets/postgres/{BOARD}")
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


def test_a_board_is_materialized_by_a_click(ui: Platform, page: Page) -> None:
    """Whoever sees a stale board looks for one button, and wants to see that it helped."""
    page.goto(f"{ui.address}/assets/postgres/individual_raid_leaderboard")
    page.get_by_role("button", name="Materialize", exact=False).first.click()
    page.get_by_text("Launched run").first.wait_for()
    page.get_by_text("View", exact=True).first.click()
    page.wait_for_url(re.compile("/runs/[0-9a-f-]{36}"))
    page.get_by_text("Success", exact=True).first.wait_for()


def test_a_fortnight_is_backfilled(ui: Platform, page: Page, screenshots: Path) -> None:
    """Days lost by ClickHouse come back by choosing them, without a command or a person."""
    days = [f"{ui.last_day - timedelta(days=n):%Y-%m-%d}" for n in (DAYS - 1, 0)]
    page.goto(f"{ui.address}/assets/clickhouse/instance")
    page.get_by_role("button", name="Materialize", exact=False).first.click()
    dialog = page.get_by_role("dialog")
    choice = dialog.get_by_placeholder("No matching partitions")
    choice.fill(f"[{days[0]}...{days[1]}]")
    choice.press("Enter")
    dialog.get_by_text(f"{DAYS} partitions", exact=True).first.wait_for()
    shoot(page, screenshots, "backfill_of_days")
    dialog.get_by_role("button", name="Launch backfill").click()
    dialog.wait_for(state="hidden")

    page.goto(f"{ui.address}/runs")
    page.locator("a[href*='/runs/b/']").first.click()
    page.get_by_text("100% completed", exact=True).first.wait_for()
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(2)  # the state, and a column
    shoot(page, screenshots, "backfill_done")
    with closing(ch.connect(ui.settings, "pytest")) as client:
        stored = client.query("SELECT count() FROM instance WHERE instance_id >= 2000000000")
        assert stored.first_row == (DAYS * 2,)


def test_a_repair_previews_in_the_launchpad(ui: Platform, page: Page, screenshots: Path) -> None:
    """A repair that cannot be looked at before it changes data will not be dared at night."""
    with connected(ui.settings, "pytest") as connection:
        World(connection).run(
            "UPDATE core.player SET sherpas = sherpas + 7 WHERE membership_id = 1"
        )
    page.goto(f"{ui.address}/locations/raidhub/jobs/recompute_player_stats/playground")
    page.get_by_text("dry_run", exact=False).first.wait_for()
    page.get_by_text("No errors", exact=True).first.wait_for()
    shoot(page, screenshots, "launchpad")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile("/runs/[0-9a-f-]{36}"))
    page.get_by_text("Success", exact=True).first.wait_for()
    page.get_by_text("Show Markdown", exact=False).first.click()
    report = page.get_by_role("dialog")
    expect(report).to_contain_text("preview: nothing was changed")
    expect(report).to_contain_text("totals_differing: 1")
    shoot(report, screenshots, "repair_report")


def test_a_failed_check_says_why(ui: Platform, page: Page, screenshots: Path) -> None:
    """Red without a reason is noise: the page names the claim, how many rows, and whose."""
    with connected(ui.settings, "pytest") as connection:
        World(connection).run(
            "UPDATE core.player SET cheat_level = 4 WHERE membership_id = %s", [FIRST_PLAYER + 14]
        )
    page.goto(f"{ui.address}/assets/postgres/{BOARD}?view=checks&checkDetail={CHECK}")
    page.get_by_text("Passed", exact=True).first.wait_for()
    page.get_by_text("Execute", exact=True).first.click()
    problems = page.locator("table", has_text="claim").last
    expect(problems).to_contain_text(str(FIRST_PLAYER + 14))
    page.get_by_text("Failed", exact=True).first.wait_for()
    shoot(page, screenshots, "failed_check")
