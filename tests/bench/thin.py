"""What benchmarks of thin lines ask for, on whatever line."""

from __future__ import annotations

CLIENT = "/_matrix/client/v3"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
ON_SCREEN = 20
ENCRYPTED = 11 / 20
"""Of the rooms of an account that is used: of those a box has no last words to tell."""
SCREEN = {
    "lists": {
        "all": {
            "ranges": [[0, ON_SCREEN - 1]],
            "timeline_limit": 1,
            "required_state": [["m.room.name", ""], ["m.room.encryption", ""]],
        }
    }
}
"""Of sliding sync what a first screen shows: name, counts, last event, whether it is encrypted."""


def text_message(body: str) -> dict[str, str]:
    """The content of a message."""
    return {"msgtype": "m.text", "body": body}
