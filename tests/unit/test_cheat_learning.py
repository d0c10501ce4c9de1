"""Learned scores on made-up players: what is usual, what is odd, why, and how good that is."""

import hashlib
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raidhub_dagster.cheat_learning import features
from raidhub_dagster.cheat_learning.artifact import PREFIX, SUFFIX, Entry, load_model
from raidhub_dagster.cheat_learning.evaluation import (
    calibration,
    evaluate,
    evaluate_splits,
    splits,
)
from raidhub_dagster.cheat_learning.features import (
    FEATURES,
    KINDS,
    MIN_GROUP,
    MOST_SPREADS,
    SCHEMA,
    Floats,
    Rows,
    find_usual,
    fit_norms,
    standardise,
)
from raidhub_dagster.cheat_learning.labels import Known, label
from raidhub_dagster.cheat_learning.models import (
    Model,
    library_version,
    require_installed,
    score,
    score_spreads,
    score_usual,
    train,
)
from raidhub_dagster.cheat_learning.reasons import find_reasons
from raidhub_dagster.cheat_learning.review import worth_of
from raidhub_dagster.errors import ConfigurationError, PermanentError
from tests.support.cheat_runs import UNKNOWN, Population, populate

PLACE = {feature.column: place for place, feature in enumerate(FEATURES)}
AT = datetime(2026, 6, 1, tzinfo=UTC)


def rows_of(
    values: Floats | Sequence[float],
    *,
    raids: Sequence[int] | int = 11,
    seasons: Sequence[int] | int = 25,
    sizes: Sequence[int] | int = 6,
) -> Rows:
    """Rows whose measures are all the same number, one a row; nan is unknown."""
    column = np.asarray(values, dtype=np.float64)
    number = len(column)
    ids = np.arange(number, dtype=np.int64)

    def spread(value: Sequence[int] | int) -> features.Ints:
        return np.broadcast_to(np.asarray(value, dtype=np.int64), (number,)).copy()

    flags = np.ones(number, dtype=np.bool_)
    return Rows(
        ids, ids, spread(raids), spread(1), spread(seasons), spread(sizes), flags, spread(0),
        flags, np.repeat(column[:, None], len(FEATURES), axis=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(1, runs=1500, players=700, cheaters=6)


@pytest.fixture(scope="module")
def model(population: Population) -> Model:
    known = population.labelled()
    return train(known.rows, known.positive, known.negative, known.weights)


# --- what is usual


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.just(float("nan")), st.floats(0, 100))),
        min_size=1,
        max_size=200,
    )
)
def test_norms_are_the_quantiles_of_each_kind(drawn: list[tuple[int, float]]) -> None:
    """By numpy's own word; a kind beside another one must not lend it a number."""
    raids, values = zip(*drawn, strict=True)
    norms = fit_norms(rows_of(values, raids=raids))
    for place, raid in enumerate(sorted(set(raids))):
        known = np.array([v for r, v in drawn if r == raid and not np.isnan(v)])
        assert norms.counts[0][place, 0] == len(known)
        found = norms.quantiles[0][place, 0]
        expected = np.quantile(known, (0.1, 0.5, 0.9)) if len(known) else np.full(3, np.nan)
        assert np.allclose(found, expected, equal_nan=True)


def test_a_tiny_kind_asks_the_next_wider_one() -> None:
    """Three runs of a new season would make everybody in them look ordinary, or everybody odd."""
    many, few = MIN_GROUP, 3
    rows = rows_of([1.0] * many + [9.0] * few, seasons=[25] * many + [26] * few)
    usual = find_usual(fit_norms(rows), rows)
    assert set(usual.kind[:many, 0]) == {0}
    assert set(usual.kind[many:, 0]) == {1}
    assert usual.median[-1, 0] == 1.0
    assert usual.players[-1, 0] == many + few


