"""What people read in Discord about a flagged run. When: docs/alerts.md.

A message stays below Discord's limit of 6000 characters in all, whatever the rules wrote.
"""

import math
from collections.abc import Mapping
from typing import Any

from raidhub_dagster.cheat_detection.facts import InstanceFacts
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.verdict import Verdict, flagged_players
from raidhub_dagster.discord.messages import embed

_EXPLANATION = 1500
_PLAYERS = 12
_PLAYER_EXPLANATION = 300


def flagged_instance(
    parameters: Parameters, facts: InstanceFacts, verdict: Verdict
) -> Mapping[str, Any]:
    """The message "Flagged Instance", as a webhook takes it; of a solo run without the player."""
    worst = sorted(
        flagged_players(parameters, verdict),
        key=lambda player: (-player.probability, player.membership_id),
    )
    if len(verdict.players) == 1:
        worst = []
    fields: dict[str, str | int | float] = {
        "Instance": verdict.instance_id,
        "Activity": facts.activity_name[:100],
        "Probability": f"{verdict.probability:.3f}",
    }
    for player in worst[:_PLAYERS]:
        told = _short(player.explanation, _PLAYER_EXPLANATION)
        fields[f"Player {player.membership_id}"] = f"{player.probability:.3f}: {told}"
    if len(worst) > _PLAYERS:
        fields["More flagged players"] = len(worst) - _PLAYERS
    return embed(
        "Flagged Instance",
        colour(verdict.probability),
        at=facts.date_completed,
        footer=verdict.version,
        fields=fields,
        description=_short(verdict.explanation, _EXPLANATION),
    )


def colour(probability: float) -> int:
    """From light yellow at 0 to red at 1, as Discord's number."""
    strength = math.sqrt(min(max(probability, 0.0), 1.0))
    green, blue = 255 - math.floor(255 * strength), 239 - math.floor(239 * strength)
    return 255 << 16 | green << 8 | blue


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
