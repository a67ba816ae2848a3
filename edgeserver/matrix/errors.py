"""Errors with a code of the spec: what a client or another server is told.

Spec: client-server API, "Standard error response" and "Common error codes". The HTTP status of each code is stated here
and nowhere else; whatever is raised that is not a MatrixError is M_UNKNOWN to the client and a traceback in the log.

::

    MatrixError                          status, errcode, error, extra
    └── CodedError                       a code with its status
        ├── 400  BadJson NotJson InvalidParam MissingParam BadState BadAlias InvalidUsername UserInUse Exclusive
        │        RoomInUse InvalidRoomState UnsupportedRoomVersion IncompatibleRoomVersion UnableToAuthoriseJoin
        │        UnableToGrantJoin WeakPassword UnknownPos DuplicateAnnotation ThreepidInUse ThreepidNotFound
        │        ProfileTooLarge KeyTooLarge MaxDelayExceeded NotInThread InvalidSignature UnknownDevice
        ├── 401  MissingToken UnknownToken Unauthorized UserLocked
        ├── 403  Forbidden GuestForbidden WrongRoomKeysVersion UserDeactivated UserSuspended ThreepidDenied
        │        ResourceLimitExceeded CannotLeaveServerNoticeRoom InviteBlocked
        ├── 404  NotFound UnableDueToPartialState Unrecognized (or 405)
        ├── 409  CannotOverwriteMedia ConflictingUnsubscription
        ├── 413  TooLarge
        ├── 429  LimitExceeded
        ├── 500  Unknown
        └── 504  NotYetUploaded
"""

from __future__ import annotations

from typing import Any, ClassVar


class MatrixError(Exception):
    """An error that is told to the other side.

    `status` is the HTTP status, `errcode` the machine's reason, `error` the person's, `extra` further keys of the body.
    """

    def __init__(self, status: int, errcode: str, error: str, **extra: Any) -> None:
        super().__init__(error)
        self.status = status
        self.errcode = errcode
        self.error = error
        self.extra = extra

    def as_json(self) -> dict[str, Any]:
        """The body of the error response."""
        return {**self.extra, "errcode": self.errcode, "error": self.error}

    def __str__(self) -> str:
        return f"{self.status} {self.errcode}: {self.error}"


class CodedError(MatrixError):
    """An error whose code and status its class states; `error` may be put better by whoever raises it."""

    CODE: ClassVar[str]
    STATUS: ClassVar[int] = 400
    ERROR: ClassVar[str]

    def __init__(self, error: str | None = None, **extra: Any) -> None:
        super().__init__(self.STATUS, self.CODE, self.ERROR if error is None else error, **extra)


# 400: the request


class BadJson(CodedError):
    """JSON, but not of the shape that the endpoint asks for."""

    CODE, ERROR = "M_BAD_JSON", "The JSON is not of the expected shape."


class NotJson(CodedError):
    """Not JSON."""

    CODE, ERROR = "M_NOT_JSON", "The body is not valid JSON."


class InvalidParam(CodedError):
    """A parameter has a wrong value."""

    CODE, ERROR = "M_INVALID_PARAM", "A parameter has an invalid value."


class MissingParam(CodedError):
    """A parameter is missing."""

    CODE, ERROR = "M_MISSING_PARAM", "A required parameter is missing."


class BadState(CodedError):
    """The change would be contrary to the room's state (a ban of someone banned, say)."""

    CODE, ERROR = "M_BAD_STATE", "The room's state does not allow this change."


class BadAlias(CodedError):
    """A canonical alias that does not point at the room."""

    CODE, ERROR = "M_BAD_ALIAS", "The alias does not point at this room."


class InvalidUsername(CodedError):
    """A user name outside the grammar."""

    CODE, ERROR = "M_INVALID_USERNAME", "The user name is not valid."


class UserInUse(CodedError):
    """A user name that is taken."""

    CODE, ERROR = "M_USER_IN_USE", "The user name is taken."


class Exclusive(CodedError):
    """A name in the namespace of an application service."""

    CODE, ERROR = "M_EXCLUSIVE", "The name is reserved by an application service."


class UnknownDevice(CodedError):
    """An application service acts from a device that its user does not have."""

    CODE, ERROR = "M_UNKNOWN_DEVICE", "The user has no such device."


