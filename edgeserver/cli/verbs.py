"""How a verb is declared: its help, its examples, the function that carries it out, and the options that many share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[[argparse.Namespace], int]


class Verbs:
    """A place in the tree of verbs: the program itself, or a verb with verbs of its own."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._below = parser.add_subparsers(metavar="VERB", required=True, title="verbs")

    def verb(
        self,
        name: str,
        help_text: str,
        run: Run | None,
        examples: Sequence[str],
        *,
        more: str = "",
        config: bool = False,
        json: bool = False,
    ) -> argparse.ArgumentParser:
        """Adds a verb; `run(arguments)` returns the exit code (None: the verb has verbs of its own).

        `examples` are command lines without the program's name. `config` and `json` add the shared options. A verb
        with the default `rest` takes any further arguments, which are put there.
        """
        lines = "\n".join(f"  edgeserver {example}" for example in examples)
        description = help_text[0].upper() + help_text[1:] + "."
        parser: argparse.ArgumentParser = self._below.add_parser(
            name,
            help=help_text,
            description=f"{description} {more}".strip(),
            epilog=f"examples:\n{lines}",
            formatter_class=_Formatter,
        )
        if run is not None:
            parser.set_defaults(run=run)
        if config:
            parser.add_argument("--config", metavar="FILE", help="the configuration (default: edgeserver.toml here, if there is one)")
            parser.add_argument("--data", metavar="DIR", help="the data folder, instead of the configuration's")
        if json:
            parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
        return parser


class _Formatter(argparse.HelpFormatter):
    """Wraps prose and leaves the examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)
