"""The rendered chart through real kubectl into an emulated API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chart import NAMESPACE, render, values_file
from tests.support.cluster import Cluster, emulated_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with emulated_cluster(tmp_path) as found:
        yield found


def test_the_production_values_are_applied_whole_and_once(cluster: Cluster) -> None:
    """A manifest that kubectl cannot place stops an installation half-way; one that it changes each
    time restarts pods on every upgrade of something else."""
    rendered = render(values_file("values-production.yaml"))
    apply = ("apply", "--validate=false", "--namespace", NAMESPACE)
    first = cluster.kubectl(*apply, manifests=list(rendered.manifests))
    assert sorted(line.split()[-1] for line in first) == ["created"] * len(rendered.manifests)
    written = cluster.writes()
    second = cluster.kubectl(*apply, manifests=list(rendered.manifests))
    assert {line.split()[-1] for line in second} == {"unchanged"}
    assert cluster.writes() == written
