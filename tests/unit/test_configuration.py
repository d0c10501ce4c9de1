"""`raidhub config`: every value with its source, no secret, and each problem in a line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raidhub_dagster.commands.config import config, docs_page, example_env
from raidhub_dagster.configuration import MASK, examine, shown
from raidhub_dagster.settings import SECTIONS, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAIDHUB_HOME", "home")
    return tmp_path


def check(*arguments: str) -> Result:
    return CliRunner().invoke(config, ["check", *arguments])


def test_every_setting_belongs_to_a_section_and_says_what_it_does() -> None:
    listed = [name for section in SECTIONS for name in section.__annotations__]
    assert sorted(listed) == sorted(Settings.model_fields)
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []


@pytest.mark.parametrize(
    ("command", "page"), [("example", "example.env"), ("docs", "docs/configuration.md")]
)
def test_the_pages_are_those_that_the_settings_make(command: str, page: str) -> None:
    """Whoever runs the platform looks there, and nowhere else."""
    printed = CliRunner().invoke(config, [command], catch_exceptions=False).stdout
    assert (ROOT / page).read_text("utf-8") == printed, f"raidhub config {command} > {page}"


def test_the_example_as_it_stands_changes_nothing(folder: Path) -> None:
    """People copy it whole; and what is commented out are the defaults."""
    before = Settings.load().model_dump()
    (folder / ".env").write_text(example_env(), "utf-8")
    assert Settings.load().model_dump() == before
    examples = {n for n, field in Settings.model_fields.items() if field.examples}
    uncommented = "\n".join(
        line.removeprefix("# ") for line in example_env().splitlines() if "=" in line
    )
    (folder / ".env").write_text(uncommented, "utf-8")
    after = Settings.load().model_dump()
    assert {name for name in before if after[name] != before[name]} == examples


def test_the_docs_show_no_line_that_markdown_would_break() -> None:
    rows = [line for line in docs_page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(Settings.model_fields)
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)


def test_each_value_tells_who_gave_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise somebody edits .env for an hour while the environment wins."""
    (folder / "home").mkdir()
    (folder / "home" / "stack.env").write_text("POSTGRES_HOST=a\nPOSTGRES_PORT=1\nPOSTGRES_DB=a\n")
    (folder / ".env").write_text("POSTGRES_PORT=2\nPOSTGRES_DB=b\nZEUS_IPV6=::1\n")
    monkeypatch.setenv("POSTGRES_DB", "c")
    monkeypatch.setenv("DISCORD_ALERTS_ROLE_ID", "7")
    monkeypatch.setenv("CLICKHOUSE_DB", "")
    found = {value.name: (value.value, value.source) for value in examine().values}
    assert len(found) == len(Settings.model_fields)
    told = {
        "POSTGRES_HOST": ("a", "stack.env"),
        "POSTGRES_PORT": ("2", ".env"),
        "POSTGRES_DB": ("c", "environment"),
        "POSTGRES_USER": (None, "default"),
        "IPV6": ("::1", ".env"),
        "ALERTS_ROLE_ID": ("7", "environment"),
        "CLICKHOUSE_DB": ("default", "default"),
        "ZEUS_STATS_RATE": ("40", "default"),
        "IS_CONTEST_WEEKEND": ("false", "default"),
    }
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://u:geheim@host:1/p", f"http://u:{MASK}@host:1/p"),
        ("http://geheim@host/p", f"http://{MASK}@host/p"),
        ("https://host/p?sig=geheim&part=1", f"https://host/p?sig={MASK}&part={MASK}"),
        ("--proxy http://u:geheim@host --rate 1", f"--proxy http://u:{MASK}@host --rate 1"),
        ("http://[geheim", MASK),
        ("https://www.bungie.net", "https://www.bungie.net"),
        ("/srv/archives", "/srv/archives"),
    ],
)
def test_passwords_in_addresses_are_masked(value: str, expected: str) -> None:
    assert shown(value) == expected


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_no_secret_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """The output goes into tickets and chats."""
    secrets = Settings.secret_variables()
    for name in secrets:
        monkeypatch.setenv(name, "http://h/geheim")
    (folder / ".env").write_text("ARCHIVE_SOURCE=http://u:geheim@h/\nPOSTGRES_PASWORD=geheim\n")
    result = check(*arguments)
    assert len(secrets) > 10
    assert "geheim" not in result.output + result.stderr
    assert result.output.count(MASK) == len(secrets) + 1


def test_what_works_exits_0_and_warns(folder: Path) -> None:
    result = check()
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warning: BUNGIE_API_KEY: is not set; atlas, zeus and hermes do not start without it"
    ]
    assert check("--strict").exit_code == 2
    (folder / ".env").write_text("BUNGIE_API_KEY=key\n")
    assert check("--strict").exit_code == 0


