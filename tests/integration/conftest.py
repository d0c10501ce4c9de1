"""Fixtures that several modules of this folder share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raidhub_dagster.settings import Settings
from tests.support import analytics as analytics_stores
from tests.support.analytics import Analytics
from tests.support.bungie import Bungie, simulated
from tests.support.database import Database, opened


@pytest.fixture
def analytics(
    postgres: dict[str, Any], clickhouse: dict[str, Any], settings_for: Callable[..., Settings]
) -> Iterator[Analytics]:
    with analytics_stores.opened(settings_for(postgres, clickhouse)) as stores:
        yield stores


@pytest.fixture(scope="session")
def simulated_bungie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("bungie")) as bungie:
        yield bungie


@pytest.fixture
def bungie(simulated_bungie: Bungie) -> Iterator[Bungie]:
    """The session's simulator, calm again at the end."""
    yield simulated_bungie
    simulated_bungie.calm()


@pytest.fixture
def api_settings(
    bungie: Bungie,
    postgres: dict[str, Any],
    rabbitmq: dict[str, Any],
    settings_for: Callable[..., Settings],
) -> Settings:
    """Everything a topic needs that asks the API."""
    return settings_for(
        postgres,
        rabbitmq,
        bungie_api_key="key",
        bungie_url_base=bungie.address,
        pgcr_url_base=bungie.address,
    )


@pytest.fixture
def database(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Iterator[Database]:
    """A store without instances."""
    with opened(settings_for(postgres)) as database:
        yield database
