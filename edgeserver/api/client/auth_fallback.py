"""GET and POST /auth/{authType}/fallback/web: a page that completes a stage for an app that cannot.

Spec: client-server API, "User-Interactive Authentication API", "Fallback".
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.pages import field, form, page, paragraph
from edgeserver.api.user_interactive import DUMMY, EMAIL, PASSWORD, REGISTRATION_TOKEN
from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.users.emails import Purpose, checked_address

if TYPE_CHECKING:
    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Limiter, Route
    from edgeserver.api.user_interactive import UserInteractive
    from edgeserver.users.emails import Emails

MAX_BODY: Final = 16 * 1024
# Stage → what the page asks for: the field, its label and its kind
ASKED: Final = {
    PASSWORD: ("password", "Your password", "password"),
    REGISTRATION_TOKEN: ("token", "The registration token that you were given", "text"),
    DUMMY: ("", "", ""),
    EMAIL: ("email", "Your email address, to which a link will be sent", "email"),
}
TITLE: Final = "Confirm that it is you"


class FallbackPages:
    """The handlers."""

    def __init__(self, interactive: UserInteractive, emails: Emails | None, limiter: Limiter | None) -> None:
        self._interactive = interactive
        self._emails = emails
        self._limiter = limiter

    async def show(self, call: Call) -> Response:
        """GET: what the stage asks for"""
        return _gone() if self._session(call) is None else _asking(call.path["authType"])

    async def prove(self, call: Call) -> Response:
        """POST: what has been filled in"""
        session, kind = self._session(call), call.path["authType"]
        if session is None:
            return _gone()
        body = await call.body()
        try:
            if kind == EMAIL and (address := field(body, "email")):
                return await self._send_link(session, address)
            await self._interactive.prove(session, kind, _proof(kind, body))
        except errors.ThreepidAuthFailed as error:
            sid = field(body, "sid")
            return _waiting(sid, field(body, "client_secret"), error) if sid else _asking(kind, error)
        except MatrixError as error:
            return _asking(kind, error)
        return page("Thank you", paragraph("You may close this page and go back to the app."), auth_done=True)

    def _session(self, call: Call) -> str | None:
        """The session, if it asks for the stage of the path. Raises M_UNRECOGNIZED for a stage without a page."""
        kind, session = call.path["authType"], call.query.get("session", "")
        if kind not in ASKED:
            raise errors.Unrecognized("There is no page for that authentication type.")
        return session if self._interactive.offers(session, kind) else None

    async def _send_link(self, session: str, address: str) -> Response:
        """The page is the client of the validation: it keeps the secret in hidden fields."""
        assert self._emails is not None
        if self._limiter is not None:
            self._limiter.check("email_address", checked_address(address))
        is_registration = self._interactive.operation_of(session) == "POST /register"
        purpose, secret = Purpose.REGISTER if is_registration else Purpose.PASSWORD, secrets.token_urlsafe(18)
        sid = await self._emails.request(purpose, address, secret, 1)
        return _waiting(sid, secret)


def _proof(kind: str, body: bytes) -> dict[str, object]:
    if kind == EMAIL:
        return {"threepid_creds": {"sid": field(body, "sid"), "client_secret": field(body, "client_secret")}}
    name = ASKED[kind][0]
    return {name: field(body, name)} if name else {}


def _asking(kind: str, failed: MatrixError | None = None) -> Response:
    name, label, look = ASKED[kind]
    wrong = [] if failed is None else [paragraph(failed.error, wrong=True)]
    return page(
        TITLE, paragraph("An app asks for this before it goes on."), *wrong, form("Confirm", label, name=name, kind=look),
        status=200 if failed is None else failed.status,
    )  # fmt: skip


def _waiting(sid: str, client_secret: str, failed: MatrixError | None = None) -> Response:
    """The mail is out; asks for a press of the button once its link has been followed."""
    wrong = [] if failed is None else [paragraph("The link in the mail has not been confirmed yet.", wrong=True)]
    told = paragraph("A mail is on its way to you. Open the link in it, confirm, and come back to this page.")
    again = form("I have confirmed it", hidden={"sid": sid, "client_secret": client_secret})
    return page(TITLE, told, *wrong, again, status=200 if failed is None else failed.status)


def _gone() -> Response:
    return page(TITLE, paragraph("The app has waited too long, or is done already. Begin again there.", wrong=True), status=404)


def routes(interactive: UserInteractive, emails: Emails | None = None, limiter: Limiter | None = None) -> list[Route]:
    """`limiter` counts mails to each address."""
    handlers = FallbackPages(interactive, emails, limiter)
    path = "/_matrix/client/v3/auth/{authType}/fallback/web"
    return [
        *endpoint("GET", path, handlers.show, auth=Auth.NONE, rate="account"),
        *endpoint("POST", path, handlers.prove, auth=Auth.NONE, rate="login", max_body=MAX_BODY),
    ]
