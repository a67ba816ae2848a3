"""One decoder under a coverage-guided fuzzer: `python -m tests.fuzz.explore TARGET SECONDS FOLDER`, a process of its own.

The folder holds the corpus and gets what makes it crash, hang (15 s for one input) or hold more than the limit of the process.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import atheris

PATIENCE = 15
NUMBERS = ["transports.lowband.text.model", "transports.lowband.text.alphabet"]
"""Inner loops of arithmetic, in which there is no branch to find: watched, they are twenty times as slow."""
ADDRESS_SPACE = 3 << 30


def main() -> None:
    name, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with atheris.instrument_imports(include=["transports", "edgeserver"], exclude=NUMBERS):
        from tests.fuzz.decoders import TARGETS
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    target.run(b"")  # what is loaded once counts for none of the inputs
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    options = [f"-max_total_time={seconds}", f"-timeout={PATIENCE}", "-rss_limit_mb=1024", "-max_len=1500", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", "-print_final_stats=1", str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