PROBLEMS = {
    "type": ("ZEUS_PORT=seven", "ZEUS_PORT: "),
    "typo": ("POSTGRES_PASWORD=x", "POSTGRES_PASWORD in .env is no setting; POSTGRES_PASSWORD is"),
    "case of a typo": ("zeus_ports=1", "zeus_ports in .env is no setting; ZEUS_PORT is"),
    "line": ("POSTGRES_HOST=a\nnot a line\n", ".env: line 2 cannot be read"),
    "rechecks": ("YOUNG_FIRST_RECHECK_S=200000", "YOUNG_LAST_RECHECK_S: 172800 is not after"),
    "young recheck": ("YOUNG_FIRST_RECHECK_S=60", "YOUNG_FIRST_RECHECK_S: after 60 s a raid is"),
    "readers": ("POSTGRES_USER=readonly", "POSTGRES_READONLY_USER: is the owner"),
    "one role twice": (
        "POSTGRES_DAGSTER_USER=raidhub_writer",
        "POSTGRES_DAGSTER_USER: is POSTGRES_WRITER_USER too",
    ),
    "infinite": ("PLAYER_FRESH_H=inf", "PLAYER_FRESH_H: Input should be a finite number"),
    "ports": ("RAIDHUB_PORT_BASE=65530", "RAIDHUB_PORT_BASE: 65530 leaves no thirteen"),
    "arguments": ("RAIDHUB_ATLAS_ARGS=--target '1", "RAIDHUB_ATLAS_ARGS: No closing quotation"),
    "rules": ("CHEAT_VERSION=nobody", "CHEAT_VERSION: "),
}


@pytest.mark.parametrize(("text", "told"), PROBLEMS.values(), ids=PROBLEMS)
def test_nonsense_exits_2_with_a_line(folder: Path, text: str, told: str) -> None:
    (folder / ".env").write_text(f"BUNGIE_API_KEY=key\n{text}\n")
    result = check()
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {told.replace('line 2', 'line 3')}")


def test_every_problem_is_told_at_once(folder: Path) -> None:
    """Else a deployment fails as often as it has mistakes."""
    (folder / ".env").write_text("ZEUS_PORT=x\nLOG_LEVEL=loud\nPOSTGRES_PASWORD=x\n")
    answer = json.loads(check("--json").stdout)
    assert answer["values"] == []
    assert len(answer["problems"]) == 3


def test_a_file_that_is_no_text_is_a_problem(folder: Path) -> None:
    (folder / ".env").write_bytes(b"ENVIRONMENT=caf\xe9\n")
    result = check()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: .env or stack.env cannot be read: ")


WARNINGS = {
    "burst": ("ZEUS_STATS_BURST=3", "ZEUS_STATS_BURST: 3 is less than a second's requests"),
    "around zeus": ("PGCR_URL_BASE=https://stats.bungie.net", "PGCR_URL_BASE: goes around zeus"),
    "equal ports": ("HERMES_METRICS_PORT=8080", "HERMES_METRICS_PORT: is ATLAS_METRICS_PORT too"),
    "unused": ("GM_REPORT_WEBHOOK_AUTH=x", "GM_REPORT_WEBHOOK_AUTH: goes nowhere"),
    "no archive": ("ARCHIVE_INDEX=http://a/b", "ARCHIVE_INDEX: lists nothing"),
    "ours": ("RAIDHUB_COLOUR=1", "RAIDHUB_COLOUR in .env is no setting"),
    "twice": ("LOG_LEVEL=info\nLOG_LEVEL=debug", "LOG_LEVEL stands 2 times in .env"),
}


@pytest.mark.parametrize(("text", "told"), WARNINGS.values(), ids=WARNINGS)
def test_what_can_be_meant_is_a_warning(folder: Path, text: str, told: str) -> None:
    (folder / ".env").write_text(f"BUNGIE_API_KEY=key\n{text}\n")
    found = examine({})
    assert found.problems == []
    (warning,) = found.warnings
    assert warning.startswith(told)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CLICKHOUSE_PASWORD", "CLICKHOUSE_PASSWORD"),
        ("POSTGRES_PASSWORD_FILE", None),  # of an image
        ("ZEUS_SERVICE_HOST", None),  # of Kubernetes
        ("POSTGRES_PORT_5432_TCP_PORT", None),
        ("PATH", None),
    ],
)
def test_only_near_misses_of_the_environment_are_told(name: str, nearest: str | None) -> None:
    """It is full of names of others."""
    warnings = [w for w in examine({name: "x"}).warnings if "in the environment" in w]
    told = f"{name} in the environment is no setting; {nearest} is"
    assert warnings == ([told] if nearest else [])


def test_names_of_other_programs_are_left_alone(folder: Path) -> None:
    """Compose reads the same file."""
    text = "BUNGIE_API_KEY=key\nGF_SECURITY_ADMIN_USER=x\nDAGSTER_HOME=/x\nCOMPOSE_PROFILES=core\n"
    (folder / ".env").write_text(text)
    assert (examine({}).problems, examine({}).warnings) == ([], [])
