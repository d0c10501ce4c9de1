"""Which manifest Bungie publishes now; its file is `files.py`.

`version` alone does not tell two manifests apart: the name of the content file does.
Rules: docs/domain/definitions.md, "The manifest".
"""

import re

import msgspec

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.errors import TransientError

# It becomes a file's name here and a part of an address there.
_PATH = re.compile(r"/(?:[\w-]+/)*([\w-]+\.content)", re.ASCII)


class Version(msgspec.Struct, frozen=True):
    """One manifest; `path` is empty for a file that lies here already."""

    name: str  # of the content file: what is compared
    path: str  # where it lies, below the www host
    label: str  # Bungie's `version`, for people


class _Index(msgspec.Struct, rename="camel"):
    mobile_world_content_paths: dict[str, str]
    version: str = ""


def ask(client: BungieClient) -> Version:
    """The version that Bungie publishes. Raises what `client.get` raises."""
    return read_index(client.get(client.endpoints.manifest_url()))


def read_index(response: bytes) -> Version:
    """The English one of the JSON of Response.

    Raises TransientError for any other answer: while a version rolls out, servers say odd things.
    """
    try:
        index = msgspec.json.decode(response, type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransientError(f"a manifest without content paths: {error}") from None
    path = index.mobile_world_content_paths.get("en", "")
    match = _PATH.fullmatch(path)
    if match is None:
        raise TransientError(f"the manifest names no usable English file: {path[:200]!r}")
    return Version(match[1], path, index.version[:200])
