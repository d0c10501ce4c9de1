"""What each error code of Bungie's API means to a caller; docs/domain/bungie-api.md, Codes.

Only codes that somebody acts on are listed: any other is new or none of ours, and is retried.
"""

from enum import StrEnum
from typing import NamedTuple


class CodeClass(StrEnum):
    """What a caller does about an answer."""

    SUCCESS = "success"
    RETRY = "retry"  # transient: try again with back-off, then park
    THROTTLE = "throttle"  # slow down; `Scope` says what
    NOT_FOUND = "not_found"
    PRIVATE = "private"  # the player hides it
    PERMANENT = "permanent"  # this entity or this request will not succeed
    MAINTENANCE = "maintenance"  # close the gate; no attempt is consumed
    KEY_PROBLEM = "key_problem"  # quarantine the API key; no attempt is consumed
    BLOCKED = "blocked"  # exists but is withheld for now (contest weekends)


class Scope(StrEnum):
    """What has to slow down after a throttle."""

    ADDRESS = "address"  # our source address
    KEY = "key"  # the API key
    GLOBAL = "global"  # the game servers: everybody


class Code(NamedTuple):
    identifier: str
    code_class: CodeClass
    scope: Scope | None = None  # throttles only


# The shortest pause after a throttle: `ThrottleSeconds` is often 0 where "almost always 10" is
# meant. The per-minute limit needs the whole minute.
MIN_PAUSE_S = 10
_MIN_PAUSE_OF_CODE = {35: 60}
# A longer one is taken for a mistake: it would stop the crawl until somebody looks.
MAX_PAUSE_S = 3600

