"""What must hold of cheat checks; the claims stand in cheat_detection/norms.py and recheck.py."""

from assets.cheat_checks import ACTIVITY_NORM_KEY, CHEAT_RECHECK_KEY
from raidhub_dagster.cheat_detection.norms import check_norms
from raidhub_dagster.cheat_detection.recheck import check_ledger
from raidhub_dagster.checks.claims import claim, claim_of_rules

CHEAT_CHECK_CHECKS = [
    claim(
        ACTIVITY_NORM_KEY,
        "is_possible",
        "No norm is below zero or longer than a day, and each belongs to a known activity.",
        lambda connection, _since: check_norms(connection),
    ),
    claim_of_rules(
        CHEAT_RECHECK_KEY,
        "ledger_agrees_with_flags",
        "Each verdict of the last 7 days by the rules in use has the flag that it asks for, and no "
        "other.",
        check_ledger,
    ),
]
