"""/pushrules. Spec: client-server API, "Push Rules: API"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors, push_rules

if TYPE_CHECKING:
    from edgeserver.api.endpoint import Call, Route
    from edgeserver.users.account_data import AccountData

MAX_BODY = 64 * 1024


class PushRuleSection:
    """The handlers."""

    def __init__(self, account_data: AccountData) -> None:
        self._data = account_data

    async def all(self, call: Call) -> dict[str, Any]:
        """GET /pushrules/"""
        return {"global": await self._data.ruleset(call.user_id)}

    async def all_global(self, call: Call) -> dict[str, Any]:
        """GET /pushrules/global/"""
        return await self._data.ruleset(call.user_id)

    async def of_kind(self, call: Call) -> dict[str, Any]:
        """GET /pushrules/global/{kind}: not of the spec, but asked for by older clients"""
        kind, rules = call.path["kind"], await self._data.ruleset(call.user_id)
        if kind not in rules:
            raise errors.InvalidParam("There is no such kind of push rule.")
        return {kind: rules[kind]}

    async def get(self, call: Call) -> dict[str, Any]:
        """GET /pushrules/global/{kind}/{ruleId}"""
        rules = await self._data.ruleset(call.user_id)
        return push_rules.find_rule(rules, call.path["kind"], call.path["ruleId"])

    async def put(self, call: Call) -> dict[str, Any]:
        """PUT /pushrules/global/{kind}/{ruleId}"""
        kind, rule_id = call.path["kind"], call.path["ruleId"]
        body, before, after = await call.json(), call.query.get("before"), call.query.get("after")
        await self._data.change_ruleset(
            call.user_id, lambda rules: push_rules.put_rule(rules, kind, rule_id, body, before=before, after=after)
        )
        return {}

    async def delete(self, call: Call) -> dict[str, Any]:
        """DELETE /pushrules/global/{kind}/{ruleId}"""
        kind, rule_id = call.path["kind"], call.path["ruleId"]
        await self._data.change_ruleset(call.user_id, lambda rules: push_rules.delete_rule(rules, kind, rule_id))
        return {}

    async def get_enabled(self, call: Call) -> dict[str, Any]:
        """GET /pushrules/global/{kind}/{ruleId}/enabled"""
        return {"enabled": (await self.get(call))["enabled"]}

    async def put_enabled(self, call: Call) -> dict[str, Any]:
        """PUT /pushrules/global/{kind}/{ruleId}/enabled"""
        kind, rule_id, enabled = call.path["kind"], call.path["ruleId"], _member(await call.json(), "enabled")
        await self._data.change_ruleset(call.user_id, lambda rules: push_rules.set_enabled(rules, kind, rule_id, enabled))
        return {}

    async def get_actions(self, call: Call) -> dict[str, Any]:
        """GET /pushrules/global/{kind}/{ruleId}/actions"""
        return {"actions": (await self.get(call))["actions"]}

    async def put_actions(self, call: Call) -> dict[str, Any]:
        """PUT /pushrules/global/{kind}/{ruleId}/actions"""
        kind, rule_id, actions = call.path["kind"], call.path["ruleId"], _member(await call.json(), "actions")
        await self._data.change_ruleset(call.user_id, lambda rules: push_rules.set_actions(rules, kind, rule_id, actions))
        return {}


def _member(body: dict[str, Any], key: str) -> Any:
    if key not in body:
        raise errors.MissingParam(f"{key} is missing.")
    return body[key]


def routes(account_data: AccountData) -> list[Route]:
    handlers = PushRuleSection(account_data)
    base = "/_matrix/client/v3/pushrules"
    rule = f"{base}/global/{{kind}}/{{ruleId}}"
    found = []
    for end in ("", "/"):
        found += endpoint("GET", f"{base}{end}", handlers.all)
        found += endpoint("GET", f"{base}/global{end}", handlers.all_global)
        found += endpoint("GET", f"{base}/global/{{kind}}{end}", handlers.of_kind)
    return [
        *found,
        *endpoint("GET", rule, handlers.get),
        *endpoint("PUT", rule, handlers.put, rate="account", max_body=MAX_BODY),
        *endpoint("DELETE", rule, handlers.delete, rate="account"),
        *endpoint("GET", f"{rule}/enabled", handlers.get_enabled),
        *endpoint("PUT", f"{rule}/enabled", handlers.put_enabled, rate="account"),
        *endpoint("GET", f"{rule}/actions", handlers.get_actions),
        *endpoint("PUT", f"{rule}/actions", handlers.put_actions, rate="account"),
    ]
