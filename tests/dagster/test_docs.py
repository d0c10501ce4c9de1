"""Docs that name what exists: at night nobody has time to find out which name was changed."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import psycopg2
import pytest
from dagster._core.definitions.repository_definition import RepositoryDefinition

from raidhub_dagster.cli import raidhub
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect
from tests.dagster.home import ROOT
from tests.support.commands import DOCS, job_commands

PAGES = {name: (DOCS / f"{name}.md").read_text("utf-8") for name in ("dagster", "handbook")}
COMMANDS = (DOCS / "commands.md").read_text("utf-8")
REPAIRS = (DOCS / "repairs" / "README.md").read_text("utf-8")
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


@pytest.fixture(scope="module")
def repository() -> RepositoryDefinition:
    return build_defs().get_repository_def()


def names_in(text: str) -> set[str]:
    """Everything in backticks that looks like a name."""
    return set(re.findall(r"`([a-z]\w+)`", text))


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = text.split(f"\n## {heading}\n", 1)[1]
    table = section[section.index("\n|") :].split("\n\n", 2)[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_every_schedule_and_sensor_stands_in_the_handbook(repository: RepositoryDefinition) -> None:
    """Who reads what stands still must find what that means."""
    there = {schedule.name for schedule in repository.schedule_defs}
    there |= {sensor.name for sensor in repository.sensor_defs}
    told = {name for name in names_in(PAGES["handbook"]) if re.search(r"_(schedule|sensor)$", name)}
    assert told == there


def test_every_job_and_group_is_told(repository: RepositoryDefinition) -> None:
    """A job that no page names is started by nobody."""
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    told = names_in(PAGES["dagster"]) | names_in(PAGES["handbook"]) | names_in(REPAIRS)
    by_schedule = {s.job_name for s in repository.schedule_defs}  # the schedules' table covers them
    assert jobs - told - by_schedule - set(re.findall(r"\[`(\w+)`\]", REPAIRS)) == set()
    named = {name for name in told if name.endswith("_job")}
    assert named - jobs == set(), "no such job"

    graph = repository.asset_graph
    groups = {str(graph.get(key).group_name) for key in graph.get_all_asset_keys()}
    assert sorted(row[0] for row in rows(PAGES["dagster"], "Assets by group")) == sorted(groups)


@pytest.mark.parametrize("path", sorted((DOCS / "operations").glob("*.md")), ids=lambda p: p.stem)
def test_pages_of_operations_name_what_exists(path: Path, repository: RepositoryDefinition) -> None:
    """A checklist for a bad day has no time for a job that was renamed."""
    jobs = set(repository.job_names)
    clocks = {schedule.name for schedule in repository.schedule_defs}
    clocks |= {sensor.name for sensor in repository.sensor_defs}
    files = {file.stem for file in (DOCS / "repairs").glob("*.yaml")}
    text = path.read_text("utf-8")
    named = names_in(text)
    assert set(re.findall(r"dagster job execute [^`]*-j (\w+)", text)) <= jobs
    assert {name for name in named if name.endswith("_job")} <= jobs
    assert {name for name in named if re.search(r"_(schedule|sensor)$", name)} <= clocks
    assert {name for name in named if name in files} <= jobs


def test_the_times_of_schedules_are_those_of_the_code(repository: RepositoryDefinition) -> None:
    """Somebody waits for ranks at the time that the page gives."""
    told = {
        name: (time, "*" in mark, what)
        for cell, time, what in rows(PAGES["dagster"], "Schedules")
        for name, mark in [re.fullmatch(r"`(\w+)`( \*)?", cell).groups("")]  # type: ignore[union-attr]
    }
    assert set(told) == {schedule.name for schedule in repository.schedule_defs}
    for schedule in repository.schedule_defs:
        time, is_repair, _ = told[schedule.name]
        assert time.startswith(spoken(str(schedule.cron_schedule))), schedule.name
        stem = schedule.name.removesuffix("_schedule")
        assert schedule.job_name == (stem if is_repair else f"{stem}_job")


def spoken(cron: str) -> str:
    """A cron line as the page writes it; days of a month are left to the page."""
    minute, hour, _, _, weekday = cron.split()
    if minute.startswith("*/"):
        return f"every {minute.removeprefix('*/')} minutes"
    clock = ", ".join(f"{int(h):02}:{int(minute):02}" for h in hour.split(","))
    return clock if weekday == "*" else f"{WEEKDAYS[int(weekday)]} {clock}"


def test_schedules_are_sorted_by_time() -> None:
    """One looks for what runs about an hour."""
    clocks = [re.search(r"\d\d:\d\d$", row[1]) for row in rows(PAGES["dagster"], "Schedules")]
    times = [clock.group() for clock in clocks[4:] if clock]  # the first four run all day
    assert len(times) == len(clocks) - 4
    assert times == sorted(times)


def test_the_intervals_of_sensors_are_those_of_the_code(repository: RepositoryDefinition) -> None:
    """How long until something is noticed."""
    unit = {"s": 1, "min": 60}
    told = {
        name.strip("`"): int(every.split()[0]) * unit[every.split()[1]]
        for name, every, _ in rows(PAGES["dagster"], "Sensors")
    }
    assert told == {s.name: s.minimum_interval_seconds for s in repository.sensor_defs}


def test_every_alert_has_an_answer() -> None:
    """An alert without one is answered by guessing."""
    titles = {
        title.strip()
        for line in (DOCS / "alerts.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| title")
        for title in line.split("|")[1].split(" / ")
    }
    answered = {
        t.strip()
        for row in rows(PAGES["handbook"], "An alert in Discord")
        for t in row[0].split(",")
    }
    assert answered == titles


def test_the_checks_are_called_so(repository: RepositoryDefinition) -> None:
    """A red check is looked up by its name; `...` stands for the table's."""
    there = {key.name for key in repository.asset_graph.asset_check_keys}
    told = [row[0] for row in rows(PAGES["dagster"], "Checks")]
    told += [row[0] for row in rows(PAGES["handbook"], "What to do when")]
    for name in re.findall(r"`((?:\.\.\.)?_?[a-z]\w+)`", " ".join(told)):
        end = name.removeprefix("...")
        found = [check for check in there if check == name or (end != name and check.endswith(end))]
        assert found or name in ("player", "player_stats"), name


