"""Checks stored instances, some dozens at once, and writes down what the rules said of each.

Flags, the ledger of checks (clean passes too) and the message to people are one transaction, the
caller's. Each instance is checked once under each version of the rules; whoever replaces its rows
deletes its lines of the ledger. Statements: `sql/postgres/queries/cheat_check.sql`.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection import flag_notice, rules
from raidhub_dagster.cheat_detection.facts import InstanceFacts
from raidhub_dagster.cheat_detection.loading import load_facts
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.verdict import Verdict, flagged_players, is_flagged
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage import webhooks
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "cheat_check")

BATCH = 50  # instances; a bigger one is no faster and holds its locks for longer


class Outcome(StrEnum):
    CHECKED = "checked"
    KNOWN = "known"  # checked before under the same version
    NOT_STORED = "not_stored"


class CheckFailedError(PermanentError):
    """The rules could not judge an instance: their mistake, which a second try repeats."""


class Judged(NamedTuple):
    facts: InstanceFacts
    verdict: Verdict


class Judgement(NamedTuple):
    """What became of a batch: verdicts, ascending by instance, and those that there is none of."""

    verdicts: list[Judged]
    failed: dict[int, CheckFailedError]


def check_batch(
    connection: Connection,
    parameters: Parameters,
    ids: Iterable[int],
    *,
    notify: bool = False,
) -> dict[int, Outcome | CheckFailedError]:
    """Checks those of `ids` that this version has not seen, and records it.

    In the caller's transaction, which holds the instances' locks to its end. An instance that the
    rules fail on has its error as outcome and leaves no row; the others are recorded all the same.
    With `notify` grave verdicts are put down for Discord.
    """
    wanted = sorted(set(ids))
    key = {"instances": array(wanted), "version": parameters.version}
    with connection.cursor() as cursor:
        lock(cursor, wanted)
        cursor.execute(_SQL["find_checked"], key)
        known = {instance_id for (instance_id,) in cursor}
        new = [instance_id for instance_id in wanted if instance_id not in known]
        judgement = judge(connection, parameters, new)
        record(cursor, parameters, judgement.verdicts, notify=notify)
    outcomes: dict[int, Outcome | CheckFailedError] = dict.fromkeys(wanted, Outcome.NOT_STORED)
    outcomes |= dict.fromkeys(known, Outcome.KNOWN)
    outcomes |= {j.facts.instance_id: Outcome.CHECKED for j in judgement.verdicts}
    return outcomes | judgement.failed


def lock(cursor: Cursor, ids: Sequence[int]) -> None:
    """Keeps everybody from replacing the instances `ids`, ascending, until the commit."""
    cursor.execute(_SQL["lock_instances"], {"instances": array(ids)})


def judge(connection: Connection, parameters: Parameters, ids: Iterable[int]) -> Judgement:
    """Verdicts on the stored ones of `ids`; writes nothing."""
    found = Judgement([], {})
    for facts in load_facts(connection, ids):
        try:
            verdict = rules.check(parameters, facts)
        except Exception as error:  # noqa: BLE001  whatever a rule raises is about this instance
            told = f"the cheat rules fail on instance {facts.instance_id}: {error!r}"
            failure = CheckFailedError(told, {"instance_id": facts.instance_id})
            failure.__cause__ = error
            found.failed[facts.instance_id] = failure
        else:
            found.verdicts.append(Judged(facts, verdict))
    return found


def record(
    cursor: Cursor, parameters: Parameters, judged: Sequence[Judged], *, notify: bool = False
) -> None:
    """Makes flags and ledger of this version what `judged` says, ascending by instance.

    Rows that say so already stay untouched, so that a repeat changes nothing, unless other rules
    looked since: then these are the latest again. With `notify` a run
    that was not flagged so gravely by this version before is put down for Discord.
    """
    if not judged:
        return
    verdicts = [verdict for _, verdict in judged]
    flagged = [verdict for verdict in verdicts if is_flagged(parameters, verdict)]
    players = [(v.instance_id, p) for v in verdicts for p in flagged_players(parameters, v)]
    checked = {
        "instances": array(v.instance_id for v in verdicts),
        "version": parameters.version,
    }
    cursor.execute(_SQL["find_flagged"], checked)
    before = dict(cursor.fetchall())  # a run of which only players were flagged has 0
    if before:
        still = {
            "flagged": array(instance_id for instance_id, _ in players),
            "players": array(p.membership_id for _, p in players),
        }
        cursor.execute(_SQL["delete_player_flags"], {**checked, **still})
        stays = {"flagged": array(v.instance_id for v in flagged)}
        cursor.execute(_SQL["delete_instance_flags"], {**checked, **stays})
    if flagged:
        cursor.execute(
            _SQL["flag_instances"],
            {
                "version": parameters.version,
                "flagged": array(v.instance_id for v in flagged),
                "bitmasks": array(v.bitmask for v in flagged),
                "probabilities": array(v.probability for v in flagged),
                "explanations": array(v.explanation for v in flagged),
            },
        )
    if players:
        cursor.execute(
            _SQL["flag_players"],
            {
                "version": parameters.version,
                "flagged": array(instance_id for instance_id, _ in players),
                "players": array(p.membership_id for _, p in players),
                "bitmasks": array(p.bitmask for _, p in players),
                "probabilities": array(p.probability for _, p in players),
                "explanations": array(p.explanation for _, p in players),
            },
        )
    cursor.execute(
        _SQL["record"],
        {
            **checked,
            "probabilities": array(v.probability for v in verdicts),
            "bitmasks": array(v.bitmask for v in verdicts),
            "flagged_players": array(len(flagged_players(parameters, v)) for v in verdicts),
            "skipped": array(v.skipped for v in verdicts),
            "failed_rules": array(array(v.failed_rules) for v in verdicts),
        },
    )
    if notify:
        limit = parameters.thresholds.webhook_instance
        for facts, verdict in judged:
            if verdict.probability >= limit > before.get(verdict.instance_id, 0.0):
                message = flag_notice.flagged_instance(parameters, facts, verdict)
                webhooks.enqueue(cursor, webhooks.Webhook.CHEAT_CHECK, verdict.instance_id, message)
