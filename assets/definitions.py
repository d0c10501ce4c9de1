"""Game definitions: which hash is which raid.

`raidhub seed` writes them, not Dagster: every asset here is external. What the manifest says is in
`manifest.py`.
"""

from assets.tables import table

SEASON = table(
    "definitions.season",
    group="definitions",
    description="Seasons and when each began; an instance belongs to the newest begun before it.",
)
ACTIVITY_DEFINITION = table(
    "definitions.activity_definition",
    group="definitions",
    description="Raids and Pantheons: release, contest and first-week times.",
)
VERSION_DEFINITION = table(
    "definitions.version_definition",
    group="definitions",
    description="Versions of an activity: standard, prestige, master, contest, Pantheon bosses.",
    deps=[ACTIVITY_DEFINITION],
)
ACTIVITY_VERSION = table(
    "definitions.activity_version",
    group="definitions",
    description="Which activity and version a report's hash means. Other hashes are no raids.",
    deps=[ACTIVITY_DEFINITION, VERSION_DEFINITION],
)
