"""Raids, players and what they did, derived from each report in the transaction that stores it.

Hermes writes these tables, not Dagster; stream_progress_sensor reports their growth. Their lag is
the age of the newest stored raid: how far the players' histories are behind the game.
"""

from assets.crawl import PGCR
from assets.definitions import ACTIVITY_VERSION, SEASON
from assets.manifest import class_definitions
from assets.tables import table

INSTANCE = table(
    "core.instance",
    group="core",
    description="One raid as it was played: when, which, how long, completed, fresh, flawless.",
    deps=[PGCR, ACTIVITY_VERSION, SEASON],
)
INSTANCE_PLAYER = table(
    "core.instance_player",
    group="core",
    description="One player in one raid: completed, time, first clear, players sherpaed.",
    deps=[INSTANCE],
)
INSTANCE_CHARACTER = table(
    "extended.instance_character",
    group="core",
    description="One character in one raid: class, kills, deaths, assists, time.",
    deps=[INSTANCE_PLAYER, class_definitions],
)
INSTANCE_CHARACTER_WEAPON = table(
    "extended.instance_character_weapon",
    group="core",
    description="One weapon of one character in one raid: kills and precision kills.",
    deps=[INSTANCE_CHARACTER],
)
PLAYER_STATS = table(
    "core.player_stats",
    group="core",
    description="One player in one activity: clears, sherpas, time, fastest fresh clear.",
    deps=[INSTANCE_PLAYER],
)
PLAYER = table(
    "core.player",
    group="core",
    description="Every player seen: names, totals over all raids, sum of best times, standing.",
    deps=[PLAYER_STATS],
)
