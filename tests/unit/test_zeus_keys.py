"""Turns over our keys, and what becomes of one that Bungie refuses."""

from streaming.zeus.keys import QUARANTINE_S, Keys

NOW = 1000.0


def picks(keys: Keys, now: float, count: int = 4) -> list[int | None]:
    return [keys.pick(now) for _ in range(count)]


def test_healthy_keys_take_turns() -> None:
    keys = Keys(("a", "b", "c"))
    assert picks(keys, NOW) == [0, 1, 2, 0]
    assert keys.text(2) == "c"
    assert keys.usable_at(NOW) == NOW
    assert keys.refusal(NOW) is None


def test_a_refused_key_rests_for_an_hour_and_is_told_once() -> None:
    keys = Keys(("a", "b"))
    assert keys.refused(0, 2101, NOW)
    assert not keys.refused(0, 2101, NOW + 1)  # others that were on their way
    assert not keys.accepted(0, NOW - 1)  # and one from before
    assert picks(keys, NOW + QUARANTINE_S - 1) == [1, 1, 1, 1]
    assert (keys.healthy, keys.is_refused(0)) == (1, True)


def test_then_one_request_tries_it() -> None:
    """Two probes of a bad key would be two requests for nothing, a thousand a ban."""
    keys = Keys(("a", "b"))
    keys.refused(0, 2101, NOW)
    later = NOW + QUARANTINE_S
    assert sorted(picks(keys, later), key=str) == [0, 1, 1, 1]
    assert keys.accepted(0, later)
    assert picks(keys, later + 1) in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert keys.healthy == 2


def test_a_failed_probe_is_another_hour_without_another_alert() -> None:
    keys = Keys(("a",))
    keys.refused(0, 2103, NOW)
    later = NOW + QUARANTINE_S
    assert keys.pick(later) == 0
    assert not keys.refused(0, 2103, later + 1)
    assert keys.pick(later + 2) is None
    assert keys.refusal(later + 2) == (2103, QUARANTINE_S - 1)


def test_a_probe_without_an_answer_is_repeated() -> None:
    """A lost connection must not leave the key in quarantine for ever."""
    keys = Keys(("a",))
    keys.refused(0, None, NOW)
    later = NOW + QUARANTINE_S
    assert picks(keys, later, 2) == [0, None]
    assert keys.refusal(later) == (None, 1.0)
    keys.undecided(0)
    assert keys.refusal(later) is None
    assert keys.pick(later) == 0


def test_a_throttled_key_pauses_while_others_go_on() -> None:
    keys = Keys(("a", "b"))
    assert not keys.throttled(1, 54, 10.0, NOW - 0.1, NOW)
    assert picks(keys, NOW + 9) == [0, 0, 0, 0]
    assert keys.usable_at(NOW) == NOW
    assert 1 in picks(keys, NOW + 10)


def test_the_only_key_pauses_everything_but_refuses_nobody() -> None:
    keys = Keys(("a",))
    keys.throttled(0, 56, 30.0, NOW, NOW)
    assert keys.pick(NOW + 1) is None
    assert keys.usable_at(NOW + 1) == NOW + 30
    assert keys.refusal(NOW + 1) is None


def test_five_throttles_in_a_row_are_a_quarantine() -> None:
    keys = Keys(("a",))
    now, told = NOW, []
    for _ in range(5):
        told.append(keys.throttled(0, 54, 10.0, now, now))
        assert not keys.throttled(0, 54, 10.0, now - 0.5, now + 0.1)  # in flight: not in the row
        now += 11
    assert told == [False] * 4 + [True]
    assert keys.is_refused(0)


def test_a_good_answer_breaks_the_row() -> None:
    keys = Keys(("a",))
    now = NOW
    for _ in range(3):
        for _ in range(4):
            assert not keys.throttled(0, 54, 10.0, now, now)
            now += 11
        keys.accepted(0, now)
        now += 1
    assert not keys.is_refused(0)


def test_a_late_success_does_not_end_a_pause() -> None:
    keys = Keys(("a",))
    keys.throttled(0, 54, 10.0, NOW, NOW)
    keys.accepted(0, NOW - 0.2)
    assert keys.pick(NOW + 1) is None
