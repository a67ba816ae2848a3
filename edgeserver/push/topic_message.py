"""Messages of topics: what a publisher gives, what a subscriber gets, and what a subscriber asks for. Pure.

The forms are those of ntfy (docs.ntfy.sh, "Sending messages" and "Subscribe via API"), whose Android app is what listens. Parameters
come as headers (`X-Title`, `Title`, …) or in the query. What would need more than a message (attachments, e-mail, calls, actions, later
delivery) is refused. A message's id is its number in base 62: a client that asks for what came after an id needs no row to stand for it.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgeserver.push import topic_errors as errors
from edgeserver.push.topic_errors import TopicError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MESSAGE: Final = 4096
MAX_PARAMETER: Final = 1024
MAX_TOPICS_AT_ONCE: Final = 30
ID_LENGTH: Final = 12

_TOPIC: Final = re.compile(r"up[-_A-Za-z0-9]{12,62}")
_ANY_TOPIC: Final = re.compile(r"[-_A-Za-z0-9]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9]{12}")
_DURATION: Final = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?")
_HTTP_PRIORITY: Final = re.compile(r"u=\d\b.*")
"""RFC 9218: browsers and proxies add a header of that name, which means something else."""
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PRIORITIES: Final = {"1": 1, "min": 1, "2": 2, "low": 2, "3": 3, "default": 3, "4": 4, "high": 4, "5": 5, "max": 5, "urgent": 5}
_REFUSED: Final = (
    (("attach", "a", "filename", "file", "f"), errors.ATTACHMENTS),
    (("email", "e-mail", "mail", "e"), errors.EMAIL),
    (("call",), errors.CALLS),
    (("actions", "action"), errors.ACTIONS),
    (("delay", "at", "in"), errors.DELAY),
)


class Since(NamedTuple):
    """What a subscriber has: everything up to the message of that number, or until that time (s); `latest`: wants the last one alone."""

    number: int = 0
    time: int = 0
    latest: bool = False


NOTHING_OLD: Final = Since(number=2**62)


class Parameters:
    """The parameters of a request: each is a header, with or without X-, or a key of the query, under one of several names."""

    def __init__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        self._headers = headers
        self._query = {name.lower(): value for name, value in query.items()}

    def text(self, *names: str) -> str:
        """Raises `TopicError` for one that is too long."""
        for name in names:
            header = self._headers.get(f"x-{name}") or (self._headers.get(name) if len(name) > 2 else None)
            value = _header_text(header) if header else self._query.get(name) or self._query.get(f"x-{name}")
            if value:
                if len(value.encode(errors="replace")) > MAX_PARAMETER:
                    raise TopicError(*errors.TOO_LARGE)
                return value.strip()
        return ""

    def switch(self, default: bool, *names: str) -> bool:
        value = self.text(*names).lower()
        return default if not value else value in ("1", "yes", "true")


def _header_text(value: str) -> str:
    """A header's value, which HTTP reads as Latin-1, as what people put into it: UTF-8, or words encoded by RFC 2047."""
    with suppress(UnicodeError):
        value = value.encode("latin-1").decode()
    if "=?" in value:
        from email.errors import HeaderParseError
        from email.header import decode_header, make_header

        with suppress(UnicodeError, LookupError, HeaderParseError):
            value = str(make_header(decode_header(value)))
    return value


def topic_of(name: str) -> str:
    """The name itself. Raises `TopicError` for a name that is none, or that is not one of this server's."""
    if not _ANY_TOPIC.fullmatch(name):
        raise TopicError(*errors.TOPIC)
    if not _TOPIC.fullmatch(name):
        raise TopicError(*errors.FORBIDDEN)
    return name


def looks_like_topics(names: str) -> bool:
    """Whether a path's first segment might be topics at all, or belongs to something else (`_matrix`) that is not served."""
    return all(_ANY_TOPIC.fullmatch(name) and not name.startswith("_") for name in names.split(","))


def topics_of(names: str) -> list[str]:
    """Topics separated by commas, each once. Raises `TopicError`."""
    found = list(dict.fromkeys(topic_of(name) for name in names.split(",")))
    if len(found) > MAX_TOPICS_AT_ONCE:
        raise TopicError(*errors.SUBSCRIPTIONS)
    return found


def published(body: bytes, parameters: Parameters) -> dict[str, Any]:
    """What a message says: the keys of its JSON but for id, time, event and topic. Raises `TopicError`."""
    for names, error in _REFUSED:
        if parameters.text(*names):
            raise TopicError(*error)
    if len(body) > MAX_MESSAGE:
        raise TopicError(*errors.TOO_LARGE)
    said = _body(body, parameters)
    if title := parameters.text("title", "t"):
        said["title"] = title
    priority = parameters.text("priority", "prio", "p").lower()
    if priority and not _HTTP_PRIORITY.fullmatch(priority):
        if priority not in _PRIORITIES:
            raise TopicError(*errors.PRIORITY)
        said["priority"] = _PRIORITIES[priority]
    if tags := [tag.strip() for tag in parameters.text("tags", "tag", "ta").split(",") if tag.strip()]:
        said["tags"] = tags
    if click := parameters.text("click"):
        said["click"] = click
    if icon := parameters.text("icon"):
        if not icon.startswith(("http://", "https://")):
            raise TopicError(*errors.ICON)
        said["icon"] = icon
    if parameters.switch(False, "markdown", "md") or parameters.text("content-type").lower() == "text/markdown":
        said["content_type"] = "text/markdown"
    return said


def is_unifiedpush(parameters: Parameters) -> bool:
    """Whether what is published is for an app, as it is, and not for a person's eyes."""
    return parameters.switch(False, "unifiedpush", "up") or parameters.text("content-encoding") == "aes128gcm"


def _body(body: bytes, parameters: Parameters) -> dict[str, Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        if not is_unifiedpush(parameters):
            raise TopicError(*errors.NOT_UTF8) from None
        return {"message": base64.b64encode(body).decode(), "encoding": "base64"}
    if is_unifiedpush(parameters):
        return {"message": text}
    return {"message": text.strip() or parameters.text("message", "m").replace("\\n", "\n") or "triggered"}


def since_of(parameters: Parameters, now: int) -> Since:
    """What `since` says; without it a poll wants everything and a subscription nothing old. Raises `TopicError`."""
    value = parameters.text("since", "si")
    if not value:
        return Since() if wants_poll(parameters) else NOTHING_OLD
    if value in ("all", "none", "latest"):
        return {"all": Since(), "none": NOTHING_OLD, "latest": Since(latest=True)}[value]
    if _ID.fullmatch(value):
        return Since(number=number_of(value))
    if value.isascii() and value.isdecimal() and len(value) < 12:
        return Since(time=int(value))
    duration = _DURATION.fullmatch(value)
    if duration is None:
        raise TopicError(*errors.SINCE)
    hours, minutes, seconds = (int(part or 0) for part in duration.groups())
    return Since(time=max(0, now - hours * 3600 - minutes * 60 - seconds))


def wants_poll(parameters: Parameters) -> bool:
    return parameters.switch(False, "poll", "po")


def id_of(number: int) -> str:
    """A message's number (below 62**12) as its id."""
    digits = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def number_of(message_id: str) -> int:
    """The number that `id_of` made an id of."""
    number = 0
    for character in message_id:
        number = number * 62 + _DIGITS.index(character)
    return number
