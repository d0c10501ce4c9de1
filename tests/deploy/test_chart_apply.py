"""The rendered chart through real kubectl into an emulated API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chart import NAMESPACE, rendered_set
from tests.support.cluster import Cluster, emulated_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with emulated_cluster(tmp_path) as found:
        yield found


def test_the_production_values_are_applied_whole_and_once(cluster: Cluster) -> None:
    """What kubectl cannot place stops an installation half-way.

    What it changes each time restarts pods on every upgrade of something else.
    """
    manifests = list(rendered_set("production").manifests)
    apply = ("apply", "--validate=false", "--namespace", NAMESPACE)
    first = cluster.kubectl(*apply, manifests=manifests)
    assert sorted(line.split()[-1] for line in first) == ["created"] * len(manifests)
    installed = cluster.everything()
    assert len(installed) == len(manifests)
    second = cluster.kubectl(*apply, manifests=manifests)
    assert cluster.everything() == installed
    # kubectl sends the selector of a budget whole each time: the field says so of itself.
    changed = {line.split()[0] for line in second if not line.endswith("unchanged")}
    assert {name.split(".")[0] for name in changed} <= {"poddisruptionbudget"}


def test_a_kind_without_its_operator_stops_the_installation(cluster: Cluster) -> None:
    """The emulator must be able to refuse, or the test above shows nothing."""
    certificate = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": "a"},
    }
    with pytest.raises(AssertionError, match="no matches for kind"):
        cluster.kubectl("apply", "--validate=false", manifests=[certificate])