def test_a_season_that_training_did_not_see_is_compared_without_season() -> None:
    """The model is a week old when a season begins."""
    rows = rows_of([1.0] * MIN_GROUP)
    usual = find_usual(fit_norms(rows), rows_of([1.0], seasons=99))
    assert (usual.kind[0, 0], usual.median[0, 0]) == (1, 1.0)


def test_a_raid_that_training_did_not_see_is_compared_with_all() -> None:
    rows = rows_of([1.0] * MIN_GROUP)
    usual = find_usual(fit_norms(rows), rows_of([1.0], raids=77))
    assert KINDS[usual.kind[0, 0]] == "the same freshness"


def test_too_few_anywhere_is_unknown_and_not_a_verdict() -> None:
    rows = rows_of([1.0] * (MIN_GROUP - 1))
    spreads = standardise(rows, find_usual(fit_norms(rows), rows))
    assert np.isnan(spreads).all()


def test_no_rows_at_all_are_usual() -> None:
    """The first day of an installation."""
    empty = rows_of([])
    norms = fit_norms(empty)
    assert standardise(empty, find_usual(norms, empty)).shape == (0, len(FEATURES))
    one = rows_of([1.0])
    assert np.isnan(standardise(one, find_usual(norms, one))).all()


def test_where_everybody_does_the_same_a_little_more_is_no_sign() -> None:
    """The spread of equal values is 0: without a floor the smallest difference would be endless."""
    rows = rows_of([1.0] * 100)
    usual = find_usual(fit_norms(rows), rows)
    near, far = rows_of([1.01] * 100), rows_of([1e9] * 100)
    assert (np.abs(standardise(near, usual)) < 1).all()
    assert (standardise(far, usual) == MOST_SPREADS).all()
    assert (standardise(rows, usual) == 0).all()


def test_a_spread_is_that_of_its_own_side() -> None:
    """By hand: median 50, outer tenths at 10 and 90, so 40 away is 1.2816 spreads."""
    rows = rows_of(np.arange(101, dtype=np.float64))
    usual = find_usual(fit_norms(rows), rows)
    plain = PLACE["precision_share"]
    spreads = standardise(rows, usual)[:, plain]
    assert spreads[90] == pytest.approx(1.2816)
    assert spreads[10] == pytest.approx(-1.2816)
    assert spreads[50] == 0


def test_the_order_of_rows_changes_nothing(population: Population) -> None:
    rows = population.rows.take(np.arange(3000))
    shuffled = np.random.default_rng(3).permutation(len(rows))
    one = standardise(rows, find_usual(fit_norms(rows), rows))
    moved = rows.take(shuffled)
    other = standardise(moved, find_usual(fit_norms(moved), moved))
    assert np.array_equal(one[shuffled], other, equal_nan=True)


# --- labels


def test_people_win_over_rules_and_doubt_is_no_label() -> None:
    """Otherwise a player whom somebody cleared trains the next model to accuse them again."""
    rows = rows_of([1.0] * 6)  # instance and player i in row i
    drawn = np.array([True, True, True, True, False, False])
    known = Known(
        confirmed={(0, 0): 1 << 56, (1, 1): 0, (5, 5): 1 << 58},
        dismissed={(1, 1), (4, 4)},
        clean={2, 3, 4, 5},
        doubtful={3},
    )
    labelled = label(replace(rows, is_sampled=drawn), known, modulus=7)
    assert labelled.positive.tolist() == [True, False, False, False, False, True]
    assert labelled.negative.tolist() == [False, True, True, False, True, False]
    assert labelled.bitmasks.tolist() == [1 << 56, 0, 0, 0, 0, 1 << 58]
    assert labelled.weights.tolist() == [1, 1, 7, 7, 1, 1]


# --- models


def test_the_same_rows_give_the_same_scores(population: Population, model: Model) -> None:
    """A model that differs from run to run cannot be looked into."""
    known = population.labelled()
    again = train(known.rows, known.positive, known.negative, known.weights)
    for one, other in zip(score(model, known.rows), score(again, known.rows), strict=True):
        assert np.array_equal(one, other)