def test_every_command_names_a_job_and_a_file(repository: RepositoryDefinition) -> None:
    """The page is copied from, character by character."""
    commands = job_commands()
    assert {command.job for command in commands} <= set(repository.job_names)
    files = [command.config for command in commands if command.config]
    assert all(file.exists() for file in files)
    unnamed = set((DOCS / "repairs").glob("*.yaml")) - set(files)
    assert unnamed == set(), "an example that no command uses"


def test_every_example_is_listed() -> None:
    """The README of the folder is where one looks for a repair."""
    for path in (DOCS / "repairs").glob("*.yaml"):
        assert f"[`{path.stem}`]({path.name})" in REPAIRS


PAGES_WITH_COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *DOCS.glob("*.md"), *(DOCS / "operations").glob("*.md"))
)


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_a_command_of_raidhub_exists_with_its_options(page: str) -> None:
    """So is this one."""
    text = (ROOT / page).read_text("utf-8")
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    typed = [" ".join(t.split()) for t in re.findall(r"`(raidhub [a-z][^`]*)`", text)]
    typed += re.findall(r"^\s*(raidhub [a-z][^#|\n]*)", shell, re.MULTILINE)
    for line in typed:
        command: click.Command = raidhub
        for word in line.split("#")[0].split()[1:]:
            if isinstance(command, click.Group) and word[0] not in "-[":
                named = [command.get_command(click.Context(command), w) for w in word.split("|")]
                assert all(named), line
                command = named[0] or command
            elif word.startswith("--"):
                known = {option for parameter in command.params for option in parameter.opts}
                assert word.partition("=")[0].rstrip(",.;)") in known, line


@pytest.mark.parametrize(
    "path", sorted({*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"}), ids=str
)
def test_links_lead_somewhere(path: Path) -> None:
    """A page of another name, or a heading that was changed."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target


STATEMENTS = [
    (str(path.relative_to(DOCS)), number, block)
    for path in sorted((DOCS / "handbook.md", *(DOCS / "operations").glob("*.md")))
    for number, block in enumerate(
        re.findall(r"```sql\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    )
]


def test_statements_of_handbook_and_runbook_run(
    postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    """They are pasted after a crash, when nobody can try them first."""
    assert {page for page, _, _ in STATEMENTS} >= {"handbook.md", "operations/runbook.md"}
    with (
        closing(connect(settings_for(postgres), "pytest")) as connection,
        connection.cursor() as cursor,
    ):
        for page, number, block in STATEMENTS:
            is_whole = "CONCURRENTLY" not in block  # which no transaction may hold
            connection.rollback()
            connection.autocommit = not is_whole
            try:
                for statement in [block.replace("COMMIT;", "")] if is_whole else block.split(";"):
                    if statement.strip():
                        cursor.execute(statement)
            except psycopg2.Error as error:
                raise AssertionError(f"{page}, statement {number}: {error}") from error
