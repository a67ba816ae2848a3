"""No input crashes a decoder, holds it up or makes it hold much memory: it is decoded, or refused with the error that is declared.

In short by chance (changed and crossed right inputs), in the long form by a fuzzer that follows the branches taken (`--fuzz-seconds` each).
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.decoders import TARGETS, Target

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 5.0


def changed(seed: bytes, other: bytes, chance: random.Random) -> bytes:
    """What a fuzzer does to an input, a few times over."""
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at % len(data)] = chance.choice([0, 1, 0x7E, 0x7D, 0x7F, 0x80, 0xFE, 0xFF, chance.randrange(256)])
            case 2:
                del data[at : at + chance.randrange(1, 20)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 12))
            case 4:
                data[at:at] = data[at : at + chance.randrange(1, 60)] * chance.randrange(1, 8)
            case 5:
                del data[at:]
                data += other[chance.randrange(len(other) + 1) :]
            case 6:
                data[at:at] = bytes([0xFF]) * chance.randrange(1, 10)
            case _:
                data += chance.randbytes(chance.randrange(30))
    return bytes(data[:6000])


def inputs(target: Target, seed: int, count: int) -> list[bytes]:
    chance, seeds = random.Random(seed), target.seeds()
    return [changed(chance.choice(seeds), chance.choice(seeds), chance) for _ in range(count)]


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_are_taken_and_every_cut_of_them_is_too(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        target.run(seed)
        for at in range(0, len(seed), max(1, len(seed) // (4 if target.slow else 40))):
            target.run(seed[:at])


@pytest.mark.parametrize("name", TARGETS)
def test_no_changed_input_does_more_than_be_refused(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=3 if target.slow else 12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**64), raw=st.binary(max_size=300))
    @example(seed=0, raw=b"")
    def holds(seed: int, raw: bytes) -> None:
        for data in (raw, *inputs(target, seed, 12)):
            began = time.perf_counter()
            target.run(data)
            assert time.perf_counter() - began < PATIENCE

    holds()


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_a_decoder_hold_much(name: str) -> None:
    target = TARGETS[name]
    found = inputs(target, 7, 8 if target.slow else 40)
    target.run(found[0])  # what is loaded once is not held by an input
    tracemalloc.start()
    try:
        for data in found:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            target.run(data)
            assert tracemalloc.get_traced_memory()[1] - before < target.memory, data.hex()
    finally:
        tracemalloc.stop()


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_a_fuzzer_that_follows_the_branches_finds_nothing(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for x86-64 Linux only")
    seconds = int(request.config.getoption("--fuzz-seconds"))
    command = [sys.executable, "-m", "tests.fuzz.explore", name, str(seconds), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120, check=False)
    found = [path for path in tmp_path.iterdir() if path.name != "corpus"]
    assert done.returncode == 0, done.stderr[-3000:] + "".join(f"\n{path.name}: {path.read_bytes().hex()}" for path in found)
    assert found == []