def test_scores_are_probabilities_whatever_is_missing(model: Model) -> None:
    rows = rows_of([float("nan"), 0.0, 1e12, -5.0])
    for scores in score(model, rows):
        assert ((scores >= 0) & (scores <= 1)).all()
    assert [len(scores) for scores in score(model, rows_of([]))] == [0, 0, 0]


@pytest.mark.parametrize("feature", [f for f in FEATURES if f.sign], ids=lambda f: str(f.column))
def test_more_of_what_cheaters_do_never_looks_more_innocent(
    feature: features.Feature, population: Population, model: Model
) -> None:
    """A cheater would otherwise hide by cheating more."""
    rows = population.rows.take(np.arange(500))
    spreads = standardise(rows, find_usual(model.norms, rows))
    before = score_spreads(model, spreads).known
    spreads[:, PLACE[feature.column]] += 2.5 * feature.sign
    assert (score_spreads(model, spreads).known >= before - 1e-12).all()


def test_either_half_is_enough_for_a_look(population: Population, model: Model) -> None:
    scores = score(model, population.rows)
    assert np.allclose(scores.total, 1 - (1 - scores.known / 2) * (1 - scores.odd))
    assert (scores.total >= np.maximum(scores.known / 2, scores.odd) - 1e-12).all()


def test_without_both_labels_nothing_is_learned(population: Population) -> None:
    known = population.labelled()
    nobody = np.zeros_like(known.positive)
    with pytest.raises(ValueError, match="positives and negatives"):
        train(known.rows, nobody, known.negative, known.weights)


def test_without_the_extra_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'raidhub-dagster\[ml\]'"):
        require_installed()


# --- reasons


def test_a_reason_is_what_the_score_would_fall_without(model: Model) -> None:
    """By hand: of a usual player with far too many super kills, that is the reason."""
    norms = model.norms
    rows = rows_of([1.0], raids=11)
    usual = find_usual(norms, rows)
    values = usual.median.copy()
    values[0, PLACE["supers_per_minute"]] = 40.0
    rows = replace(rows, values=values)
    scores, spreads = score_usual(model, rows, usual)
    (reasons,) = find_reasons(model, rows, usual, spreads, scores.total)
    first = reasons[0]
    assert first.feature == "supers_per_minute"
    assert first.drop > 0
    assert first.text.startswith("super kills per minute: 40.00, where the median of ")
    assert "the same raid" in first.text
    assert len(reasons) <= 4
    assert [r.drop for r in reasons] == sorted((r.drop for r in reasons), reverse=True)


def test_where_nothing_is_known_there_is_no_reason(model: Model) -> None:
    rows = rows_of([float("nan")])
    usual = find_usual(model.norms, rows)
    scores, spreads = score_usual(model, rows, usual)
    assert find_reasons(model, rows, usual, spreads, scores.total) == [[]]


# --- figures


def test_figures_by_hand() -> None:
    """Four rows, two positive, best first: hit, miss, hit, miss."""
    scores, hits = np.array([0.9, 0.8, 0.4, 0.1]), np.array([True, False, True, False])
    weights = np.array([1.0, 1.0, 1.0, 1.0])
    found = evaluate(scores, hits, weights, precision=0.9, split="weeks", held_out="last 1")
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert (found.recall, found.threshold) == (0.5, 0.9)
    assert found.precision_at_top == 0.5
    assert found.brier == pytest.approx((0.01 + 0.64 + 0.36 + 0.01) / 4)
    # Each row has a bin of its own: the mean of |score - hit|.
    assert found.calibration_error == pytest.approx((0.1 + 0.8 + 0.6 + 0.1) / 4)


