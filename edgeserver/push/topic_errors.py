"""What a publisher or subscriber of a topic is told: ntfy's errors, `{"code": …, "http": …, "error": …}` (its server/errors.go)."""

from __future__ import annotations

from typing import Any, Final


class TopicError(Exception):
    """`code` is ntfy's number, whose first three digits are the HTTP status."""

    def __init__(self, code: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return self.code // 100

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "http": self.status, "error": self.text}


EMAIL: Final = (40001, "e-mail notifications are not enabled")
DELAY: Final = (40004, "invalid delay parameter: scheduled delivery is not served here")
PRIORITY: Final = (40007, "invalid priority parameter")
SINCE: Final = (40008, "invalid since parameter")
TOPIC: Final = (40009, "invalid request: topic invalid")
NOT_UTF8: Final = (40011, "invalid request: message must be UTF-8 encoded")
ATTACHMENTS: Final = (40014, "invalid request: attachments not allowed")
NO_UPGRADE: Final = (40016, "invalid request: client not using the websocket protocol")
ACTIONS: Final = (40018, "invalid request: actions are not served here")
ICON: Final = (40021, "invalid request: icon URL is invalid")
CALLS: Final = (40032, "invalid request: calling is disabled")
FORBIDDEN: Final = (40301, "forbidden: topics of this server are named up… and have 14 to 64 characters")
FORSAKEN: Final = (40401, "topic not found: nobody has listened to it for long")
TOO_LARGE: Final = (41301, "message too large")
REQUESTS: Final = (42901, "limit reached: too many requests")
SUBSCRIPTIONS: Final = (42903, "limit reached: too many active subscriptions")
TOPICS: Final = (42904, "limit reached: the total number of topics on the server has been reached")
