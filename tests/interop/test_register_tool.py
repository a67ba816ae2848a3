"""Synapse's register_new_matrix_user, as its operators run it, makes accounts on a box."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from edgeserver.app.box import open_box
from edgeserver.app.listeners import serve
from edgeserver.config import parse

TOOL = Path(sys.executable).with_name("register_new_matrix_user")
CONFIG = (
    '[server]\nname = "box.test"\n[accounts]\nregistration_shared_secret = "s3cret"\n'
    "[federation]\ninternet = false\n[discovery]\nmdns = false\n"
)

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not TOOL.exists(), reason="matrix-synapse is not installed: it is in the extra `interop`"),
]


async def test_the_tool_registers_people_and_administrators_and_is_told_what_went_wrong(tmp_path: Path) -> None:
    async with open_box(parse(CONFIG, tmp_path)) as box, trio.open_nursery() as nursery:
        (url,) = await nursery.start(serve, box.app, ["127.0.0.1:0"])

        async def run(*words: str, secret: str = "s3cret") -> tuple[int, str]:
            command = [str(TOOL), *words, "-k", secret, url]
            with trio.fail_after(60):
                done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            return done.returncode, done.stdout.decode()

        status, said = await run("-u", "bot", "-p", "correct horse battery", "-t", "bot", "--no-admin")
        assert status == 0, said  # the type is part of what is signed
        assert "Success!" in said
        assert (await run("-u", "root", "-p", "pässword of Zoë", "-a"))[0] == 0
        status, said = await run("-u", "Root", "-p", "correct horse battery", "--no-admin")
        assert status != 0
        assert "taken" in said
        status, said = await run("-u", "eve", "-p", "correct horse battery", "--no-admin", secret="guess")
        assert status != 0
        assert "HMAC incorrect" in said
        assert {one.user_id: one.admin for one in await box.users.accounts.people()} == {"@bot:box.test": False, "@root:box.test": True}
        assert await box.users.accounts.check_password("@root:box.test", "pässword of Zoë")
        nursery.cancel_scope.cancel()
