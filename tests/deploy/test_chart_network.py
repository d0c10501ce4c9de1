"""Who may talk to whom, by the rules of Kubernetes' NetworkPolicies, computed from the manifests.

Whether a cluster enforces them is its network plugin's affair.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.support.chart import SETS, Render, instance_config, render, selects

_WORLD = ("192.0.2.10", "2a00:1450::1")


@dataclass(frozen=True)
class Party:
    """A pod, in the release's namespace unless `namespace` has another's labels; or an address."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] | None = None
    address: str | None = None


class Network:
    """The policies of one render."""

    def __init__(self, rendered: Render) -> None:
        self._policies = rendered.of("NetworkPolicy")
        self.pods = {pod.component: Party(pod.labels) for pod in rendered.pods()}
        self.pods["run"] = Party(instance_config(rendered)["run_launcher"]["config"]["labels"])

    def is_open(self, source: Party, target: Party, port: int) -> bool:
        """True when the policies of both ends let a connection to `port` through."""
        return self._leaves(source, target, port) and self._enters(source, target, port)

    def _leaves(self, source: Party, target: Party, port: int) -> bool:
        return self._passes("Egress", source, target, port)

    def _enters(self, source: Party, target: Party, port: int) -> bool:
        return self._passes("Ingress", target, source, port)

    def _passes(self, way: str, end: Party, peer: Party, port: int) -> bool:
        if end.namespace is not None or end.address is not None:
            return True  # not ours to close
        policies = [
            policy["spec"]
            for policy in self._policies
            if way in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"], end.labels)
        ]
        rules = [rule for policy in policies for rule in policy.get(way.lower(), [])]
        peers = {"Egress": "to", "Ingress": "from"}[way]
        return not policies or any(
            _has_port(rule, port) and any(_is(given, peer) for given in rule.get(peers, [{}]))
            for rule in rules
        )


def _has_port(rule: Mapping[str, Any], port: int) -> bool:
    return "ports" not in rule or any(given.get("port", port) == port for given in rule["ports"])


def _is(given: Mapping[str, Any], party: Party) -> bool:
    if "ipBlock" in given:
        if party.address is None:
            return False
        address, block = ip_address(party.address), given["ipBlock"]
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(hole) for hole in block.get("except", [])
        )
    if party.address is not None:
        return given == {}
    if "namespaceSelector" in given:
        own = {"kubernetes.io/metadata.name": "games"}
        if not selects(
            given["namespaceSelector"], own if party.namespace is None else party.namespace
        ):
            return False
    elif party.namespace is not None:
        return given == {}
    return selects(given.get("podSelector", {}), party.labels)


CLOSED = [name for name, values in SETS.items() if name != "elsewhere"]


@pytest.fixture(params=CLOSED)
def chosen(request: pytest.FixtureRequest) -> str:
    """The sets of values with policies."""
    name: str = request.param
    return name


@pytest.fixture
def network(rendered: Render) -> Network:
    return Network(rendered)


def _reaching(network: Network, target: Party, port: int) -> set[str]:
    return {name for name, pod in network.pods.items() if network.is_open(pod, target, port)}


def test_only_zeus_reaches_the_world(network: Network, chosen: str) -> None:
    """Whatever else talks out goes around the budget of the API, or carries data away.

    Pods that hold a webhook's address need its port, and the login asks its provider.
    """
    expected = {"zeus"}
    if any(name.endswith("_WEBHOOK_URL") for name in SETS[chosen].get("secrets", {})):
        expected |= {"atlas", "hermes", "relay", "code", "run"}
    if "oauth2Proxy" in SETS[chosen]:
        expected |= {"oauth2-proxy"}
    for address in _WORLD:
        assert _reaching(network, Party(address=address), 443) == expected
        for port in (22, 25, 53, 80, 5432, 8080):
            assert _reaching(network, Party(address=address), port) == set()
    # The cloud's own address, where a node's credentials are had for the asking.
    for port in (80, 443):
        assert _reaching(network, Party(address="169.254.169.254"), port) == set()


def test_only_those_who_crawl_reach_zeus(network: Network, chosen: str) -> None:
    """Zeus adds the key to whatever it is sent: a stranger would spend our budget."""
    if SETS[chosen].get("zeus", {}).get("hostNetwork"):
        pytest.skip("no policy holds for a pod in the node's network")
    zeus = network.pods["zeus"]
    assert _reaching(network, zeus, 7777) == {"atlas", "hermes", "code", "run"}


