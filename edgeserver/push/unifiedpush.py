"""The Matrix push gateway of this box: from a notification to the topic that a phone listens to.

Spec: Push Gateway API; UnifiedPush, "Gateways" (a pushkey is the endpoint that the phone's distributor has handed out). A pushkey that
is no topic of this box is rejected and never called: a gateway that called any URL would be everybody's way into this network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from edgeserver.push.topic_errors import TopicError
from edgeserver.push.topic_message import MAX_MESSAGE, topic_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeserver.push.topics import Topics

MAX_DEVICES: Final = 20


class UnifiedPush:
    """The gateway. `is_own(scheme, authority)` says whether that is this box, as its topics' addresses name it."""

    def __init__(self, topics: Topics, is_own: Callable[[str, str], bool]) -> None:
        self._topics = topics
        self._is_own = is_own

    async def notify(self, notification: Mapping[str, Any], authority: str) -> list[str]:
        """Publishes to the topic of each device; returns the pushkeys that are rejected.

        `authority` (host or host:port) is what the gateway was called by: whoever reached this box by that name means this box by it.
        Raises `TopicError` where there are too many topics.
        """
        rejected = []
        devices = notification.get("devices")
        for device in devices[:MAX_DEVICES] if isinstance(devices, list) else []:
            pushkey = device.get("pushkey") if isinstance(device, dict) else None
            if not isinstance(pushkey, str):
                continue
            topic = self._topic_of(pushkey, authority)
            if topic is None or not self._topics.is_known(topic):
                rejected.append(pushkey)
                continue
            await self._topics.hand_over(topic, {"message": _shortened(dict(notification), device)}, _subject(notification))
        return rejected

    def _topic_of(self, pushkey: str, authority: str) -> str | None:
        try:
            parts = urlsplit(pushkey)
            if parts.scheme not in ("http", "https") or "@" in parts.netloc:
                return None
            if parts.netloc.lower() != authority.lower() and not self._is_own(parts.scheme, parts.netloc.lower()):
                return None
            return topic_of(parts.path.removeprefix("/"))
        except (ValueError, TopicError):
            return None


def _subject(notification: Mapping[str, Any]) -> str:
    """The newest of a room stands for the others while a phone is away; counts alone stand for counts."""
    room_id = notification.get("room_id")
    return room_id if isinstance(room_id, str) else ""


def _shortened(notification: dict[str, Any], device: Mapping[str, Any]) -> str:
    """As JSON, without what makes it too large for a message: the app reads the event from its server anyway."""
    small = {name: value for name, value in notification.items() if name in ("event_id", "room_id", "prio", "counts")}
    smallest = {name: value for name, value in device.items() if name in ("app_id", "pushkey", "pushkey_ts")}
    forms = ({**notification, "devices": [device]}, {**small, "devices": [device]}, {**small, "devices": [smallest]})
    texts = (orjson.dumps({"notification": form}) for form in forms)
    return next((text for text in texts if len(text) <= MAX_MESSAGE), b'{"notification":{}}').decode()
