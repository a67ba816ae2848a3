"""Texts and queries of the search, as words. Spec: client-server API, "Server Side Search".

The index splits texts where Unicode says that a letter ends (SQLite, FTS5, unicode61). Scripts that put no spaces between words
would be one long word, so each of their characters is set apart, and what is looked for is then a run of characters. Signs that
writers leave out at will (Arabic vowels, Hebrew points, the Arabic tatweel) are left out; capitals and accents make no difference.

What people type is never a query of SQLite's: it becomes quoted texts here. Words of three letters and more are the beginnings of words
(to gather all words that begin with one letter takes long), all of which must be there; what stands between double quotes must be there
as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FORM: Final = f"1/{unicodedata.unidata_version}"
"""Changes whenever `spaced` makes other words of the same text: what is indexed is taken out by the same words."""
MAX_TEXT: Final = 16_384
"""Characters of one text that are indexed."""
MAX_TERMS: Final = 16
MIN_BEGINNING: Final = 3
COLUMNS: Final[Mapping[str, tuple[str, str]]] = {
    "content.body": ("m.room.message", "body"),
    "content.name": ("m.room.name", "name"),
    "content.topic": ("m.room.topic", "topic"),
}
"""The keys of a search, as the type of event that has such a text and the name of the text."""

_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\uf900-\ufaff\U00020000-\U0003ffff])"
)
_OPTIONAL = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u065f\u0670\u06d6-\u06ed]")
_ACCENTS = re.compile("[\u0300-\u036f]")


def texts_of(event_type: str, content: Mapping[str, Any]) -> dict[str, str]:
    """What of an event is searched, by the names in `COLUMNS`. Of an edit it is the new text."""
    found: dict[str, str] = {}
    for kind, name in COLUMNS.values():
        if event_type == kind:
            new = content.get("m.new_content") if _is_edit(content) else None
            text = (new if isinstance(new, dict) else content).get(name)
            if isinstance(text, str) and text:
                found[name] = text
    return found


def _is_edit(content: Mapping[str, Any]) -> bool:
    """Part of `FORM`: looser than `relations.relation_of`, which may become stricter without another index."""
    relates = content.get("m.relates_to")
    return isinstance(relates, dict) and relates.get("rel_type") == "m.replace" and isinstance(relates.get("event_id"), str)


def spaced(text: str) -> str:
    """A text as it is given to the index."""
    plain = _OPTIONAL.sub("", unicodedata.normalize("NFKC", text[:MAX_TEXT]).casefold().replace("\0", " "))
    return _UNSPACED.sub(r" \1 ", plain)


def words(text: str) -> list[str]:
    """The words of a text, about as the index sees them: without capitals and accents."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFD", spaced(text)))
    return "".join(one if unicodedata.category(one)[0] in "LNM" else " " for one in plain).split()


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that must stand one after another; `open`: the last of them may go on. `text` is what was typed."""

    text: str
    words: tuple[str, ...]
    open: bool

    def matches(self, where: Sequence[str]) -> list[int]:
        """Where in a list of words the phrase begins."""
        *first, last = self.words
        found = []
        for start in range(len(where) - len(first)):
            end = where[start + len(first)]
            if list(where[start : start + len(first)]) == first and (end.startswith(last) if self.open else end == last):
                found.append(start)
        return found


def phrases(term: str) -> list[Phrase]:
    """What a search term asks for. Raises `ValueError` for more than `MAX_TERMS`."""
    found: list[Phrase] = []
    for number, part in enumerate(term.split('"')):
        is_quoted = number % 2 == 1
        chunks = [part] if is_quoted else part.split()
        found += [Phrase(chunk, tuple(own), not is_quoted and len(own[-1]) >= MIN_BEGINNING) for chunk in chunks if (own := words(chunk))]
    if len(found) > MAX_TERMS:
        raise ValueError(f"more than {MAX_TERMS} words")
    return found


def expression(wanted: Iterable[Phrase], names: Sequence[str]) -> str:
    """The FTS5 query: all the phrases in the columns of these names, every word of them quoted."""
    quoted = [f'"{spaced(one.text).replace(chr(34), " ")}"' + (" *" if one.open else "") for one in wanted]
    return f"{{{' '.join(names)}}} : ({' AND '.join(quoted)})"


def score(wanted: Sequence[Phrase], text: Sequence[str]) -> float:
    """How well a text of these words fits, in (0, 1): more for what is said more than once and for short texts (as BM25, with all words
    alike rare, so that it says nothing of texts that the asking user may not see).
    """
    if not wanted or not text:
        return 0.0
    length = 0.25 + 0.75 * len(text) / 20
    total = 0.0
    for one in wanted:
        count = len(one.matches(text))
        total += count / (count + 1.2 * length)
    return total / len(wanted)


def highlights(wanted: Sequence[Phrase], texts: Iterable[str]) -> list[str]:
    """What a client is to highlight: the words of the texts, as they are written there, that the query's words begin."""
    found: dict[str, None] = {}
    singles = [one for one in wanted if len(one.words) == 1]
    for text in texts:
        for written in text[:MAX_TEXT].casefold().split():
            own = words(written)
            for one in singles:
                if len(own) == 1 and one.matches(own):
                    found[written.strip(_PUNCTUATION)] = None
    for one in wanted:
        if len(one.words) > 1 or not any(one.matches(words(text)) for text in found):
            found[one.text.casefold()] = None
    return list(found)[:MAX_HIGHLIGHTS]


MAX_HIGHLIGHTS: Final = 100
_PUNCTUATION: Final = ".,;:!?()[]{}<>\"'«»„“”‘’…*_~`-/\\|"
