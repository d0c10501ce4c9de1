"""What a process believes about Bungie's systems when several sources tell."""

from raidhub_dagster.monitoring import metrics
from streaming.hermes.gate import Gate


def test_nothing_is_on_before_somebody_saw_it() -> None:
    gate = Gate()
    assert gate.off(("Destiny2", "Groups")) == ["Destiny2", "Groups"]
    assert gate.off(()) == []


def test_an_answer_asked_for_before_a_worker_met_maintenance_opens_nothing() -> None:
    """It was on its way meanwhile; opening again would burn a request for every slot."""
    now = [10.0]
    gate = Gate(clock=lambda: now[0])
    gate.observe({"Destiny2": True}, 0.0)
    gate.close(("Destiny2",))
    gate.observe({"Destiny2": True, "Groups": True}, 9.9)
    assert gate.off(("Destiny2",)) == ["Destiny2"]
    gate.observe({"Destiny2": True}, 10.1)
    assert gate.off(("Destiny2",)) == []
    assert metrics.API_SYSTEM_ENABLED.labels("Destiny2")._value.get() == 1


def test_only_topics_with_the_same_needs_close() -> None:
    """The answer does not say which system is off: others may need none of these."""
    gate = Gate(clock=lambda: 3.0)
    gate.observe({"Destiny2": True, "Groups": True}, 1.0)
    gate.close(("Destiny2", "Groups"))
    assert gate.off(("Groups", "Destiny2")) == ["Groups", "Destiny2"]
    assert gate.off(("Destiny2",)) == []
    gate.observe({"Destiny2": True}, 4.0)
    assert gate.off(("Groups", "Destiny2")) == ["Groups"]


def test_bungie_is_asked_once_about_what_a_worker_met() -> None:
    gate = Gate(clock=lambda: 3.0)
    assert not gate.take_doubt()
    gate.close(("Destiny2",))
    assert gate.take_doubt()
    assert not gate.take_doubt()
