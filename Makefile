# Everything a fresh Debian machine needs is made here: `make run` serves, `make test` tests.
# The virtual environment lives in .venv; stamps inside it keep re-runs quick.

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
RUN_STAMP := .venv/.installed-run
TEST_STAMP := .venv/.installed-test
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run demo test test-all story lint clean

help:
	@echo "make run        install into .venv and serve          (ARGS='--config FILE' is passed on)"
	@echo "make demo       three boxes on a simulated radio channel, live in the terminal"
	@echo "make story      the end-to-end story, told as it runs"
	@echo "make test       every test in its short form, under 15 minutes"
	@echo "make test-all   the long forms too"
	@echo "make lint       ruff, mypy and the import contracts"
	@echo "make clean      remove .venv and what the tools have cached"

run: $(RUN_STAMP)
	$(BIN)/edgeserver serve $(ARGS)

demo: $(RUN_STAMP)
	$(BIN)/edgeserver demo $(ARGS)

story: $(TEST_STAMP)
	$(PYTEST) -m story -s $(ARGS)

# Tests marked `real_time` wait for lines at their true rate and leave the processor to others, so they run one after the other beside the
# rest, and what they say comes when that is through. Tests marked `alone` measure time or memory: nothing runs beside them. 5 is pytest's
# word for none selected.
define tests
	@$(PYTEST) -p no:cacheprovider -m "real_time and not alone$(1)" $(ARGS) >.venv/real-time.log 2>&1 & beside=$$!; \
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not real_time and not alone$(1)" $(ARGS); status=$$?; \
	[ $$status -ne 5 ] || status=0; \
	echo "Waiting for the tests that take as long as their lines do."; \
	wait $$beside || [ $$? -eq 5 ] || status=1; \
	cat .venv/real-time.log; exit $$status
	$(PYTEST) -m "alone$(1)" $(ARGS) || test $$? = 5
endef

test: $(TEST_STAMP)
	$(call tests, and not full)

test-all: $(TEST_STAMP)
	$(call tests)

lint: $(TEST_STAMP)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "edgeserver needs Python 3.11 or newer: set PYTHON=/path/to/it" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python cannot make a virtual environment here. Please run:  sudo apt install -y python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(RUN_STAMP): pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(TEST_STAMP): pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,interop]'
	@! command -v cmake >/dev/null || ! command -v c++ >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[olm]' \
		|| echo "python-olm cannot be built here: the test of a bridge that encrypts is skipped"
	@! command -v autoreconf >/dev/null || ! command -v cc >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dtls]' \
		|| echo "DTLSSocket cannot be built here: the test of aiocoap over DTLS is skipped"
	@touch $@ $(RUN_STAMP)
