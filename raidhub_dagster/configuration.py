"""What the settings of this place are, where each comes from, and what cannot work together.

The settings themselves, and what each alone may be, are `settings.py`.
"""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from itertools import combinations
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from dotenv.parser import parse_stream
from pydantic import SecretStr, ValidationError
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import SECTIONS, STACK_ENV, Settings, unusable

MASK = "********"
ENV_FILE = Path(".env")

# Below it a name is somebody else's: .env may also carry those of compose and of Dagster. Of the
# process environment even more is not ours, POSTGRES_PASSWORD_FILE of an image for one.
_LIKE_IN_FILE, _LIKE_IN_ENVIRONMENT = 0.8, 0.9
_LAST_PORT = 65535
_PORTS_AFTER_BASE = 13


@dataclass(frozen=True)
class Value:
    """One setting as processes started here see it; a secret is masked, None is unset."""

    name: str
    value: str | None
    source: str  # "environment", ".env", "stack.env" or "default"


@dataclass
class Examined:
    """`values` is empty when the settings cannot be read at all."""

    values: list[Value] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def examine(environment: Mapping[str, str] = os.environ) -> Examined:
    """The settings of this folder and process. Nobody is connected to."""
    found = Examined()
    try:
        _look_for_typos(found, environment)
        settings = Settings.read()
        sources = _sources(settings.raidhub_home / STACK_ENV)
    except ValidationError as error:
        found.problems += unusable(error)
        return found
    except (OSError, UnicodeDecodeError) as error:
        found.problems.append(f".env or {STACK_ENV} cannot be read: {error}")
        return found
    found.values = [
        Value(Settings.names(name)[0], shown(getattr(settings, name)), sources[name])
        for section in SECTIONS
        for name in section.__annotations__
    ]
    found.problems += _impossible(settings)
    found.warnings += _doubtful(settings)
    return found


def shown(value: object) -> str | None:
    """A setting's value for people: secrets, and passwords inside of addresses, are masked."""
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return re.sub(r"\w+://\S+", lambda found: _without_password(found[0]), str(value))


def _without_password(address: str) -> str:
    try:
        parts = urlsplit(address)
        user, _, host = parts.netloc.rpartition("@")
    except ValueError:
        return MASK  # not an address: what is what in it cannot be told
    login = f"{user.partition(':')[0]}:{MASK}@" if ":" in user else (f"{MASK}@" if user else "")
    query = urlencode([(name, MASK) for name, _ in parse_qsl(parts.query)], safe="*")
    return urlunsplit(parts._replace(netloc=login + host, query=query))


def _sources(stack_env: Path) -> dict[str, str]:
    """Setting -> where its value comes from, found by the same readers as the settings."""
    readers = {
        STACK_ENV: DotEnvSettingsSource(Settings, env_file=stack_env),
        ".env": DotEnvSettingsSource(Settings, env_file=ENV_FILE),
        "environment": EnvSettingsSource(Settings),
    }
    fields = {name.lower(): f for f in Settings.model_fields for name in Settings.names(f)}
    found = dict.fromkeys(Settings.model_fields, "default")
    for source, reader in readers.items():
        for name, value in reader().items():
            setting = fields.get(name.lower())
            if setting is not None:
                found[setting] = source if str(value).strip() else "default"
    return found


def _look_for_typos(found: Examined, environment: Mapping[str, str]) -> None:
    known = {name for f in Settings.model_fields for name in Settings.names(f)}
    if ENV_FILE.is_file():
        names = []
        for binding in parse_stream(StringIO(ENV_FILE.read_text("utf-8"))):
            if binding.error:
                found.problems.append(f".env: line {binding.original.line} cannot be read")
            if binding.key is not None:
                names.append(binding.key)
        for name, times in Counter(names).items():
            if times > 1:
                found.warnings.append(f"{name} stands {times} times in .env; the last one counts")
            if near := _nearest(name, known, _LIKE_IN_FILE):
                found.problems.append(f"{name} in .env is no setting; {near} is")
            elif name.upper().startswith("RAIDHUB_") and name.upper() not in known:
                found.warnings.append(f"{name} in .env is no setting")
    for name in environment:
        if near := _nearest(name, known, _LIKE_IN_ENVIRONMENT):
            found.warnings.append(f"{name} in the environment is no setting; {near} is")


def _nearest(name: str, known: Set[str], likeness: float) -> str | None:
    """The setting that `name` was probably meant for; None when it is one, or is like none."""
    if name.upper() in known:
        return None
    return next(iter(get_close_matches(name.upper(), known, 1, likeness)), None)


def _impossible(s: Settings) -> Iterator[str]:
    if s.young_report_s and s.young_first_recheck_s >= s.young_last_recheck_s:
        yield (
            f"YOUNG_LAST_RECHECK_S: {s.young_last_recheck_s:g} is not after"
            f" YOUNG_FIRST_RECHECK_S {s.young_first_recheck_s:g}"
        )
    if s.young_report_s > s.young_first_recheck_s:
        yield (
            f"YOUNG_FIRST_RECHECK_S: after {s.young_first_recheck_s:g} s a raid is still young"
            f" (YOUNG_REPORT_S {s.young_report_s:g})"
        )
    if s.postgres_readonly_user == s.postgres_user:
        yield "POSTGRES_READONLY_USER: is the owner; readers need a role of their own"
    for (one, role), (other, another) in combinations(s.roles.items(), 2):
        if role == another:
            yield f"{other}: is {one} too; each needs a role of its own"
    if s.raidhub_port_base + _PORTS_AFTER_BASE > _LAST_PORT:
        yield f"RAIDHUB_PORT_BASE: {s.raidhub_port_base} leaves no thirteen ports after it"
    for name in ("raidhub_simulator_args", "raidhub_atlas_args", "raidhub_zeus_args"):
        try:
            shlex.split(getattr(s, name))
        except ValueError as error:
            yield f"{name.upper()}: {error}"
    try:
        current_parameters(s)
    except ConfigurationError as error:
        yield str(error)


def _doubtful(s: Settings) -> Iterator[str]:
    if s.bungie_api_key is None:
        yield "BUNGIE_API_KEY: is not set; atlas, zeus and hermes do not start without it"
    for host in ("stats", "www"):
        rate, burst = getattr(s, f"zeus_{host}_rate"), getattr(s, f"zeus_{host}_burst")
        if burst < rate:
            yield (
                f"ZEUS_{host.upper()}_BURST: {burst:g} is less than a second's requests"
                f" (ZEUS_{host.upper()}_RATE {rate:g})"
            )
    for name, base in (("BUNGIE_URL_BASE", s.bungie_url_base), ("PGCR_URL_BASE", s.pgcr_url_base)):
        if base and (urlsplit(base).hostname or "").endswith("bungie.net"):
            yield f"{name}: goes around zeus, so nobody keeps Bungie's limits"
    metrics = (
        "atlas_metrics_port",
        "hermes_metrics_port",
        "zeus_metrics_port",
        "relay_metrics_port",
    )
    for one, other in combinations(metrics, 2):
        if getattr(s, one) == getattr(s, other):
            yield (f"{other.upper()}: is {one.upper()} too; on one machine only the first starts")
    if s.gm_report_webhook_auth and not s.gm_report_webhook_url:
        yield "GM_REPORT_WEBHOOK_AUTH: goes nowhere without GM_REPORT_WEBHOOK_URL"
    if s.archive_index and not s.archive_source:
        yield "ARCHIVE_INDEX: lists nothing without ARCHIVE_SOURCE"
