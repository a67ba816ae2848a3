"""The box's keeper, tested with a stand-in that answers one path; the real program has its own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

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
