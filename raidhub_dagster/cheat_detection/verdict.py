"""What a check finds: probabilities, reasons and the sentences that explain them."""

from typing import NamedTuple

from raidhub_dagster.cheat_detection.parameters import Parameters


class Reason(NamedTuple):
    """One rule that spoke: its bit, what it alone gives, and one sentence with the numbers."""

    bit: int
    probability: float
    text: str


class PlayerVerdict(NamedTuple):
    """Of one player in the run; `bitmask` has the activity's bit too."""

    membership_id: int
    probability: float  # in 0..1
    bitmask: int
    reasons: tuple[Reason, ...]

    @property
    def explanation(self) -> str:
        return explain(self.reasons)


class Verdict(NamedTuple):
    """Of the run as a whole and of every player in it; a clean pass has probability 0.

    `skipped` says why nothing was checked, None when it was. `failed_rules` are rules that could
    not say anything, each as `rule: reason`.
    """

    instance_id: int
    version: str
    probability: float
    bitmask: int
    reasons: tuple[Reason, ...]
    players: tuple[PlayerVerdict, ...]  # ascending membership_id; everyone, also the clean
    skipped: str | None = None
    failed_rules: tuple[str, ...] = ()

    @property
    def explanation(self) -> str:
        return explain(self.reasons)


def is_flagged(parameters: Parameters, verdict: Verdict) -> bool:
    """Whether the run as a whole is suspicious enough to be stored."""
    return verdict.probability > parameters.thresholds.instance_store


def flagged_players(parameters: Parameters, verdict: Verdict) -> list[PlayerVerdict]:
    """The players who are, ascending membership_id."""
    limit = parameters.thresholds.player_store
    return [player for player in verdict.players if player.probability > limit]


def explain(reasons: tuple[Reason, ...]) -> str:
    """The sentences in one text, the heaviest reason first."""
    ordered = sorted(reasons, key=lambda reason: (-reason.probability, reason.bit))
    return "; ".join(reason.text for reason in ordered)
