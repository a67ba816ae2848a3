"""The box's keeper, tested with a stand-in that answers one path; the real program has its own tests."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from edgeserver.api.responses import response_to
from edgeserver.cli.logs import LineFormatter
from tests.lab.box import Box
from tests.lab.programs import PYTHON, LabError
from tests.lab.synapse import free_port

STAND_IN = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/_matrix/client/versions" else 404)
        self.end_headers()
        self.wfile.write(b'{"versions": []}')
print("serving", open(sys.argv[1]).read(), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


async def test_a_box_is_started_killed_and_started_again_with_its_log_kept(tmp_path: Path) -> None:
    port = free_port()
    command = [PYTHON, "-c", STAND_IN, str(tmp_path / "box.toml"), str(port)]
    box = Box(tmp_path, "[one]", f"http://127.0.0.1:{port}", command=command)
    try:
        box.begin()
        await box.ready()
        assert (await box.arequest("GET", "/_matrix/client/versions")).json == {"versions": []}
        assert box.started_in is not None
        assert 1_000_000 < box.rss() < 200_000_000
        box.kill()
        assert not box.program.running
        box.configure("[two]")
        box.start()
        assert "serving [one]" in box.log()
        assert "serving [two]" in box.log()
    finally:
        box.stop()


def test_a_box_that_dies_at_once_says_why(tmp_path: Path) -> None:
    box = Box(tmp_path, command=[PYTHON, "-c", "raise SystemExit('no such port')"], url="http://127.0.0.1:1")
    with pytest.raises(LabError, match="no such port"):
        box.start()


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.fixture
def box_that_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Box:
    """Its log is what the server writes of an exception that nobody foresaw and of a full disk, between lines of another kind."""
    caplog.set_level(logging.INFO)
    logging.getLogger("edgeserver.app").info("an error is no trouble, said somebody")
    response_to(raised(ExceptionGroup("", [raised(KeyError("a")), raised(ValueError("b"))])), "GET /sync")
    response_to(raised(OSError(28, "No space left on device")), "PUT /send")
    logging.getLogger("edgeserver.app").warning("the clock is wrong")
    box = Box(tmp_path)
    lines = LineFormatter(journal=False, whole=False)
    box.program.log.write_text("".join(f"{lines.format(record)}\n" for record in caplog.records))
    return box


def test_an_exception_that_nobody_foresaw_is_a_trouble_in_the_log(box_that_failed: Box) -> None:
    box = box_that_failed
    foreseen = "No space left on device"
    (trouble,) = box.troubles(expected=foreseen)
    assert re.search(r"GET /sync failed: KeyError: .* [|] ValueError: b", trouble)
    assert len(box.troubles()) == 2
    assert len(box.troubles(levels=("warning", "error"))) == 3
    assert box.troubles(since=box.log().index(foreseen)) == []


@pytest.mark.parametrize("raising", ["raise KeyError", "raise ExceptionGroup('', [KeyError()])"])
def test_a_traceback_of_the_interpreter_is_a_trouble(tmp_path: Path, raising: str) -> None:
    box = Box(tmp_path, command=[PYTHON, "-c", raising])
    box.begin()
    box.program.process.wait(20)
    assert len(box.troubles()) == 1


def test_a_quiet_log_has_no_troubles(tmp_path: Path) -> None:
    assert Box(tmp_path).troubles() == []
