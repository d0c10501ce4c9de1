"""Rules that hold for everything in the code location, whoever adds to it: one test a rule.

A rule fails with the names of those that break it, so that who adds an asset, a job, a schedule or
a sensor reads there what it lacks.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.daemon import POOLS
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.jobs.repair import ALONE_TAG
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.clickhouse import connect as connect_clickhouse
from raidhub_dagster.storage.columns import columns
from raidhub_dagster.storage.postgres import connected
from tests.support.catalogue import clickhouse_columns, postgres_columns

STORES = {"postgres", "clickhouse", "rabbitmq", "bungie", "archive"}
TABLE_STORES = {"postgres", "clickhouse"}
CODE = "dagster/code_references"
OWNERS = ["team:raidhub"]

# They read the manifest's file, whose folder the resource knows, and ask the API nothing.
ASK_NOTHING = {
    "postgres__activity_feat_definitions",
    "postgres__class_definitions",
    "postgres__weapon_definitions",
    "bungie__unknown_raid_hashes",
}

DEFS = build_defs()
REPOSITORY = DEFS.get_repository_def()
GRAPH = REPOSITORY.asset_graph
NODES = [GRAPH.get(key) for key in sorted(GRAPH.get_all_asset_keys())]
COMPUTED = [DEFS.resolve_assets_def(n.key) for n in NODES if n.is_executable]
CHECKS = sorted(GRAPH.asset_check_keys)
JOBS = [REPOSITORY.get_job(n) for n in REPOSITORY.job_names if not n.startswith("__")]


def name(key: dg.AssetKey) -> str:
    return "/".join(key.path)


def broken(
    things: Iterable[Any], rule: Callable[[Any], object], called: Callable[[Any], str]
) -> list[str]:
    """Names of those that do not keep the rule."""
    return [called(thing) for thing in things if not rule(thing)]


def ops() -> Iterator[dg.OpDefinition]:
    """Every op of the location: of assets, checks and jobs."""
    seen: dict[str, dg.OpDefinition] = {}
    for job in (REPOSITORY.get_job(name) for name in REPOSITORY.job_names):
        for node in job.all_node_defs:
            if isinstance(node, dg.OpDefinition):
                seen[node.name] = node
    yield from seen.values()


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("a key of store and table", lambda n: len(n.key.path) == 2 and n.key.path[0] in STORES),
        ("a description", lambda n: n.description),
        ("our owner", lambda n: n.owners == OWNERS),
        ("its store as kind", lambda n: n.key.path[0] in n.kinds),
        ("a group with a name", lambda n: n.group_name and n.group_name != "default"),
        ("a check", lambda n: n.check_keys),
    ],
)  # fmt: skip
def test_every_asset_has(what: str, rule: Callable[[Any], object]) -> None:
    """A newcomer reads the graph, not the code; and what nobody checks is wrong for weeks."""
    assert broken(NODES, rule, lambda n: name(n.key)) == [], what


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("a retry policy", lambda a: a.op.retry_policy),
        ("the hook against vain retries", lambda a: stop_run_retries in a.hook_defs),
        ("a link to its code", lambda a: all(CODE in s.metadata for s in a.specs)),
    ],
)  # fmt: skip
def test_every_computed_asset_has(what: str, rule: Callable[[Any], object]) -> None:
    """Without them a lost connection ends a night's work, and a typo runs three times."""
    assert broken(COMPUTED, rule, lambda a: name(a.key)) == [], what


def test_who_asks_bungie_waits_for_its_pool() -> None:
    """Ten runs at once would take the API's budget from the crawl."""
    asks = [o for o in ops() if "bungie" in o.required_resource_keys and o.name not in ASK_NOTHING]
    assert broken(asks, lambda op: op.pool == "bungie", lambda op: op.name) == []


def test_pools_are_known() -> None:
    """A misspelt pool has the default limit, and nobody sets another."""
    pooled = [op for op in ops() if op.pool is not None]
    assert pooled
    assert broken(pooled, lambda op: op.pool in POOLS, lambda op: f"{op.name}: {op.pool}") == []


def test_every_check_says_what_it_claims() -> None:
    """Its name is all that an alert has room for."""
    nodes = [GRAPH.get(key) for key in CHECKS]
    assert broken(nodes, lambda n: n.description, lambda n: n.key.name) == []
    table = [key for key in CHECKS if not key.name.startswith(key.asset_key.path[-1] + "_")]
    assert [key.name for key in table] == []


def test_every_job_is_explained_and_ends() -> None:
    """A job without a limit that hangs holds its pool until somebody looks."""
    assert broken(JOBS, lambda j: j.description, lambda j: j.name) == []
    assert broken(JOBS, lambda j: "dagster/max_runtime" in j.tags, lambda j: j.name) == []


