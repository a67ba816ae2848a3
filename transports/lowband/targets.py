"""Request targets (path and query) as an index into a table of path templates, its parameters and the query.

The target comes out exactly as it went in, percent signs included, because federation signs it. Clients differ in which
characters they percent-encode, so a target names one of a few quoting styles that reproduces all its parameters;
if none does, the parameters travel as they stand, and a target without a template travels whole.

On the wire: number(index << 3 | has query << 2 | style), the parameters as texts, the query as a text. Index 0 is no
template: the whole target is one text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from transports.lowband import fields

if TYPE_CHECKING:
    from transports.lowband.cbor import Vocabulary

MAX_TARGET = 16_384
"""Bytes of a target."""

_AS_IT_STANDS, _ENCODE_URI_COMPONENT, _STRICT, _PCHAR = range(4)
_SAFE = {_ENCODE_URI_COMPONENT: "!~*'()", _STRICT: "~", _PCHAR: "!$&'()*+,;=:@~"}
_PARAMETER = ""
"""The trie's key for `{anything}`; an empty literal segment is "/" there."""
_END = "?"
"""The trie's key for the index of the template that ends at a node; no segment holds a question mark."""


class PathTable:
    """Finds the template of a path and fills templates; build it once."""

    def __init__(self, templates: tuple[str, ...]) -> None:
        self.templates = templates
        self._split = tuple(template.split("/")[1:] for template in templates)
        self._trie: dict[str, Any] = {}
        for index, segments in enumerate(self._split):
            node = self._trie
            for segment in segments:
                node = node.setdefault(_PARAMETER if segment.startswith("{") else segment or "/", {})
            node[_END] = index

    def match(self, path: str) -> tuple[int, list[str]] | None:
        """Index and raw parameters of the template that this percent-encoded path fills, literal segments preferred."""
        if not path.startswith("/"):
            return None
        return _descend(self._trie, path.split("/")[1:], 0, [])

    def fill(self, index: int, parameters: list[str]) -> str:
        """The path; `parameters` are percent-encoded already and as many as the template has."""
        values = iter(parameters)
        return "".join("/" + (next(values) if part.startswith("{") else part) for part in self._split[index])

    def count(self, index: int) -> int:
        """The number of parameters of a template."""
        return sum(part.startswith("{") for part in self._split[index])


def _descend(node: dict[str, Any], segments: list[str], depth: int, found: list[str]) -> tuple[int, list[str]] | None:
    if depth == len(segments):
        index = node.get(_END)
        return None if index is None else (index, found)
    segment = segments[depth]
    literal = node.get(segment or "/")
    if literal is not None and (result := _descend(literal, segments, depth + 1, found)) is not None:
        return result
    parameter = node.get(_PARAMETER)
    return None if parameter is None else _descend(parameter, segments, depth + 1, [*found, segment])


def encode(target: str, table: PathTable, vocabulary: Vocabulary) -> bytes:
    """The target in the fewest fields. Raises FieldError on a lone surrogate."""
    path, mark, query = target.partition("?")
    match = table.match(path)
    if match is None or (mark and not query):
        return fields.number(0) + fields.text(target, vocabulary)
    index, raw = match
    style, parameters = _unquoted(raw)
    head = fields.number((index + 1) << 3 | bool(mark) << 2 | style)
    texts = [*parameters, query] if mark else parameters
    return head + b"".join(fields.text(text, vocabulary) for text in texts)


def take_apart(target: str, table: PathTable) -> tuple[int, int, list[str], list[list[str]]] | None:
    """The template's index, the quoting style, the parameters and the query's pairs as they stand; None if `put_together` could not
    make the target of it again.
    """
    path, mark, query = target.partition("?")
    match = table.match(path)
    pairs = [pair.split("=", 1) for pair in query.split("&")] if mark else []
    if match is None or not all(len(pair) == 2 for pair in pairs):
        return None
    style, parameters = _unquoted(match[1])
    return match[0], style, parameters, pairs


def put_together(index: int, style: int, parameters: list[str], query: list[list[str]], table: PathTable) -> str:
    """The target that `take_apart` was given. Raises FieldError."""
    if not 0 <= index < len(table.templates) or len(parameters) != table.count(index) or style not in (_AS_IT_STANDS, *_SAFE):
        raise fields.FieldError("an unknown path")
    if style != _AS_IT_STANDS:
        parameters = [quote(text, safe=_SAFE[style]) for text in parameters]
    path = table.fill(index, parameters)
    return f"{path}?{'&'.join('='.join(pair) for pair in query)}" if query else path


def decode(reader: fields.Reader, table: PathTable, vocabulary: Vocabulary) -> str:
    """The target that `encode` was given. Raises FieldError."""
    head = reader.number(0xFFFF)
    index, has_query, style = (head >> 3) - 1, head & 4, head & 3
    if index < 0:
        return reader.text(vocabulary, MAX_TARGET)
    if index >= len(table.templates):
        raise fields.FieldError("an unknown path")
    parameters = [reader.text(vocabulary, MAX_TARGET) for _ in range(table.count(index))]
    if style != _AS_IT_STANDS:
        parameters = [quote(text, safe=_SAFE[style]) for text in parameters]
    path = table.fill(index, parameters)
    return f"{path}?{reader.text(vocabulary, MAX_TARGET)}" if has_query else path


def _unquoted(raw: list[str]) -> tuple[int, list[str]]:
    """A quoting style that turns the returned parameters into the raw ones again."""
    try:
        plain = [unquote(text, errors="strict") for text in raw]
    except UnicodeDecodeError:
        return _AS_IT_STANDS, raw
    if plain == raw:
        return _AS_IT_STANDS, raw
    for style, safe in _SAFE.items():
        if [quote(text, safe=safe) for text in plain] == raw:
            return style, plain
    return _AS_IT_STANDS, raw


def from_segments(segments: list[str], codes: dict[str, str]) -> str:
    """The percent-encoded path that decoded Uri-Path segments name (MSC3079): a first segment of one character is a
    path code whose parameters follow; other paths stand for themselves. Raises FieldError on a wrong number of
    parameters."""
    template = codes.get(segments[0]) if segments else None
    quoted = [quote(segment, safe=_SAFE[_PCHAR]) for segment in segments]
    if template is None:
        return "/" + "/".join(quoted)
    table = PathTable((template,))
    if table.count(0) != len(segments) - 1:
        raise fields.FieldError("a path code with the wrong number of parameters")
    return table.fill(0, quoted[1:])