STRANGERS = {
    "a pod beside ours": Party({"app": "other"}),
    "another release": Party(
        {
            "app.kubernetes.io/name": "raidhub",
            "app.kubernetes.io/instance": "other",
            "app.kubernetes.io/component": "atlas",
        }
    ),
    "another namespace": Party(
        {"app": "other"}, namespace={"kubernetes.io/metadata.name": "other"}
    ),
    "the world": Party(address=_WORLD[0]),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS.keys())
def test_strangers_reach_nothing(network: Network, rendered: Render, stranger: Party) -> None:
    """Dagster's UI has no login, and metrics tell who plays when."""
    reached = {
        (pod.component, port["containerPort"])
        for pod in rendered.pods()
        for container in pod.main
        for port in container.get("ports", [])
        if network.is_open(stranger, Party(pod.labels), port["containerPort"])
    }
    assert reached == set()


NEEDS = {
    "atlas": {"zeus", "postgresql", "rabbitmq"},
    "hermes": {"zeus", "postgresql", "rabbitmq", "clickhouse"},
    "relay": {"postgresql", "rabbitmq", "clickhouse"},
    "code": {"zeus", "postgresql", "rabbitmq", "clickhouse", "broker's page"},
    "run": {"zeus", "postgresql", "rabbitmq", "clickhouse", "broker's page", "api"},
    "webserver": {"code", "postgresql", "api"},
    "daemon": {"code", "postgresql", "api"},
    "readonly": {"code", "postgresql"},
    "migrate": {"postgresql", "clickhouse"},
    "oauth2-proxy": {"webserver"},
}
PORTS = {
    "zeus": 7777,
    "postgresql": 5432,
    "rabbitmq": 5672,
    "broker's page": 15672,
    "clickhouse": 8123,
    "code": 4000,
    "webserver": 3000,
    "api": 443,
}


def test_everybody_reaches_what_it_works_with(network: Network, chosen: str) -> None:
    """A flow that was forgotten shows as a process that waits for its store for ever."""
    stores = Party({"app": "store"}, namespace={"kubernetes.io/metadata.name": "stores"})
    targets = {
        "api": Party(address="10.96.0.1"),
        **dict.fromkeys(("postgresql", "rabbitmq", "broker's page", "clickhouse"), stores),
        **{name: network.pods[name] for name in ("zeus", "code", "webserver")},
    }
    if "trial" in SETS[chosen]:
        targets |= {
            store: network.pods[store] for store in ("postgresql", "rabbitmq", "clickhouse")
        }
        targets["broker's page"] = network.pods["rabbitmq"]
    if SETS[chosen].get("zeus", {}).get("hostNetwork"):
        targets["zeus"] = Party(address="10.0.0.7")
    names = Party({"k8s-app": "kube-dns"}, namespace={"kubernetes.io/metadata.name": "kube-system"})
    for name, pod in network.pods.items():
        open_to = {t for t, party in targets.items() if network.is_open(pod, party, PORTS[t])}
        assert NEEDS.get(name, set()) <= open_to, name
        assert network.is_open(pod, names, 53), name


def test_prometheus_and_the_ingress_come_in(network: Network, chosen: str) -> None:
    prometheus = Party({}, namespace={"kubernetes.io/metadata.name": "monitoring"})
    for name, port in {"atlas": 8080, "hermes": 8081, "zeus": 8082, "relay": 8083}.items():
        assert network.is_open(prometheus, network.pods[name], port), name
    browser = Party({}, namespace={"kubernetes.io/metadata.name": "ingress-nginx"})
    with_login = "oauth2Proxy" in SETS[chosen]
    assert network.is_open(browser, network.pods["webserver"], 3000) is not with_login
    if with_login:
        assert network.is_open(browser, network.pods["oauth2-proxy"], 4180)


def test_an_open_policy_is_seen() -> None:
    """The computation above must be able to say yes."""
    everything = {"networkPolicy": {"world": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}}
    network = Network(render(everything))
    assert _reaching(network, Party(address="169.254.169.254"), 443) == {"zeus"}
    without = Network(render({"networkPolicy": {"enabled": False}}))
    assert without.is_open(STRANGERS["the world"], without.pods["webserver"], 3000)
