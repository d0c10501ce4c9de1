"""The numbers behind the rules: one file a version, checked whole before a rule sees any of it.

Names are those of the files in `heuristics/`; what each does: docs/domain/cheat-detection.md.
"""

from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings

FOLDER = Path(__file__).parent / "heuristics"
DEFAULT_VERSION = "raidhub-3.0.0"
_BASE = "based_on"  # of a file: the version whose numbers hold where it is silent

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Bit = Annotated[int, Field(ge=0, le=62)]  # 63 is the sign of bigint
ANY: Final = "any"  # of a list of lowmen: every version that has none of its own


class Part(BaseModel):
    """Nothing unknown is read over: a typo must not leave a rule at a default nobody chose."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class Thresholds(Part):
    instance_store: Probability
    player_store: Probability
    player_reason: Probability
    webhook_instance: Probability

    @cached_property
    def lowest(self) -> float:
        """What no rule stays under that anybody reads of."""
        return min(self.instance_store, self.player_reason)


class Window(Part):
    """An open interval; without `to` it lasts."""

    name: str = ""
    begins: datetime = Field(alias="from")
    ends: datetime | None = Field(alias="to")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.begins.tzinfo is None or (self.ends and self.ends.tzinfo is None):
            raise ValueError("times need a zone")
        if self.ends is not None and self.ends <= self.begins:
            raise ValueError("ends before it begins")
        return self

    def contains(self, time: datetime) -> bool:
        return self.begins < time and (self.ends is None or time < self.ends)

    def overlaps(self, begins: datetime, ends: datetime) -> bool:
        return ends > self.begins and (self.ends is None or begins < self.ends)


class InstantCheckpoint(Part):
    """A checkpoint that the game calls cleared although nobody did anything."""

    max_duration_exclusive: Seconds
    max_kills: int = Field(ge=0)


class Skip(Part):
    windows: tuple[Window, ...]
    incomplete_activities: frozenset[int]
    instant_checkpoint: InstantCheckpoint | None = None


class Curve(Part):
    """1 / (1 + e^(k (x - x0)))."""

    k: float
    x0: float


class Participation(Part):
    k_base: float
    k_per_player: float
    x0_base: float
    x0_per_player: float
    pivot: int
    min_players: int = Field(ge=1)
    max_players: int = Field(ge=1)
    scale: float
    kills_exponent: float
    kills_cap: float = Field(gt=0)


class Curves(Part):
    kills_per_minute: Curve
    grenades: Curve
    supers_per_minute: Curve
    heavy: Curve
    completion_time: Curve
    kills_share: Curve
    total_kills: Curve
    total_kills_size: Curve
    not_finished: Curve
    time_dilation: Curve
    checkpoint_duration: Curve
    pantheon_floor: Curve
    participation: Participation


class LowmanRule(Part):
    too_few: Probability
    outside_window: Probability
    flawless_exponent: float = Field(gt=0)


class DilationRule(Part):
    min_duration: Seconds
    max_players_exclusive: int


class SpeedRule(Part):
    max_bodies: float = Field(gt=0)
    body_exponent: float
    grace_seconds: Seconds


class TotalKillsRule(Part):
    cap_fresh: int
    cap_checkpoint: int
    low_exponent_base: float


class PlayerRule(Part):
    min_seconds: Seconds
    full_weight_seconds: float = Field(gt=0)
    first_clear_exponent: float


class HeavyRule(Part):
    rate_factor: float
    rate_cap: float
    full_weight_kills: float = Field(gt=0)


class KillsShareRule(Part):
    log_base: float = Field(gt=1)
    log_offset: float
    offset: float
    min_instance_kills_exclusive: int


class WeaponDiversityRule(Part):
    factor: Probability
    decay: float
    min_kills: int
    low_score: float
    few_weapons: int
    few_time: float
    few_kills: float = Field(gt=0)
    many_kills: float = Field(gt=0)
    outlier_sd: float
    many_exponent: float


class PantheonFeats(Part):
    bonus_seconds: Mapping[int, float]


class Rules(Part):
    lowman: LowmanRule
    time_dilation: DilationRule
    speed: SpeedRule
    total_kills: TotalKillsRule
    player: PlayerRule
    heavy: HeavyRule
    kills_share: KillsShareRule
    weapon_diversity: WeaponDiversityRule
    pantheon_feats: PantheonFeats


class MinKills(Part):
    fresh: int | None
    checkpoint: int | None


class RecordCurve(Part):
    """R(days) = a - b e log10(days + c), or the same record on every day."""

    a: float | None = None
    b: float | None = None
    c: float | None = None
    e: float | None = None
    constant: float | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [value is not None for value in (self.a, self.b, self.c, self.e)]
        if any(given) != all(given) or any(given) == (self.constant is not None):
            raise ValueError("needs either a, b, c and e or constant")
        if self.c is not None and self.c <= 0:
            raise ValueError("c must be above 0, or the logarithm of the first day has no value")
        return self


class Lowman(Part):
    """What a team of `players` is worth: `chance` of a cheat, only inside `windows` if any."""

    players: int = Field(ge=1)
    chance: Probability = 0.0
    min_time: Seconds = 0
    windows: tuple[Window, ...] = ()


LowmanLists = Mapping[int | Literal["any"], tuple[Lowman, ...]]


class LowmanTables(Part):
    fresh: LowmanLists
    checkpoint: LowmanLists

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        """A list out of order flagged every legal clear with the smaller team."""
        for table in (self.fresh, self.checkpoint):
            for key, entries in table.items():
                sizes = [entry.players for entry in entries]
                if sizes != sorted(set(sizes)):
                    raise ValueError(f"players of list {key} must ascend: {sizes}")
        return self


class Activity(Part):
    name: str
    checkpoint_name: str
    bit: Bit
    min_kills: MinKills
    record_curve: RecordCurve | None
    lowman: LowmanTables
    duration_floor: Mapping[int, float] = Field(default={})  # version -> seconds


class SoloFresh(Part):
    max_days: float
    probability: Probability


class ShortFresh(Part):
    max_duration_exclusive: Seconds
    probability: Probability


class KillsQuantile(Part):
    clears: int
    quantile: Probability
    ratio: float


class SpeedQuantile(Part):
    quantile: Probability
    factor: float
    min_clears: int


class Generic(Part):
    solo_fresh: SoloFresh
    short_fresh: ShortFresh
    kills_quantile: KillsQuantile
    speed_quantile: SpeedQuantile
    max_level: int = Field(ge=0, le=4)


class AgeStep(Part):
    days: float
    value: float
    flag: bool = True


class Age(Part):
    steps: tuple[AgeStep, ...]


class Clears(Part):
    below: int
    divisor: float = Field(gt=0)


class StarClears(Part):
    lowman_max_players: int
    lowman: float
    flawless: float
    solo: float
    cap: float
    clears_offset: float
    clears_scale: float = Field(gt=0)
    flag_above: float


class Platform(Part):
    base: float
    values: Mapping[int, float]
    flag: frozenset[int]


class Dlcs(Part):
    base: float = Field(gt=0)
    season_weight: float
    offset: float
    first_bit: int
    flag_above: float


class GuardianRank(Part):
    low_below: int
    low_value: float
    low_step: float
    low_from: int
    five: float
    high_from: int
    high_value: float
    high_step: float


class AccountBits(Part):
    """Bits of the factors that name themselves in an account's chance; not those of a flag."""

    age: Bit
    star_clears: Bit
    clears: Bit
    platform: Bit
    characters: Bit
    dlcs: Bit
    guardian_rank: Bit
    private_profile: Bit


