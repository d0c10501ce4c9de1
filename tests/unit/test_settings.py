"""The environment: what it is called, what a missing value means, what an unusable one says."""

from pathlib import Path

import pytest

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from tests.conftest import make_settings


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


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ZEUS_PORT", "tcp://10.0.0.1:7777", "ZEUS_PORT: was set by Kubernetes"),
        ("ZEUS_PORT", "0", "ZEUS_PORT: "),
        ("ZEUS_WWW_URL", "www.bungie.net", "ZEUS_WWW_URL: is no address"),
        ("ZEUS_WWW_URL", "https://", "ZEUS_WWW_URL: is no address"),
        ("DAGSTER_UI_URL", "http://ui:port", "DAGSTER_UI_URL: is no address"),
        ("ATLAS_WEBHOOK_URL", "s3cret", "ATLAS_WEBHOOK_URL: is no address"),
        ("ZEUS_IPV6", "2001:db8::g", "IPV6: is no IP address"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: is none of "),
        ("IS_CONTEST_WEEKEND", "maybe", "IS_CONTEST_WEEKEND: "),
    ],
)
def test_nonsense_is_told_in_one_line_without_the_value_of_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    """A pod that starts anyway fails in the night, at the first alert for instance."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(stack_env=False)
    message = str(raised.value)
    assert message.startswith(f"unusable setting: {told}")
    assert "s3cret" not in message
    assert "\n" not in message


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    """Compose files set variables of nobody to nothing."""
    for name in ("ATLAS_WEBHOOK_URL", "ZEUS_WWW_URL", "IPV6", "ZEUS_PORT", "POSTGRES_HOST"):
        monkeypatch.setenv(name, blank)
    assert Settings(_env_file=None).model_dump() == make_settings().model_dump() | {
        "raidhub_home": Settings(_env_file=None).raidhub_home
    }
    assert not Settings(_env_file=None).was_set("postgres_host")


def test_settings_that_are_no_text_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"ENVIRONMENT=caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"\.env .* cannot be read"):
        Settings.load()


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
    with pytest.raises(ConfigurationError, match=f"{name}: is no IP address"):
        Settings.load(stack_env=False)
