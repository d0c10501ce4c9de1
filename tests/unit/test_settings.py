"""The environment: what it is called, what a missing value means, what an unusable one says."""

import re
from pathlib import Path

import pytest

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from tests.conftest import make_settings

EXAMPLE = Path(__file__).resolve().parents[2] / "example.env"


def variables() -> set[str]:
    """The first name of each setting in the environment."""
    found = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        found.add(str(alias.choices[0]) if alias and not isinstance(alias, str) else name.upper())  # type: ignore[union-attr]  # AliasChoices is the only one in use
    return found


def test_the_example_lists_every_setting() -> None:
    """Whoever runs the platform looks there, and nowhere else."""
    listed = set(
        re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text("utf-8"), re.MULTILINE)
    )
    assert listed == variables()


def test_callers_ask_zeus_unless_somebody_chose_another() -> None:
    """An address set by hand must not be replaced, nor one of the two drag the other along."""
    usual = make_settings(zeus_host="proxy", zeus_port=7000)
    assert (usual.www_base, usual.pgcr_base) == ("http://proxy:7000", "http://proxy:7000")
    assert usual.pgcr_origin == "https://stats.bungie.net"
    assert make_settings(zeus_host="fd00::7").www_base == "http://[fd00::7]:7777"
    direct = make_settings(pgcr_url_base="http://127.0.0.1:1")
    assert (direct.www_base, direct.pgcr_base) == ("http://localhost:7777", "http://127.0.0.1:1")
    assert direct.pgcr_origin == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("given", "keys"), [(None, ("own",)), (" , ", ("own",)), ("a, b ,,c", ("a", "b", "c"))]
)
def test_zeus_shows_its_own_keys_or_the_callers(given: str | None, keys: tuple[str, ...]) -> None:
    """A trailing comma must not become a key that Bungie refuses."""
    assert make_settings(bungie_api_key="own", zeus_api_keys=given).upstream_keys == keys


@pytest.mark.parametrize("name", ["IPV6", "ZEUS_IPV6"])
def test_aliases_are_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, " ::1 ")
    assert Settings(_env_file=None).ipv6 == "::1"


def test_an_unusable_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEUS_STATS_RATE", "-1")
    with pytest.raises(ConfigurationError, match="ZEUS_STATS_RATE"):
        Settings.load(stack_env=False)


def test_nobody_from_outside_gets_in_unless_told() -> None:
    """Zeus spends our budget, and the metrics tell how the crawl does to whoever asks."""
    usual = make_settings()
    assert (usual.zeus_bind, usual.metrics_host) == ("127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize(
    ("bind", "local"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), (" 10.0.0.7 ", "10.0.0.7")],  # noqa: S104
)
def test_what_listens_for_others_is_found_on_its_own_machine(bind: str, local: str) -> None:
    """`raidhub status` would call it unhealthy, and the crawl would find no zeus."""
    open_to_others = make_settings(zeus_bind=bind, metrics_host=bind)
    assert (open_to_others.zeus_local, open_to_others.metrics_local) == (local, local)


@pytest.mark.parametrize("name", ["ZEUS_BIND", "METRICS_HOST"])
def test_a_name_is_no_address_to_listen_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "everywhere")
    with pytest.raises(ConfigurationError, match=f"{name}: .*everywhere"):
        Settings.load(stack_env=False)
