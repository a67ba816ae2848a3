"""Email addresses, where this box can send mail: …/email/requestToken, the page behind the link, /account/3pid and what lies below it.

Spec: client-server API, "Adding Account Administrative Contact Information"; MSC1921 (POST /account/3pid/{medium}/cancelToken). There is
no identity server: nothing can be bound, and unbinding says so. The deprecated POST /account/3pid is refused: it would add an address
without asking who is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeserver.api.body import needed_text, text
from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.pages import form, link, page, paragraph
from edgeserver.api.user_interactive import PASSWORD
from edgeserver.matrix import errors
from edgeserver.users.emails import Purpose, checked_address

if TYPE_CHECKING:
    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Limiter, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.store.email_addresses import Validation
    from edgeserver.users.emails import Emails

BASE: Final = "/_matrix/client/v3"
SUBMIT: Final = "/_matrix/client/unstable/email/submit_token"  # below /_matrix, which reverse proxies pass on
MAX_BODY: Final = 16 * 1024


class EmailSection:
    """The handlers."""

    def __init__(self, emails: Emails, interactive: UserInteractive, limiter: Limiter | None) -> None:
        self._emails = emails
        self._interactive = interactive
        self._limiter = limiter

    async def request_to_register(self, call: Call) -> dict[str, Any]:
        """POST /register/email/requestToken"""
        return await self._request(call, Purpose.REGISTER)

    async def request_to_add(self, call: Call) -> dict[str, Any]:
        """POST /account/3pid/email/requestToken"""
        return await self._request(call, Purpose.ADD)

    async def request_for_password(self, call: Call) -> dict[str, Any]:
        """POST /account/password/email/requestToken"""
        return await self._request(call, Purpose.PASSWORD)

    async def _request(self, call: Call, purpose: Purpose) -> dict[str, Any]:
        body = await call.json()
        secret, address, attempt = needed_text(body, "client_secret"), needed_text(body, "email"), body.get("send_attempt")
        if attempt is None:
            raise errors.MissingParam("send_attempt is missing.")
        if type(attempt) is not int:
            raise errors.BadJson("send_attempt must be a whole number.")
        next_link = text(body, "next_link")
        if self._limiter is not None:  # whoever asks, from wherever: nobody's mailbox is to be filled
            self._limiter.check("email_address", checked_address(address))
        return {"sid": await self._emails.request(purpose, address, secret, attempt, next_link)}

    # The page behind the link. Opening it confirms nothing: programs that look through mail open every link.

    async def ask(self, call: Call) -> Response:
        """GET: what the link is for, and a button"""
        try:
            found = await self._emails.validation_of(call.query.get("token", ""))
        except errors.NotFound:
            return _void()
        if found.validated_at is not None:
            return _confirmed(found)
        return page("Confirm your email address", paragraph(_WISHES[Purpose(found.purpose)].format(found.address)), form("Confirm"))

    async def confirm(self, call: Call) -> Response:
        """POST: the button has been pressed"""
        try:
            return _confirmed(await self._emails.confirm(call.query.get("token", "")))
        except errors.NotFound:
            return _void()

    # The addresses of an account

    async def addresses(self, call: Call) -> dict[str, Any]:
        """GET /account/3pid"""
        return {"threepids": await self._emails.addresses(call.user_id)}

    async def add(self, call: Call) -> dict[str, Any]:
        """POST /account/3pid/add"""
        proven = await self._interactive.authenticate(await call.json(), "POST /account/3pid/add", [[PASSWORD]], user_id=call.user_id)
        await self._emails.add_to(call.user_id, needed_text(proven.body, "sid"), needed_text(proven.body, "client_secret"))
        return {}

    async def delete(self, call: Call) -> dict[str, Any]:
        """POST /account/3pid/delete"""
        body = await call.json()
        if needed_text(body, "medium") == "email":
            await self._emails.remove(call.user_id, needed_text(body, "address"))
        return {"id_server_unbind_result": "no-support"}

    async def cancel(self, call: Call) -> dict[str, Any]:
        """POST /account/3pid/email/cancelToken. The MSC asks for the link's token too; whoever gave a wrong address cannot know it, so
        the session's secret is enough, and a token that is sent must be the right one.
        """
        body = await call.json()
        token = text(body, "token")
        await self._emails.cancel(needed_text(body, "sid"), needed_text(body, "client_secret"), token)
        return {}


_WISHES: Final = {
    Purpose.REGISTER: "Somebody registers here with the address {}. Is that you?",
    Purpose.ADD: "Somebody adds the address {} to their account here. Is that you?",
    Purpose.PASSWORD: "Somebody wants a new password for the account here that belongs to {}. Is that you?",
}


def _confirmed(validation: Validation) -> Response:
    onward = [] if validation.next_link is None else [link(validation.next_link, "Go on")]
    return page("Thank you", paragraph("Your email address is confirmed. Go back to your app to continue."), *onward)


def _void() -> Response:
    why = "This link has been used, has been replaced by that of a newer mail, or is more than a day old. You can ask for a new one."
    return page("This link is not valid any more", paragraph(why, wrong=True), status=404)


def routes(emails: Emails, interactive: UserInteractive, limiter: Limiter | None = None, *, registering: bool = True) -> list[Route]:
    """`limiter` counts mails to each address, beside the endpoints' own limit for whoever asks. `registering`: somebody may register
    with an address.
    """
    handlers = EmailSection(emails, interactive, limiter)
    requests = {
        **({"register": handlers.request_to_register} if registering else {}),
        "account/3pid": handlers.request_to_add,
        "account/password": handlers.request_for_password,
    }
    found = [
        route
        for path, handler in requests.items()
        for route in endpoint("POST", f"{BASE}/{path}/email/requestToken", handler, auth=Auth.NONE, rate="email", max_body=MAX_BODY)
    ]
    return [
        *found,
        *endpoint("GET", SUBMIT, handlers.ask, auth=Auth.NONE, rate="account"),
        *endpoint("POST", SUBMIT, handlers.confirm, auth=Auth.NONE, rate="account", max_body=MAX_BODY),
        *endpoint("GET", f"{BASE}/account/3pid", handlers.addresses),
        *endpoint("POST", f"{BASE}/account/3pid/add", handlers.add, rate="login"),
        *endpoint("POST", f"{BASE}/account/3pid/delete", handlers.delete, rate="account"),
        *endpoint("POST", f"{BASE}/account/3pid/email/cancelToken", handlers.cancel, auth=Auth.NONE, rate="email", max_body=MAX_BODY),
    ]
