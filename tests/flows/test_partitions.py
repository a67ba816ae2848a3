"""Whole boxes, partitions, losses and power cuts: see `partitions.py`, whose seeds these are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for the seed of hashes is a process's. What fails tells how to replay it."""
    command = [sys.executable, "-m", "tests.flows.partitions", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)


def check(first: int, last: int) -> None:
    done = run("--seeds", f"{first}-{last}")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_servers_agree_when_the_lines_are_whole_again() -> None:
    check(0, 44)


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_servers_agree_in_a_thousand_runs(first: int) -> None:
    check(first, first + 100)


@pytest.mark.parametrize(("seed", "said"), [("5", "carried"), ("9", "frame")])
def test_a_seed_gives_the_same_run_twice(seed: str, said: str) -> None:
    one, other = run("--seed", seed, "--trace"), run("--seed", seed, "--trace")
    assert one.returncode == 0, one.stdout
    assert said in one.stdout
    assert one.stdout == other.stdout
