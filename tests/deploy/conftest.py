"""The chart with each set of values, rendered once a process."""

from functools import cache

import pytest

from tests.support.chart import SETS, Render, render


@cache
def _rendered(name: str) -> Render:
    return render(SETS[name])


@pytest.fixture(params=SETS)
def chosen(request: pytest.FixtureRequest) -> str:
    """The name of a set of values."""
    name: str = request.param
    return name


@pytest.fixture
def rendered(chosen: str) -> Render:
    return _rendered(chosen)
