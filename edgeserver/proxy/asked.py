"""What a client asks for with a sync, as far as the answers depend on it (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from edgeserver.proxy.replies import json_object
from edgeserver.sync.filters import UNBROKEN
from transports import syncing
from transports.syncing import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transports.exchange import Request

_STATE_AFTER: Final = ("use_state_after", "org.matrix.msc4222.use_state_after")
_SLIDING: Final = ("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", syncing.ACCEPTED)
_HOW_MANY: Final = ("limit", UNBROKEN)
_OTHER_EVENTS: Final = frozenset(("event_fields", "event_format"))
"""Of a filter: with these, events lack what is needed to make something of them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`connection` tells the syncs of one device apart; that of a classic sync is its filter, in canonical form, but for the number of
    events, which may be another one each time (`limit`). `first` is what else a client has to ask for to begin with what was told before.
    """

    form: Form
    connection: str
    first: str = ""
    state_after: bool = False
    limit: int = field(default=0, compare=False)

    @classmethod
    def classic(cls, definition: Mapping[str, Any], parameters: Mapping[str, str]) -> Asked | None:
        """By a filter's definition and the query. None if nothing can be told anew of what is asked for: rooms that were left are told of
        once, and of some filters the events lack parts.
        """
        room = definition.get("room")
        timeline = room.get("timeline") if isinstance(room, dict) else None
        if not isinstance(room, dict) or not isinstance(timeline, dict) or not isinstance(timeline.get("limit"), int):
            return None
        if room.get("include_leave") or _OTHER_EVENTS & definition.keys():
            return None
        kinds = {name: value for name, value in timeline.items() if name not in _HOW_MANY}
        connection = _canonical({**definition, "room": {**room, "timeline": kinds}})
        state_after = any(parameters.get(name) == "true" for name in _STATE_AFTER)
        return cls(Form.CLASSIC, connection, state_after=state_after, limit=timeline["limit"])

    @classmethod
    def sliding(cls, request: Request, form: Form) -> Asked | None:
        """By the request. None for a dialect that is not understood."""
        path, body = request.target.partition("?")[0], json_object(request.body) or {}
        if path not in _SLIDING:
            return None
        return cls(form, f"{path} {body.get('conn_id', '')}", _canonical(without_progress(request, form)))


def without_progress(request: Request, form: Form) -> tuple[dict[str, Any], str]:
    """A sliding sync's body and target without what changes from poll to poll though the same is asked for."""
    body = json_object(request.body) or {}
    kept = {name: value for name, value in body.items() if name not in ("pos", "timeout")}
    extensions = kept.get("extensions")
    if isinstance(extensions, dict) and isinstance(wanted := extensions.get("to_device"), dict):
        kept["extensions"] = {**extensions, "to_device": {name: value for name, value in wanted.items() if name != "since"}}
    return kept, syncing.at(request, form, None).target


def _canonical(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