class Account(Part):
    window_days: int = Field(ge=1)
    age: Age
    clears: Clears
    star_clears: StarClears
    platform: Platform
    characters: Mapping[int, float]
    dlcs: Dlcs
    guardian_rank: GuardianRank
    private_profile: float
    bits: AccountBits


class FlagClass(Part):
    """A flag belongs to it from either probability on; without both every flag does."""

    player: Probability | None = None
    instance: Probability | None = None


class Classes(Part):
    a: FlagClass
    b: FlagClass
    c: FlagClass
    d: FlagClass


class LevelRule(Part):
    """Cumulative counts of flags and the account's chance that give a level together."""

    a: int | None = None
    b: int | None = None
    c: int | None = None
    d: int | None = None
    chance: float | None = None


class Levels(Part):
    min_flags: int
    four: tuple[LevelRule, ...] = Field(alias="4")
    three: tuple[LevelRule, ...] = Field(alias="3")
    two: tuple[LevelRule, ...] = Field(alias="2")
    one: tuple[LevelRule, ...] = Field(alias="1")

    @property
    def descending(self) -> tuple[tuple[int, tuple[LevelRule, ...]], ...]:
        """(level, its rules), the highest level first."""
        return ((4, self.four), (3, self.three), (2, self.two), (1, self.one))