def test_a_drawn_row_stands_for_all_that_were_not_drawn() -> None:
    """One miss among a hundred drawn of ten thousand is a hundred misses."""
    scores, hits = np.array([0.9, 0.9]), np.array([True, False])
    found = evaluate(scores, hits, np.array([1.0, 99.0]), precision=0.5, split="weeks", held_out="")
    assert found.average_precision == pytest.approx(0.01)
    assert found.recall == 0


def test_equal_scores_stand_or_fall_together() -> None:
    """Their order is chance; a lucky one must not raise the precision."""
    scores, weights = np.array([0.5, 0.5]), np.ones(2)
    for hits in ([True, False], [False, True]):
        found = evaluate(scores, np.array(hits), weights, precision=0.9, split="weeks", held_out="")
        assert (found.recall, found.threshold, found.average_precision) == (0, 1, 0.5)


@pytest.mark.parametrize("number", [0, 3])
def test_without_a_positive_there_are_figures_of_nothing(number: int) -> None:
    none = np.zeros(number, dtype=np.bool_)
    found = evaluate(
        np.zeros(number), none, np.ones(number), precision=0.9, split="raid", held_out="4"
    )
    assert (found.positives, found.recall, found.threshold) == (0, 0, 1)


def test_calibration_leaves_out_empty_bins() -> None:
    bins = calibration(np.array([0.05, 0.95, 1.0]), np.array([False, True, True]), np.ones(3))
    assert [(b.at_least, b.share) for b in bins] == [(0.0, 0.0), (0.9, 1.0)]


def test_what_is_held_out_was_not_seen(population: Population) -> None:
    """A figure on rows that were learned from says nothing."""
    labelled = population.labelled()
    found = list(splits(labelled))
    assert {split.kind for split in found} == {"weeks", "raid", "reason"}
    for split in found:
        assert not (split.learned & split.asked).any()
        asked = labelled.take(split.asked)
        if split.kind == "raid":
            assert set(asked.rows.activity_ids) == {int(split.held_out)}
            assert int(split.held_out) not in labelled.take(split.learned).rows.activity_ids
        if split.kind == "reason":
            bit = int(split.held_out)
            learned = labelled.take(split.learned)
            assert not ((learned.bitmasks >> bit) & 1).any()
            assert ((asked.bitmasks[asked.positive] >> bit) & 1).all()
    (weeks,) = [split for split in found if split.kind == "weeks"]
    assert (
        labelled.take(weeks.learned).rows.weeks.max() < labelled.take(weeks.asked).rows.weeks.min()
    )


def test_what_rules_know_is_found_in_weeks_and_raids_not_seen(population: Population) -> None:
    """The least that learning must do: repeat what it was shown, elsewhere."""
    figures, bins = evaluate_splits(population.labelled(), precision=0.9)
    for found in figures:
        print(found)
    assert {f.split for f in figures} == {"weeks", "raid", "reason"}
    assert all(f.average_precision >= 0.7 for f in figures if f.split in ("weeks", "raid"))
    (weeks,) = [f for f in figures if f.split == "weeks"]
    error = sum(abs(b.mean_score - b.share) * b.weight for b in bins)
    assert error == pytest.approx(weeks.calibration_error)