class RoomInUse(CodedError):
    """An alias that is taken."""

    CODE, ERROR = "M_ROOM_IN_USE", "The room alias is taken."


class InvalidRoomState(CodedError):
    """The initial state asked for a new room contradicts itself."""

    CODE, ERROR = "M_INVALID_ROOM_STATE", "The initial state of the room is not valid."


class UnsupportedRoomVersion(CodedError):
    """A room version that this server does not know."""

    CODE, ERROR = "M_UNSUPPORTED_ROOM_VERSION", "This server does not support that room version."


class IncompatibleRoomVersion(CodedError):
    """The asking server does not support the room's version."""

    CODE, ERROR = "M_INCOMPATIBLE_ROOM_VERSION", "Your server does not support this room's version."

    def __init__(self, room_version: str, error: str | None = None) -> None:
        super().__init__(error, room_version=room_version)


class UnableToAuthoriseJoin(CodedError):
    """We cannot tell whether the restricted join is allowed; another server may."""

    CODE, ERROR = "M_UNABLE_TO_AUTHORISE_JOIN", "This server cannot tell whether the join is allowed."


class UnableToGrantJoin(CodedError):
    """The restricted join is allowed, but nobody here may authorise it."""

    CODE, ERROR = "M_UNABLE_TO_GRANT_JOIN", "No user of this server can authorise the join."


class WeakPassword(CodedError):
    """A password below the server's policy."""

    CODE, ERROR = "M_WEAK_PASSWORD", "The password is too weak."


class UnknownPos(CodedError):
    """A sliding sync position that is unknown or has expired (MSC4186)."""

    CODE, ERROR = "M_UNKNOWN_POS", "The position is unknown; start a new connection."


class DuplicateAnnotation(CodedError):
    """The same reaction twice."""

    CODE, ERROR = "M_DUPLICATE_ANNOTATION", "You have already sent this annotation."


class ThreepidInUse(CodedError):
    """A third-party id that belongs to an account."""

    CODE, ERROR = "M_THREEPID_IN_USE", "The third-party identifier is in use."


class ThreepidNotFound(CodedError):
    """A third-party id that belongs to no account."""

    CODE, ERROR = "M_THREEPID_NOT_FOUND", "No account has this third-party identifier."


class ProfileTooLarge(CodedError):
    """A profile of more than 64 KiB."""

    CODE, ERROR = "M_PROFILE_TOO_LARGE", "The profile would be too large."


class KeyTooLarge(CodedError):
    """A profile field's name of more than 255 bytes."""

    CODE, ERROR = "M_KEY_TOO_LARGE", "The name of the field is too long."


class MaxDelayExceeded(CodedError):
    """A delayed event further off than allowed; `max_delay` in milliseconds (MSC4140)."""

    CODE, ERROR = "M_MAX_DELAY_EXCEEDED", "The delay is too long."


class NotInThread(CodedError):
    """The event does not belong to the thread (MSC4306)."""

    CODE, ERROR = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "The event is not in the thread."


class InvalidSignature(CodedError):
    """A signature of an uploaded key that does not verify, or that is missing."""

    CODE, ERROR = "M_INVALID_SIGNATURE", "A signature is missing or wrong."


# 401: who are you?


class MissingToken(CodedError):
    """No access token."""

    CODE, STATUS, ERROR = "M_MISSING_TOKEN", 401, "An access token is required."


class UnknownToken(CodedError):
    """An access token that is not, or no longer, valid; with `soft_logout` the client keeps its keys."""

    CODE, STATUS, ERROR = "M_UNKNOWN_TOKEN", 401, "The access token is not valid."

    def __init__(self, error: str | None = None, *, soft_logout: bool = False) -> None:
        super().__init__(error, soft_logout=soft_logout)


class Unauthorized(CodedError):
    """Authentication failed: a server's request signature above all."""

    CODE, STATUS, ERROR = "M_UNAUTHORIZED", 401, "The request is not authenticated."


class UserLocked(CodedError):
    """The account is locked."""

    CODE, STATUS, ERROR = "M_USER_LOCKED", 401, "This account has been locked."

    def __init__(self, error: str | None = None) -> None:
        super().__init__(error, soft_logout=True)


