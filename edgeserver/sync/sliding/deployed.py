"""The dialect of sliding sync that clients speak today: POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync.

`pos` and `timeout` are in the query; `required_state` is a list of pairs with `*`, `$LAZY` and `$ME`; lists have several ranges. Their
answer is a count alone: of `ops`, which name each room of each range in each answer, no client makes anything (matrix-rust-sdk#3664,
synapse#17671). The accepted form is `accepted.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeserver.matrix import errors
from edgeserver.sync.sliding import reading
from edgeserver.sync.sliding.extensions import THREADS
from edgeserver.sync.sliding.wanted import MEMBER, Element, ListWish, RequiredState, RoomWish, SlidingRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeserver.sync.sliding.wanted import RoomResult, SlidingAnswer

UNSTABLE_THREADS: Final = "io.element.msc4308.thread_subscriptions"
ANY: Final = "*"


def read(user_id: str, device_id: str, pos: str | None, timeout_ms: int, body: Mapping[str, Any]) -> SlidingRequest:
    """Raises M_BAD_JSON, M_MISSING_PARAM, M_INVALID_PARAM."""
    return SlidingRequest(
        user_id,
        device_id,
        reading.conn_id(body),
        pos,
        timeout_ms,
        {name: _list(user_id, given) for name, given in reading.lists(body).items()},
        {room_id: _wish(user_id, given) for room_id, given in reading.table(body, "room_subscriptions", reading.MAX_SUBSCRIPTIONS).items()},
        reading.extensions(body, star=True, threads=UNSTABLE_THREADS),
        counts_reads=True,
    )


def _list(user_id: str, given: Mapping[str, Any]) -> ListWish:
    ranges = given.get("ranges")
    if ranges is not None and (type(ranges) is not list or len(ranges) > reading.MAX_LISTS):
        raise errors.BadJson("ranges is not a list of ranges.")
    if given.get("slow_get_all_rooms") is True:
        ranges = None
    name_like = (given.get("filters") or {}).get("room_name_like") if type(given.get("filters")) is dict else None
    if name_like is not None and type(name_like) is not str:
        raise errors.BadJson("room_name_like is not a string.")
    wanted = replace(reading.filters(given.get("filters"), invited="is_invite"), name_like=name_like)
    return ListWish(_wish(user_id, given), None if ranges is None else _apart(map(reading.span, ranges)), wanted)


def _apart(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same places in order, none of them twice."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        beyond = start if not found else max(start, found[-1][1] + 1)
        if beyond <= end:
            found.append((beyond, end))
    return tuple(found)


def _wish(user_id: str, given: Mapping[str, Any]) -> RoomWish:
    return RoomWish(reading.timeline_limit(given), frozenset([_required(user_id, given.get("required_state"))]))


def _required(user_id: str, given: object) -> RequiredState:
    """Beside ["*", "*"] the other pairs narrow down what is told of their types (MSC3575)."""
    if given is None:
        return RequiredState()
    if type(given) is not list or len(given) > reading.MAX_ELEMENTS:
        raise errors.BadJson(f"required_state is not a list of at most {reading.MAX_ELEMENTS} pairs.")
    elements: set[Element] = set()
    lazy = False
    for pair in given:
        if type(pair) is not list or len(pair) != 2 or not all(type(one) is str for one in pair):
            raise errors.BadJson("required_state holds pairs of a type and a state key.")
        kind, state_key = pair
        if state_key == "$LAZY":
            lazy = lazy or kind == MEMBER
            continue
        key = user_id if state_key == "$ME" else None if state_key == ANY else state_key
        elements.add((None if kind == ANY else kind, key))
    if (None, None) not in elements:
        return RequiredState(frozenset(elements), lazy_members=lazy)
    narrowed = {kind for kind, _ in elements if kind is not None} | ({MEMBER} if lazy else set())
    return RequiredState(
        frozenset({(None, None)}),
        frozenset((kind, None) for kind in narrowed),
        frozenset(elements - {(None, None)}),
        lazy,
    )


def write(answer: SlidingAnswer) -> dict[str, Any]:
    """The body of the answer."""
    return {
        "pos": answer.pos,
        "lists": {name: {"count": count} for name, count in answer.lists.items()},
        "rooms": {room_id: room(result) for room_id, result in answer.rooms.items()},
        "extensions": {UNSTABLE_THREADS if name == THREADS else name: body for name, body in answer.extensions.items()},
    }


def room(result: RoomResult) -> dict[str, Any]:
    """One room's result. With `invite_state` clients take a room for an invite or a knock, whatever else it says."""
    is_asked = result.membership in ("invite", "knock")
    body: dict[str, Any] = {"notification_count": result.notifications, "highlight_count": result.highlights}
    shown = {
        "bump_stamp": result.bump_stamp,
        "joined_count": result.joined_count,
        "invited_count": result.invited_count,
        "name": result.name,
        "avatar": result.avatar,
        "prev_batch": result.prev_batch,
        "invite_state": result.stripped if is_asked else None,
    }
    body |= {key: value for key, value in shown.items() if value is not None and not (value == "" and result.initial)}
    flags = {"initial": result.initial, "unstable_expanded_timeline": result.expanded}
    body |= {key: value for key, value in flags.items() if value}
    if result.is_dm is not None and (result.is_dm or not result.initial):
        body["is_dm"] = result.is_dm
    found = {"heroes": result.heroes, "required_state": result.state, "timeline": result.timeline}
    body |= {key: value for key, value in found.items() if value}
    if result.has_timeline:
        body |= {"limited": result.limited, "num_live": result.num_live}
    return body
