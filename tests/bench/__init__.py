"""Benchmarks, a module each: `python -m tests.bench.NAME` prints one JSON object a line. Results that are kept lie in `results/`."""