# 403: you may not


class Forbidden(CodedError):
    """Known, and not allowed."""

    CODE, STATUS, ERROR = "M_FORBIDDEN", 403, "You are not allowed to do this."


class GuestForbidden(CodedError):
    """Guests may not."""

    CODE, STATUS, ERROR = "M_GUEST_ACCESS_FORBIDDEN", 403, "Guests are not allowed to do this."


class WrongRoomKeysVersion(CodedError):
    """Keys for a backup version that is not the newest."""

    CODE, STATUS, ERROR = "M_WRONG_ROOM_KEYS_VERSION", 403, "This is not the newest backup version."

    def __init__(self, current_version: str | None = None, error: str | None = None) -> None:
        super().__init__(error, **({} if current_version is None else {"current_version": current_version}))


class UserDeactivated(CodedError):
    """The account has been deactivated."""

    CODE, STATUS, ERROR = "M_USER_DEACTIVATED", 403, "This account has been deactivated."


class UserSuspended(CodedError):
    """The account is suspended."""

    CODE, STATUS, ERROR = "M_USER_SUSPENDED", 403, "This account has been suspended."


class ThreepidDenied(CodedError):
    """Third-party ids are not accepted here."""

    CODE, STATUS, ERROR = "M_THREEPID_DENIED", 403, "This third-party identifier is not accepted here."


class ResourceLimitExceeded(CodedError):
    """The server is full."""

    CODE, STATUS, ERROR = "M_RESOURCE_LIMIT_EXCEEDED", 403, "The server has reached a resource limit."

    def __init__(self, admin_contact: str, error: str | None = None) -> None:
        super().__init__(error, admin_contact=admin_contact)


class CannotLeaveServerNoticeRoom(CodedError):
    """The room of server notices stays."""

    CODE, STATUS, ERROR = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", 403, "You cannot leave the room of server notices."


class InviteBlocked(CodedError):
    """The invited user does not take invites from the sender."""

    CODE, STATUS, ERROR = "M_INVITE_BLOCKED", 403, "The user does not accept your invite."


# The rest


class NotFound(CodedError):
    """No such thing."""

    CODE, STATUS, ERROR = "M_NOT_FOUND", 404, "Not found."


class UnableDueToPartialState(CodedError):
    """The room's members are still being fetched, so that a question about it cannot be answered yet (MSC3895)."""

    CODE, STATUS = "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE", 404
    ERROR = "This server does not know all of the room's members yet."


class Unrecognized(CodedError):
    """No such endpoint (404), or not with this method (`status=405`)."""

    CODE, STATUS, ERROR = "M_UNRECOGNIZED", 404, "Unrecognised request."

    def __init__(self, error: str | None = None, *, status: int = 404) -> None:
        super().__init__(error)
        self.status = status


class CannotOverwriteMedia(CodedError):
    """The media id has content already."""

    CODE, STATUS, ERROR = "M_CANNOT_OVERWRITE_MEDIA", 409, "The media has been uploaded already."


class ConflictingUnsubscription(CodedError):
    """An automatic subscription came after the user unsubscribed (MSC4306)."""

    CODE, STATUS, ERROR = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", 409, "You unsubscribed from the thread after that event."


class TooLarge(CodedError):
    """A request, event or upload beyond a limit."""

    CODE, STATUS, ERROR = "M_TOO_LARGE", 413, "The request is too large."


class LimitExceeded(CodedError):
    """Too many requests; `retry_after_ms` in milliseconds."""

    CODE, STATUS, ERROR = "M_LIMIT_EXCEEDED", 429, "Too many requests."

    def __init__(self, retry_after_ms: int, error: str | None = None) -> None:
        super().__init__(error, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class Unknown(CodedError):
    """Anything else."""

    CODE, STATUS, ERROR = "M_UNKNOWN", 500, "An unknown error has occurred."

    def __init__(self, error: str | None = None, *, status: int = 500, **extra: Any) -> None:
        super().__init__(error, **extra)
        self.status = status


class NotYetUploaded(CodedError):
    """The media has been announced but not uploaded."""

    CODE, STATUS, ERROR = "M_NOT_YET_UPLOADED", 504, "The media has not been uploaded yet."