def test_learned_scores_find_who_cheats_in_a_way_that_no_rule_knows() -> None:
    """The reason for all of it: at no less precision than the rules', cheaters that rules miss.

    Learned on one seed from the rules' verdicts, the threshold set on another, told of a third; of
    rows that the rules are not sure of, because only those are queued.
    """
    learned, tuned, told = (
        populate(seed, runs=4000, players=2500, cheaters=8) for seed in (11, 12, 13)
    )
    known = learned.labelled()
    model = train(known.rows, known.positive, known.negative, known.weights)

    def left(world: Population) -> tuple[Floats, features.Flags]:
        rest = ~world.flagged
        return score(model, world.rows.take(rest)).total, world.guilty[rest]

    rules_precision = float(told.guilty[told.flagged].mean())
    rules_recall = float(told.flagged[told.guilty].mean())
    scores, guilty = left(tuned)
    threshold = evaluate(
        scores, guilty, np.ones(len(scores)), precision=0.98, split="seed", held_out="12"
    ).threshold
    scores, guilty = left(told)
    queued = scores >= threshold
    precision = float(guilty[queued].mean())
    unknown = told.cheats == UNKNOWN
    found = float(queued[unknown[~told.flagged]].mean())
    recall = float((told.flagged[told.guilty].sum() + guilty[queued].sum()) / told.guilty.sum())
    print(f"rules alone: precision {rules_precision:.4f}, recall {rules_recall:.4f}")
    print(f"queued at {threshold:.3f}: precision {precision:.4f}, of the unknown kind {found:.4f}")
    print(f"rules and queue: recall {recall:.4f}")
    assert not told.flagged[unknown].any()
    assert precision >= rules_precision
    assert found >= 0.6
    assert recall >= rules_recall + 0.12


# --- the file


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Entry]:
    """`written(payload, field=value)` -> the entry of a file that holds the pickle of `payload`."""

    def write(payload: object, **changes: object) -> Entry:
        version = f"{PREFIX}test"
        body = json.dumps({"version": version}).encode() + b"\n" + pickle.dumps(payload)
        (tmp_path / f"{version}{SUFFIX}").write_bytes(body)
        digest = hashlib.sha256(body).hexdigest()
        entry = Entry(version, digest, SCHEMA, library_version(), AT, AT, 1, 1, 1, AT)
        return entry._replace(**changes)  # type: ignore[arg-type]

    return write


class Trap:
    """What a pickle of unknown origin may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_model_survives_its_file(
    model: Model, written: Callable[..., Entry], tmp_path: Path, population: Population
) -> None:
    loaded = load_model(tmp_path, written(model))
    rows = population.rows.take(np.arange(200))
    assert np.array_equal(score(loaded, rows).total, score(model, rows).total)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "0" * 64}, "is not the file that training wrote"),
        (
            {"feature_schema": (*SCHEMA[1:], "luck:plain:1.0:0:0")},
            "luck:plain:1.0:0:0 is no feature here",
        ),
        ({"feature_schema": SCHEMA[1:]}, "kills_per_minute:log:0.1:1:1 is new"),
        ({"feature_schema": tuple(reversed(SCHEMA))}, "another order"),
        ({"library": "0.1"}, "made by scikit-learn 0.1"),
        ({"version": f"{PREFIX}gone"}, "is not in CHEAT_MODEL_DIR"),
    ],
)
def test_a_file_that_is_not_ours_is_never_opened(
    change: dict[str, object], words: str, written: Callable[..., Entry], tmp_path: Path
) -> None:
    """Opening a pickle runs it: whoever can write the folder would run what they like."""
    sprung = tmp_path / "sprung"
    entry = written(Trap(sprung), **change)
    with pytest.raises(PermanentError, match=words):
        load_model(tmp_path, entry)
    assert not sprung.exists()


def test_a_file_of_something_else_is_no_model(
    written: Callable[..., Entry], tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match="holds no model"):
        load_model(tmp_path, written({"a": 1}))


# --- the worth of a look


@pytest.mark.parametrize(
    ("boards", "clears", "is_hidden", "worth"),
    [(0, 0, False, 1.0), (2, 0, False, 5.0), (0, 99, False, 1 + np.log(100) / 2),
     (2, 0, True, 1.25), (0, -3, False, 1.0)],
)  # fmt: skip
def test_worth_by_hand(boards: int, clears: int, is_hidden: bool, worth: float) -> None:
    """What displaces honest teams comes first, who is hidden already last."""
    assert worth_of(boards=boards, clears=clears, is_hidden=is_hidden) == pytest.approx(worth)