def test_what_a_schedule_writes_has_to_be_fresh() -> None:
    """A schedule that somebody switched off is noticed by nobody, until ranks are a month old."""
    by_a_person_or_on_demand = {
        "archive/pgcr_archive",
        "postgres/reprocessed_pgcr",
        "postgres/cheat_recheck",
        "postgres/missed_pgcrs",  # while ids are due
    }
    followed = {  # a step of a chain whose end has to be fresh, or a sensor's
        "postgres/player_flag_stats",
        "postgres/cheat_report",
        *(name(n.key) for n in NODES if n.group_name == "manifest"),
        "clickhouse/cheat_features",  # only with the extra `ml`
        "postgres/cheat_model",
        "postgres/review_queue",
        *(  # ClickHouse fills them from `instance`
            f"clickhouse/{t}"
            for t in ("player_population_by_hour", "clear_time_by_day", "weapon_meta_by_hour")
        ),
    }
    assert [
        name(n.key)
        for n in NODES
        if n.is_executable
        and n.freshness_policy is None
        and name(n.key) not in by_a_person_or_on_demand | followed
    ] == []


def test_no_job_runs_beside_itself() -> None:
    """Two of them do the same work twice, or the second fails on the lock of the first.

    Archives are apart: a run each, as many as the pool has places.
    """
    several = [job.name for job in JOBS if ALONE_TAG not in job.tags]
    assert several == ["archives_job", "reprocessing_job"]


def test_jobs_of_ops_stop_vain_retries() -> None:
    """Assets have the hook themselves; a repair has it from its job."""

    def is_plain(job: dg.JobDefinition) -> bool:
        graph = job.asset_layer.asset_graph
        return not set(graph.executable_asset_keys) and not graph.asset_check_keys

    plain = [job for job in JOBS if is_plain(job)]
    assert broken(plain, lambda j: stop_run_retries in j.hook_defs, lambda j: j.name) == []


def test_every_schedule_runs_in_utc_and_is_explained() -> None:
    """The game's day, and everybody who reads the page, is in UTC."""
    found = REPOSITORY.schedule_defs
    assert broken(found, lambda s: s.description, lambda s: s.name) == []
    assert broken(found, lambda s: s.execution_timezone == "UTC", lambda s: s.name) == []
    running = dg.DefaultScheduleStatus.RUNNING
    assert broken(found, lambda s: s.default_status is running, lambda s: s.name) == []


def test_every_sensor_runs_and_is_explained() -> None:
    """One that nobody switched on is one that nobody misses until it is needed."""
    found = REPOSITORY.sensor_defs
    assert broken(found, lambda s: s.description, lambda s: s.name) == []
    assert broken(found, lambda s: s.name.endswith("_sensor"), lambda s: s.name) == []
    running = dg.DefaultSensorStatus.RUNNING
    assert broken(found, lambda s: s.default_status is running, lambda s: s.name) == []
    assert broken(found, lambda s: (s.minimum_interval_seconds or 0) >= 30, lambda s: s.name) == []


def test_every_condition_has_a_sensor_by_name() -> None:
    """Else Dagster makes one for all of them, which is not running."""
    sensors = {s.name for s in REPOSITORY.sensor_defs}
    assert "default_automation_condition_sensor" not in sensors
    conditioned = {n.key for n in NODES if n.automation_condition is not None}
    assert conditioned
    targeted: set[dg.AssetKey] = set()
    for sensor in REPOSITORY.sensor_defs:
        if isinstance(sensor, dg.AutomationConditionSensorDefinition):
            targeted |= sensor.asset_selection.resolve(GRAPH)
    assert conditioned <= targeted


def test_every_table_shows_its_columns() -> None:
    """Who opens a table's page wants to know what is in it.

    The test below prints the lines that sql/columns.csv lacks.
    """
    tables = [n for n in NODES if "dagster/table_name" in n.metadata]
    boards = [n for n in NODES if n.group_name == "leaderboards"]
    assert broken(boards, lambda n: n in tables, lambda n: name(n.key)) == []
    assert (
        broken(tables, lambda n: "dagster/column_schema" in n.metadata, lambda n: name(n.key)) == []
    )


def test_columns_are_those_of_the_stores(
    postgres: dict[str, Any], clickhouse: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    """A description that is not true is worse than none; who adds a table adds what is printed."""
    with connected(settings_for(postgres), "pytest") as connection:
        stored = postgres_columns(connection)
    client = connect_clickhouse(settings_for(clickhouse), "pytest")
    stored |= clickhouse_columns(client)
    client.close()
    tables = {n.metadata["dagster/table_name"] for n in NODES if "dagster/table_name" in n.metadata}
    listed = {t: [(c.name, c.type) for c in known] for t, known in columns().items()}
    for table in tables - listed.keys():
        for column, kind in stored.get(table, []):
            print(f'{table},{column},"{kind}",')
    assert listed == {table: stored.get(table, []) for table in listed}
    assert tables <= listed.keys()


def test_links_lead_to_the_web_where_a_repository_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server nobody has the files of this machine."""
    monkeypatch.setenv("REPOSITORY_URL", "https://github.com/example/raidhub")
    monkeypatch.setenv("REPOSITORY_BRANCH", "stable")
    defs = build_defs()
    spec = defs.resolve_assets_def(dg.AssetKey(["postgres", "wfr_score"])).specs_by_key
    (found,) = spec.values()
    (link,) = found.metadata["dagster/code_references"].code_references
    assert link.url.startswith(
        "https://github.com/example/raidhub/tree/stable/assets/leaderboards.py#L"
    )
