"""What all benchmarks share: their options, and the lines of JSON that they print."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Report:
    """The options of one run, and its standard output."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.only: str = options.only
        self.quick: bool = options.quick
        self.texts_file: Path | None = options.texts
        self.random = random.Random(options.seed)
        self.told: set[str] = set()

    def wants(self, *metrics: str) -> bool:
        """Whether any of these is asked for; what is measured together is named together."""
        return any(metric.startswith(self.only) or self.only.startswith(metric + ".") for metric in metrics)

    def runs(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def line(self, metric: str, value: float | None, unit: str, **more: Any) -> None:
        """Prints one metric if it is asked for. A `value` of None wants a `note` that says why."""
        self.told.add(metric)
        if metric.startswith(self.only):
            more = {name: _rounded(one) for name, one in more.items() if one is not None}
            print(json.dumps({"metric": metric, "value": _rounded(value), "unit": unit, **more}), flush=True)

    def median(self, metric: str, values: Sequence[float], unit: str, note: str | None = None) -> None:
        """The median over the runs, with how many there were and their extremes."""
        middle = statistics.median(values)
        self.line(metric, middle, unit, n=len(values), min=min(values), max=max(values), note=note)

    def missing(self, unit: str, why: str, *metrics: str) -> None:
        """Metrics that could not be measured."""
        for metric in metrics:
            self.line(metric, None, unit, note=why)

    def texts(self) -> Callable[[], str]:
        """Gives the messages of `--texts` in turn, or else sentences of 2 to 16 words."""
        words = _WORDS.split()
        given = [] if self.texts_file is None else [text for text in self.texts_file.read_text("utf-8").splitlines() if text]
        turn = 0

        def text() -> str:
            nonlocal turn
            turn += 1
            if given:
                return given[(turn - 1) % len(given)]
            return " ".join(self.random.choice(words) for _ in range(self.random.randint(2, 16))).capitalize() + "."

        return text


_WORDS = (
    "the a we they boat harbour water tomorrow morning late early need bring batteries radio mast hut road closed open snow rain wind"
    " from north can you please call when back at seven two of three is are was on in to and but all well thanks see there here soon"
)


def options(description: str, *more: Callable[[argparse.ArgumentParser], object]) -> argparse.Namespace:
    """Reads the command line; `more` add options of one benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", metavar="PREFIX", help="only metrics whose names begin like this")
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=Path, metavar="FILE", help="messages to send: UTF-8, one a line")
    for add in more:
        add(parser)
    return parser.parse_args()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) and abs(value) < 1000 else round(value) if isinstance(value, float) else value


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
