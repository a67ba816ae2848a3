"""A person with a browser: Hydrogen in headless Chromium, against a box as a process. CORS and all."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.interop.boxes import PASSWORD, local_box, register
from tests.lab import browser
from tests.lab.browser import WebClient

_ABSENT = browser.unavailable()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(_ABSENT is not None, reason=_ABSENT or ""),
]


async def test_a_person_signs_in_with_a_browser_and_talks(tmp_path: Path) -> None:
    with local_box(tmp_path / "box") as box:
        erin, frank = register(box, "erin"), register(box, "frank")
        room = await frank.create_room("12", name="Harbour", invite=[erin.user_id])
        await erin.join(room)
        await frank.say(room, "Who has the keys of the boat?")
        with WebClient(tmp_path, box.url, name="browser") as web:
            await web.open()
            await web.login("erin", PASSWORD)
            await web.open_room("Harbour")
            await web.wait_text("Who has the keys of the boat?")
            await web.send("I have them")
            await frank.until("erin's answer", lambda: "I have them" in frank.room(room).texts())
            await frank.say(room, "Thank you")
            await web.wait_text("Thank you")
            picture = tmp_path / "browser.png"
            await web.screenshot(picture)
        assert len(Image.open(picture).convert("L").getcolors() or []) > 50  # something was drawn
        assert box.troubles() == []
