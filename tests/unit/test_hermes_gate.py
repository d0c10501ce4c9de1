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
    assert gate.off(("Destiny2", "Groups")) == ["Destiny2"]
    assert metrics.API_SYSTEM_ENABLED.labels("Destiny2")._value.get() == 0
    gate.observe({"Destiny2": True}, 10.1)
    assert gate.off(("Destiny2", "Groups")) == []
    assert metrics.API_SYSTEM_ENABLED.labels("Destiny2")._value.get() == 1


def test_what_a_worker_saw_is_told_to_the_others_once() -> None:
    gate = Gate(clock=lambda: 3.0)
    gate.observe({"Groups": True}, 1.0)
    gate.close(("Destiny2",))
    assert gate.take_untold() == [({"Destiny2": False}, 3.0)]
    assert gate.take_untold() == []
