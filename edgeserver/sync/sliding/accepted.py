"""The dialect of sliding sync that was accepted: POST /_matrix/client/v4/sync (MSC4186).

Everything is in the body; `required_state` is an object; a list has one range; state that is gone is told as a stub. What clients speak
today is `deployed.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.matrix import errors
from edgeserver.sync.sliding import reading
from edgeserver.sync.sliding.extensions import THREADS
from edgeserver.sync.sliding.wanted import Element, ListWish, RequiredState, RoomWish, SlidingRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeserver.sync.sliding.wanted import RoomResult, SlidingAnswer


def read(user_id: str, device_id: str, body: Mapping[str, Any]) -> SlidingRequest:
    """Raises M_BAD_JSON, M_MISSING_PARAM, M_INVALID_PARAM."""
    pos = body.get("pos")
    if pos is not None and type(pos) is not str:
        raise errors.BadJson("pos is not a string.")
    return SlidingRequest(
        user_id,
        device_id,
        reading.conn_id(body),
        pos,
        reading.whole_number(body.get("timeout", 0), "timeout"),
        {name: _list(given) for name, given in reading.lists(body).items()},
        {room_id: _wish(given) for room_id, given in reading.table(body, "room_subscriptions", reading.MAX_SUBSCRIPTIONS).items()},
        reading.extensions(body, star=False, threads=THREADS),
    )


def _list(given: Mapping[str, Any]) -> ListWish:
    span = given.get("range")
    filters = reading.filters(given.get("filters"), invited="is_invited")
    return ListWish(_wish(given), None if span is None else (reading.span(span),), filters)


def _wish(given: Mapping[str, Any]) -> RoomWish:
    required = given.get("required_state")
    if required is None:
        raise errors.MissingParam("required_state is missing.")
    if type(required) is not dict:
        raise errors.BadJson("required_state is not an object.")
    lazy = required.get("lazy_members", False)
    if type(lazy) is not bool:
        raise errors.BadJson("lazy_members is true or false.")
    state = RequiredState(_elements(required, "include"), _elements(required, "exclude"), lazy_members=lazy)
    return RoomWish(reading.timeline_limit(given), frozenset([state]))


def _elements(required: Mapping[str, Any], key: str) -> frozenset[Element]:
    given = required.get(key)
    if given is None:
        return frozenset()
    if type(given) is not list or len(given) > reading.MAX_ELEMENTS or not all(type(one) is dict for one in given):
        raise errors.BadJson(f"{key} is not a list of at most {reading.MAX_ELEMENTS} objects.")
    found: set[Element] = set()
    for one in given:
        pair = (one.get("type"), one.get("state_key"))
        if not all(each is None or type(each) is str for each in pair):
            raise errors.BadJson("type and state_key are strings.")
        found.add(pair)
    return frozenset(found)


def write(answer: SlidingAnswer) -> dict[str, Any]:
    """The body of the answer."""
    body: dict[str, Any] = {"pos": answer.pos}
    parts = {
        "lists": {name: {"count": count} for name, count in answer.lists.items()},
        "rooms": {room_id: room(result) for room_id, result in answer.rooms.items()},
        "extensions": answer.extensions,
    }
    return body | {key: part for key, part in parts.items() if part}


def room(result: RoomResult) -> dict[str, Any]:
    """One room's result."""
    body: dict[str, Any] = {"membership": result.membership}
    shown = {
        "bump_stamp": result.bump_stamp,
        "lists": result.lists or None,
        "heroes": result.heroes,
        "is_dm": result.is_dm,
        "prev_batch": result.prev_batch,
        "joined_count": result.joined_count,
        "invited_count": result.invited_count,
        "stripped_state": result.stripped,
    }
    body |= {key: value for key, value in shown.items() if value is not None}
    for key, value in (("name", result.name), ("avatar", result.avatar)):
        if value or (value == "" and not result.initial):
            body[key] = value or None
    flags = {"initial": result.initial, "expanded_timeline": result.expanded, "limited": result.limited}
    body |= {key: True for key, value in flags.items() if value}
    state = [*result.state, *({"type": kind, "state_key": state_key} for kind, state_key in result.gone)]
    body |= {key: value for key, value in (("required_state", state), ("timeline_events", result.timeline)) if value}
    if result.has_timeline and result.timeline:
        body["num_live"] = result.num_live
    return body
