"""Class and emblem of characters that a report does not resolve, asked for afterwards.

Rules: docs/domain/players.md, "Characters".
"""

from collections.abc import Callable
from datetime import UTC, datetime

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.messaging.messages import CharacterToFill
from raidhub_dagster.players import rows
from raidhub_dagster.players.account import AbsentError, ask_account
from raidhub_dagster.players.profile import read_character
from raidhub_dagster.storage.postgres import Pool

_UNKNOWABLE = frozenset({CodeClass.NOT_FOUND, CodeClass.PRIVATE})


def fill_character(
    pool: Pool,
    client: BungieClient,
    wanted: CharacterToFill,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> bool:
    """True when the row of the report knows more now; nobody is asked when it knows all.

    A deleted character, a hidden one and a missing account leave the row as it is. Raises as
    `crawl_player` does.
    """
    membership_id, character_id, instance_id = wanted
    with pool.connection() as connection, connection:
        unfilled = rows.find_unfilled(connection, instance_id, membership_id, character_id)
    if unfilled is None:
        return False
    endpoints = client.endpoints
    try:
        _, response = ask_account(
            client,
            membership_id,
            unfilled.membership_type,
            lambda kind: endpoints.character_url(kind, membership_id, character_id),
        )
    except AbsentError:
        return False
    except RefusedError as error:
        if error.code_class not in _UNKNOWABLE:
            raise
        return False
    character = read_character(response, character_id, now())
    if character is None:
        return False
    return pool.run(
        lambda connection: rows.fill_character(
            connection,
            instance_id,
            membership_id,
            character_id,
            class_hash=character.class_hash,
            emblem_hash=character.emblem_hash,
        )
    )
