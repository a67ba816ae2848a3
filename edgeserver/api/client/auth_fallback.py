"""GET and POST /auth/{authType}/fallback/web: a page that completes a stage for an app that cannot.

Spec: client-server API, "User-Interactive Authentication API", "Fallback". The stage of an email address is completed by the app, which
alone knows the session of its mail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeserver.api.endpoint import Auth, endpoint
from edgeserver.api.pages import field, form, page, paragraph
from edgeserver.api.user_interactive import DUMMY, PASSWORD, REGISTRATION_TOKEN
from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError

if TYPE_CHECKING:
    from starlette.responses import Response

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.api.user_interactive import UserInteractive

MAX_BODY: Final = 16 * 1024
# Stage → what the page asks for: the field, its label and its kind
ASKED: Final = {
    PASSWORD: ("password", "Your password", "password"),
    REGISTRATION_TOKEN: ("token", "The registration token that you were given", "text"),
    DUMMY: ("", "", ""),
}
TITLE: Final = "Confirm that it is you"


def routes(interactive: UserInteractive) -> list[Route]:
    def stage_of(call: Call) -> tuple[str, str]:
        """The session and the stage. Raises M_UNRECOGNIZED for a stage without a page, M_NOT_FOUND for one that is not asked for."""
        kind, session = call.path["authType"], call.query.get("session", "")
        if kind not in ASKED:
            raise errors.Unrecognized("There is no page for that authentication type.")
        if not interactive.offers(session, kind):
            raise errors.NotFound("That session is not known.")
        return session, kind

    async def show(call: Call) -> Response:
        try:
            _, kind = stage_of(call)
        except errors.NotFound:
            return _gone()
        return _asking(kind)

    async def prove(call: Call) -> Response:
        try:
            session, kind = stage_of(call)
        except errors.NotFound:
            return _gone()
        name = ASKED[kind][0]
        given = {name: field(await call.body(), name)} if name else {}
        try:
            await interactive.prove(session, kind, given)
        except MatrixError as error:
            return _asking(kind, error)
        return page("Thank you", paragraph("You may close this page and go back to the app."), auth_done=True)

    path = "/_matrix/client/v3/auth/{authType}/fallback/web"
    return [
        *endpoint("GET", path, show, auth=Auth.NONE, rate="account"),
        *endpoint("POST", path, prove, auth=Auth.NONE, rate="login", max_body=MAX_BODY),
    ]


def _asking(kind: str, failed: MatrixError | None = None) -> Response:
    name, label, look = ASKED[kind]
    wrong = [] if failed is None else [paragraph(failed.error, wrong=True)]
    return page(
        TITLE, paragraph("An app asks for this before it goes on."), *wrong, form("Confirm", label, name=name, kind=look),
        status=200 if failed is None else failed.status,
    )  # fmt: skip


def _gone() -> Response:
    return page(TITLE, paragraph("The app has waited too long, or is done already. Begin again there.", wrong=True), status=404)