class BlacklistFlagged(Part):
    probability: Probability
    flagged_within_days: int


class Recheck(Part):
    min_level: int
    seen_within_days: int
    completed_within_days: int


class TakingPart(Part):
    solo: bool
    seconds: Seconds
    share_of_duration: Probability
    completed: bool
    instance_flag: Probability
    player_flag: Probability


class Cascade(Part):
    level: int
    seen_within_days: int
    instance_flag: Probability
    player_flag: Probability
    taking_part: TakingPart
    days_before_last_seen: int
    days_before_last_seen_on_board: int


class Blacklist(Part):
    flagged: BlacklistFlagged
    recheck: Recheck
    cascade: Cascade


class Webhooks(Part):
    seconds_between: float = Field(gt=0)
    burst: int = Field(ge=1)


class Parameters(Part):
    """Everything a version of the rules knows."""

    schema_: Literal[1] = Field(alias="schema")
    version: str = Field(pattern=r"^[a-z][a-z0-9]*-[0-9]+(\.[0-9]+)*$")
    flag_prefixes: tuple[str, ...]
    thresholds: Thresholds
    skip: Skip
    curves: Curves
    rules: Rules
    activities: Mapping[int, Activity]
    generic: Generic
    account: Account
    classes: Classes
    levels: Levels
    blacklist: Blacklist
    webhooks: Webhooks

    @cached_property
    def digest(self) -> str:
        """Changes with any number, also one that was changed without a new version."""
        return sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()

    @model_validator(mode="after")
    def _bits_differ(self) -> Self:
        bits = [activity.bit for activity in self.activities.values()]
        if len(set(bits)) < len(bits):
            raise ValueError("two activities have the same bit")
        return self


def read_parameters(path: Path) -> Parameters:
    """The parameters in a YAML file; with `based_on`, what it says instead of that version's file.

    Raises ConfigurationError, which names the file and the path of every value that is missing,
    unknown or impossible.
    """
    try:
        found = Parameters.model_validate(_read_document(path))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'top'}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError(f"{path.name}: {wrong}") from None
    if path.stem != found.version:
        raise ConfigurationError(f"{path.name}: version: is {found.version}, not the file's name")
    return found


def _read_document(path: Path) -> object:
    """What stands in the file, the version that it is based on filled in."""
    try:
        document = yaml.load(path.read_bytes(), _Loader)  # noqa: S506  a safe loader of ours
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path.name}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or (base := document.pop(_BASE, None)) is None:
        return document
    below = FOLDER / f"{base}.yaml"
    if below not in FOLDER.glob("*.yaml") or below.name == path.name:
        raise ConfigurationError(f"{path.name}: {_BASE}: no version {base!r} to be based on")
    return _merged(_read_document(below), document)


def _merged(below: object, above: object) -> object:
    """`above` where it says something; mappings are merged, anything else is replaced whole."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {k: _merged(below[k], v) if k in below else v for k, v in above.items()}


@cache
def load_parameters(version: str = DEFAULT_VERSION) -> Parameters:
    """The parameters of a version of this release. Raises ConfigurationError for any other."""
    path = FOLDER / f"{version}.yaml"
    if path not in FOLDER.glob("*.yaml"):
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise ConfigurationError(f"no version {version!r} of the cheat rules; there are {known}")
    return read_parameters(path)


def current_parameters(settings: Settings) -> Parameters:
    """The parameters in use: those of CHEAT_VERSION, else of this release.

    Raises ConfigurationError, naming the variable, for a version that does not exist.
    """
    if settings.cheat_version is None:
        return load_parameters()
    try:
        return load_parameters(settings.cheat_version)
    except ConfigurationError as error:
        raise ConfigurationError(f"CHEAT_VERSION: {error}") from None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses a key that is written twice, of which YAML would silently keep the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    found: dict[object, object] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.YAMLError(f"a list as a key, line {key_node.start_mark.line + 1}")
        if key in found:
            raise yaml.YAMLError(f"{key!r} twice, line {key_node.start_mark.line + 1}")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
