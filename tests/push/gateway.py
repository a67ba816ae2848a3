"""A push gateway as an ASGI application: it keeps what it is told and answers as it is asked to."""

from __future__ import annotations

from typing import Any

import orjson
import trio

PATH = "/_matrix/push/v1/notify"
URL = f"https://push.example{PATH}"


class Gateway:
    """`told` are the notifications, `tries` the moments at which it was asked. It answers with `status`, rejecting `rejected`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.tries: list[float] = []
        self.status = 200
        self.rejected: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert (scope["method"], scope["path"]) == ("POST", PATH)
        message = await receive()
        self.tries.append(trio.current_time())
        if self.status == 200:
            self.told.append(orjson.loads(message["body"])["notification"])
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": orjson.dumps({"rejected": self.rejected})})

    def events(self) -> list[str]:
        """The ids of the events that it was told of, in order."""
        return [one["event_id"] for one in self.told if "event_id" in one]

    def badges(self) -> list[int]:
        """The counts that it was told by themselves."""
        return [one["counts"]["unread"] for one in self.told if "event_id" not in one]


def pusher(url: str = URL, pushkey: str = "key", **more: Any) -> dict[str, Any]:
    """The body of POST /pushers/set."""
    data = {"url": url, "brand": "field", **more.pop("data", {})}
    names = {"app_display_name": "App", "device_display_name": "Phone", "lang": "en"}
    return {"kind": "http", "app_id": "im.example.app", "pushkey": pushkey, **names, "data": data, **more}
