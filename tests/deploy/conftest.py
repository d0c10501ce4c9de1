"""The chart with each set of values, rendered once a process."""

import pytest

from tests.support.chart import SETS, Render, rendered_set


@pytest.fixture(params=SETS)
def chosen(request: pytest.FixtureRequest) -> str:
    """The name of a set of values."""
    name: str = request.param
    return name


@pytest.fixture
def rendered(chosen: str) -> Render:
    return rendered_set(chosen)