_C = CodeClass
CODES: dict[int, Code] = {
    1: Code("Success", _C.SUCCESS),
    2: Code("TransportException", _C.RETRY),
    3: Code("UnhandledException", _C.RETRY),
    4: Code("NotImplemented", _C.PERMANENT),
    5: Code("SystemDisabled", _C.MAINTENANCE),
    7: Code("ParameterParseFailure", _C.PERMANENT),
    8: Code("ParameterInvalidRange", _C.PERMANENT),
    9: Code("BadRequest", _C.PERMANENT),
    10: Code("AuthenticationInvalid", _C.KEY_PROBLEM),
    11: Code("DataNotFound", _C.NOT_FOUND),
    12: Code("InsufficientPrivileges", _C.BLOCKED),
    18: Code("InvalidParameters", _C.PERMANENT),
    19: Code("ParameterNotFound", _C.PERMANENT),
    20: Code("UnhandledHttpException", _C.RETRY),
    21: Code("NotFound", _C.NOT_FOUND),
    22: Code("WebAuthModuleAsyncFailed", _C.RETRY),
    23: Code("InvalidReturnValue", _C.RETRY),
    24: Code("UserBanned", _C.PERMANENT),
    27: Code("ExternalServiceTimeout", _C.RETRY),
    30: Code("JsonDeserializationError", _C.RETRY),
    31: Code("ThrottleLimitExceeded", _C.THROTTLE, Scope.ADDRESS),
    35: Code("ThrottleLimitExceededMinutes", _C.THROTTLE, Scope.ADDRESS),
    36: Code("ThrottleLimitExceededMomentarily", _C.THROTTLE, Scope.ADDRESS),
    37: Code("ThrottleLimitExceededSeconds", _C.THROTTLE, Scope.ADDRESS),
    38: Code("ExternalServiceUnknown", _C.RETRY),
    42: Code("ExternalServiceFailed", _C.RETRY),
    43: Code("ServiceRetired", _C.PERMANENT),
    46: Code("InvalidPageNumber", _C.PERMANENT),
    47: Code("MaximumPageSizeExceeded", _C.PERMANENT),
    48: Code("ServiceUnsupported", _C.PERMANENT),
    51: Code("PerEndpointRequestThrottleExceeded", _C.THROTTLE, Scope.ADDRESS),
    # 52 and 53 stand among the throttles and are none.
    52: Code("AuthContextCacheAssertion", _C.RETRY),
    53: Code("ExPlatformStringValidationError", _C.RETRY),
    54: Code("PerApplicationThrottleExceeded", _C.THROTTLE, Scope.KEY),
    55: Code("PerApplicationAnonymousThrottleExceeded", _C.THROTTLE, Scope.KEY),
    56: Code("PerApplicationAuthenticatedThrottleExceeded", _C.THROTTLE, Scope.KEY),
    57: Code("PerUserThrottleExceeded", _C.THROTTLE, Scope.KEY),
    58: Code("PayloadSignatureVerificationFailure", _C.RETRY),
    59: Code("InvalidServiceAuthContext", _C.RETRY),
    99: Code("WebAuthRequired", _C.KEY_PROBLEM),
    205: Code("UserCannotFindRequestedUser", _C.PERMANENT),
    217: Code("UserCannotResolveCentralAccount", _C.PERMANENT),
    622: Code("GroupNotFound", _C.NOT_FOUND),
    630: Code("NoDestinyAccountForClanPlatform", _C.NOT_FOUND),
    686: Code("ClanNotFound", _C.NOT_FOUND),
    1600: Code("DestinyAccountAcquisitionFailure", _C.RETRY),
    1601: Code("DestinyAccountNotFound", _C.NOT_FOUND),
    1602: Code("DestinyBuildStatsDatabaseError", _C.RETRY),
    1603: Code("DestinyCharacterStatsDatabaseError", _C.RETRY),
    1604: Code("DestinyPvPStatsDatabaseError", _C.RETRY),
    1605: Code("DestinyPvEStatsDatabaseError", _C.RETRY),
    1606: Code("DestinyGrimoireStatsDatabaseError", _C.RETRY),
    1607: Code("DestinyStatsParameterMembershipTypeParseError", _C.PERMANENT),
    1608: Code("DestinyStatsParameterMembershipIdParseError", _C.PERMANENT),
    1609: Code("DestinyStatsParameterRangeParseError", _C.PERMANENT),
    1612: Code("DestinyContentLookupNotFoundForKey", _C.PERMANENT),
    1613: Code("DestinyContentItemNotFound", _C.PERMANENT),
    1614: Code("DestinyContentSectionNotFound", _C.PERMANENT),
    1615: Code("DestinyContentPropertyNotFound", _C.PERMANENT),
    1616: Code("DestinyContentConfigNotFound", _C.PERMANENT),
    1617: Code("DestinyContentPropertyBucketValueNotFound", _C.PERMANENT),
    1618: Code("DestinyUnexpectedError", _C.RETRY),
    1620: Code("DestinyCharacterNotFound", _C.NOT_FOUND),
    1626: Code("DestinyInternalError", _C.RETRY),
    1628: Code("DestinyRecentActivitiesDatabaseError", _C.RETRY),
    1630: Code("DestinyInvalidMembershipType", _C.PERMANENT),
    1631: Code("DestinyVersionIncompatibility", _C.PERMANENT),
    1643: Code("DestinyServiceFailure", _C.RETRY),
    1644: Code("DestinyServiceRetired", _C.PERMANENT),
    1649: Code("DestinyErrorDeserializationFailure", _C.RETRY),
    1651: Code("DestinyShardRelayClientTimeout", _C.RETRY),
    1652: Code("DestinyShardRelayProxyTimeout", _C.RETRY),
    1653: Code("DestinyPGCRNotFound", _C.NOT_FOUND),
    1662: Code("DestinyContentVersionMismatch", _C.PERMANENT),
    1665: Code("DestinyPrivacyRestriction", _C.PRIVATE),
    1668: Code("DestinyLegacyPlatformRestricted", _C.PERMANENT),
    1669: Code("DestinyLegacyPlatformInUse", _C.PERMANENT),
    1670: Code("DestinyLegacyPlatformInaccessible", _C.PERMANENT),
    1672: Code("DestinyThrottledByGameServer", _C.THROTTLE, Scope.GLOBAL),
    1682: Code("DestinyPublicAccountNotAccessible", _C.PERMANENT),
    1688: Code("DestinyDirectBabelClientTimeout", _C.RETRY),
    2012: Code("TokenThrottleStateUnknownError", _C.RETRY),
    2100: Code("ApiExceededMaxKeys", _C.KEY_PROBLEM),
    2101: Code("ApiInvalidOrExpiredKey", _C.KEY_PROBLEM),
    2102: Code("ApiKeyMissingFromRequest", _C.KEY_PROBLEM),
    2103: Code("ApplicationDisabled", _C.KEY_PROBLEM),
    2104: Code("ApplicationExceededMax", _C.KEY_PROBLEM),
    2105: Code("ApplicationDisallowedByScope", _C.KEY_PROBLEM),
    2106: Code("AuthorizationCodeInvalid", _C.KEY_PROBLEM),
    2107: Code("OriginHeaderDoesNotMatchKey", _C.KEY_PROBLEM),
    2108: Code("AccessNotPermittedByApplicationScope", _C.KEY_PROBLEM),
    2111: Code("AccessTokenHasExpired", _C.PERMANENT),
    2115: Code("OAuthAccessTokenExpired", _C.PERMANENT),
    2123: Code("AuthorizationRecordExpired", _C.PERMANENT),
    2124: Code("AuthorizationRecordRevoked", _C.PERMANENT),
    2125: Code("AuthorizationRecordInactiveApiKey", _C.PERMANENT),
    2126: Code("AuthorizationRecordApiKeyMatching", _C.PERMANENT),
}


def class_of(code: int) -> CodeClass:
    """The class of `code`; an unknown one is retried."""
    known = CODES.get(code)
    return known.code_class if known else CodeClass.RETRY


def pause_s(code: int | None, throttle_seconds: int) -> int:
    """Seconds to pause after a throttle; `code` is None for a page of the edge."""
    least = _MIN_PAUSE_OF_CODE.get(code or 0, MIN_PAUSE_S)
    return min(max(throttle_seconds, least), MAX_PAUSE_S)
