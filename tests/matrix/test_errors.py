import re

import pytest

from edgeserver.matrix import errors
from edgeserver.matrix.errors import CodedError, MatrixError

CODED = CodedError.__subclasses__()
ARGUMENTS = {
    errors.IncompatibleRoomVersion: ("11",),
    errors.LimitExceeded: (1500,),
    errors.ResourceLimitExceeded: ("mailto:admin@one.example",),
}


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_a_status_and_a_text_and_stands_in_the_tree_under_its_status(kind):
    error = kind(*ARGUMENTS.get(kind, ()))
    body = error.as_json()
    assert re.fullmatch(r"(M_|ORG\.MATRIX\.MSC\d+_|IO\.ELEMENT\.MSC\d+\.M_)[A-Z_]+", body["errcode"])
    assert body["error"].endswith(".")
    drawn = re.search(rf"── (\d+)  [^─]*\b{kind.__name__}\b", errors.__doc__)
    assert drawn is not None
    assert int(drawn[1]) == error.status


def test_no_code_is_stated_twice():
    codes = [kind.CODE for kind in CODED]
    assert len(set(codes)) == len(codes)


def test_an_error_of_any_code_can_be_made():
    error = MatrixError(418, "ORG.EXAMPLE.TEAPOT", "Short and stout.", spout=True)
    assert error.as_json() == {"errcode": "ORG.EXAMPLE.TEAPOT", "error": "Short and stout.", "spout": True}
    assert str(error) == "418 ORG.EXAMPLE.TEAPOT: Short and stout."


def test_what_is_particular_to_an_error_is_told():
    assert errors.UnknownToken(soft_logout=True).as_json()["soft_logout"] is True
    assert errors.UserLocked().as_json()["soft_logout"] is True
    assert errors.LimitExceeded(1500).as_json()["retry_after_ms"] == 1500
    assert errors.IncompatibleRoomVersion("11").as_json()["room_version"] == "11"
    assert errors.WrongRoomKeysVersion("42").as_json()["current_version"] == "42"
    assert errors.Unrecognized(status=405).status == 405
    assert errors.Unknown("No.", status=400).status == 400
    assert errors.Forbidden("Not yours.", why="x").as_json() == {
        "errcode": "M_FORBIDDEN",
        "error": "Not yours.",
        "why": "x",
    }
