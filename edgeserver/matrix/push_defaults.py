"""The push rules that every user starts with.

Spec: client-server API, "Push Notifications", "Predefined Rules" (v1.19: the rules that looked for names in the text
of a message are gone since v1.17).
"""

from __future__ import annotations

from typing import Any, Final

Rule = dict[str, Any]
Ruleset = dict[str, list[Rule]]

MSC4306: Final = "io.element.msc4306"
POSTCONTENT: Final = "postcontent"
"""A kind of rules between `content` and `room`, to which users cannot add (MSC4306)."""
THREAD_SUBSCRIPTION: Final = f"{MSC4306}.thread_subscription"

_NOTIFY_SOUND = ["notify", {"set_tweak": "sound", "value": "default"}]
_HIGHLIGHT = {"set_tweak": "highlight"}


def default_ruleset(user_id: str, *, thread_subscriptions: bool = False) -> Ruleset:
    """The `global` ruleset of a user who never changed a rule. A new value at each call.

    `thread_subscriptions`: with the kind `postcontent` and its rules (MSC4306).
    """
    return {
        "override": _override_rules(user_id),
        "content": [],
        **({POSTCONTENT: _thread_rules()} if thread_subscriptions else {}),
        "room": [],
        "sender": [],
        "underride": _underride_rules(),
    }


def _override_rules(user_id: str) -> list[Rule]:
    return [
        _rule("master", [], [], enabled=False),
        _rule("suppress_notices", [_match("content.msgtype", "m.notice")], []),
        _rule(
            "invite_for_me",
            [_match("type", "m.room.member"), _match("content.membership", "invite"), _match("state_key", user_id)],
            _NOTIFY_SOUND,
        ),
        _rule("member_event", [_match("type", "m.room.member")], []),
        _rule(
            "is_user_mention",
            [{"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id}],
            [*_NOTIFY_SOUND, _HIGHLIGHT],
        ),
        _rule(
            "is_room_mention",
            [
                {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            ["notify", _HIGHLIGHT],
        ),
        _rule("tombstone", [_match("type", "m.room.tombstone"), _match("state_key", "")], ["notify", _HIGHLIGHT]),
        _rule("reaction", [_match("type", "m.reaction")], []),
        _rule("room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")], []),
        _rule(
            "suppress_edits",
            [{"kind": "event_property_is", "key": r"content.m\.relates_to.rel_type", "value": "m.replace"}],
            [],
        ),
    ]


def _underride_rules() -> list[Rule]:
    two_members = {"kind": "room_member_count", "is": "2"}
    ring = {"set_tweak": "sound", "value": "ring"}
    return [
        _rule("call", [_match("type", "m.call.invite")], ["notify", ring]),
        _rule("encrypted_room_one_to_one", [two_members, _match("type", "m.room.encrypted")], _NOTIFY_SOUND),
        _rule("room_one_to_one", [two_members, _match("type", "m.room.message")], _NOTIFY_SOUND),
        _rule("message", [_match("type", "m.room.message")], ["notify"]),
        _rule("encrypted", [_match("type", "m.room.encrypted")], ["notify"]),
    ]


def _thread_rules() -> list[Rule]:
    """Nothing of threads that the user has not subscribed to notifies, but for mentions; everything of those that they have does."""
    unsubscribed, subscribed = ({"kind": THREAD_SUBSCRIPTION, "subscribed": is_so} for is_so in (False, True))
    found = [_rule("unsubscribed_thread", [unsubscribed], []), _rule("subscribed_thread", [subscribed], _NOTIFY_SOUND)]
    return [{**rule, "rule_id": rule["rule_id"].replace(".m.", f".{MSC4306}.")} for rule in found]


def _rule(name: str, conditions: list[dict[str, Any]], actions: list[Any], *, enabled: bool = True) -> Rule:
    return {
        "rule_id": f".m.rule.{name}",
        "default": True,
        "enabled": enabled,
        "conditions": [dict(condition) for condition in conditions],
        "actions": [dict(action) if isinstance(action, dict) else action for action in actions],
    }


def _match(key: str, pattern: str) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}
