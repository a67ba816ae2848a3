"""What a person types, understood (pure): a message, or a command that begins with a slash.

A command may be shortened as long as it stays clear which one is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeserver.chat import visible


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the open room."""

    text: str
    is_emote: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    verb: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Mistake:
    """Why it is not understood, in a sentence."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Verb:
    """`argument` is how the help shows it, in brackets where it may be missing."""

    argument: str
    help_text: str

    @property
    def needs_argument(self) -> bool:
        return bool(self.argument) and not self.argument.startswith("[")


VERBS: Final = {
    "help": Verb("", "this page"),
    "rooms": Verb("[more]", "the rooms, those with news first; more: further ones"),
    "room": Verb("NUMBER or NAME", "open a room"),
    "back": Verb("", "close the room, or the page that is shown"),
    "more": Verb("", "earlier messages of the room"),
    "read": Verb("[ROOM]", "mark as read"),
    "readers": Verb("", "who has read your last message"),
    "members": Verb("", "who is in the room"),
    "me": Verb("TEXT", "say what you do"),
    "invite": Verb("@WHO:SERVER", "ask somebody into the room"),
    "accept": Verb("[ROOM]", "take an invite"),
    "reject": Verb("[ROOM]", "decline an invite"),
    "join": Verb("#ROOM:SERVER", "join a room by its address"),
    "create": Verb("NAME", "make a room that people are invited to"),
    "leave": Verb("", "leave the room for good"),
    "waiting": Verb("", "your messages that are not sent yet"),
    "retry": Verb("", "send what was refused once more"),
    "drop": Verb("", "forget what was refused"),
    "logout": Verb("", "log out, and forget the account here"),
    "quit": Verb("", "end the program; what waits is sent the next time"),
}


def parse(line: str) -> Say | Command | Mistake | None:
    """None for an empty line. Two slashes begin a message with one."""
    text = line.strip("\r\n")
    if not text.strip():
        return None
    if text.startswith("//"):
        return Say(text[1:])
    if not text.startswith("/"):
        return Say(text)
    word, _, argument = text[1:].partition(" ")
    return _command(word.casefold(), argument.strip())


def _command(word: str, argument: str) -> Say | Command | Mistake:
    meant = [word] if word in VERBS else [verb for verb in VERBS if word and verb.startswith(word)]
    if not meant:
        return Mistake(f"There is no /{visible.one_line(word, 20)}; /help tells what there is. A message may begin with //.")
    if len(meant) > 1:
        return Mistake(f"Which one: {', '.join('/' + verb for verb in meant)}?")
    verb = meant[0]
    if VERBS[verb].needs_argument and not argument:
        return Mistake(f"Say it as /{verb} {VERBS[verb].argument}.")
    if verb == "me":
        return Say(argument, is_emote=True)
    if argument and not VERBS[verb].argument:
        return Mistake(f"/{verb} stands alone.")
    return Command(verb, argument)


def help_lines() -> list[str]:
    """The page of /help."""
    rows = [(f"/{name} {verb.argument}".rstrip(), verb.help_text) for name, verb in VERBS.items()]
    return [f"{said:<23} {told}" for said, told in rows]
