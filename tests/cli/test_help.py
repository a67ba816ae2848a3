from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from edgeserver.cli import parser
from tests.cli.conftest import Terminal

HEAVY = ["trio", "starlette", "httpcore", "nacl", "edgeserver.app", "edgeserver.store", "edgeserver.config", "dataclasses"]


def _verbs(above: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    for action in above._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield (*words, name), below
                yield from _verbs(below, (*words, name))


VERBS = dict(_verbs(parser()))


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_explains_itself_with_examples_that_are_right(words: tuple[str, ...]) -> None:
    told = VERBS[words].format_help()
    _, _, examples = told.partition("examples:\n")
    lines = [line.strip() for line in examples.splitlines()]
    assert lines
    for line in lines:
        program, *rest = shlex.split(line.partition(" < ")[0].partition(" > ")[0])
        assert program == "edgeserver"
        assert tuple(rest[: len(words)]) == words
        arguments, _ = parser().parse_known_args(rest)
        assert callable(arguments.run)


def test_these_are_the_verbs() -> None:
    wanted = "serve quickstart check config version person token notice status peers link pair unpair proxy chat demo"
    assert {words[0] for words in VERBS} == set(wanted.split())


def test_help_is_there_without_importing_anything_heavy() -> None:
    code = f"import sys; from edgeserver.cli import parser; parser().format_help(); print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_program_runs_as_a_module_and_documents_its_exit_codes() -> None:
    done = subprocess.run([sys.executable, "-m", "edgeserver", "--help"], capture_output=True, text=True, check=True)
    assert "exit codes: 0 done; 1 " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("words", [[], ["fly"], ["serve", "--fast"], ["person"], ["link"], ["check", "--data"]])
def test_a_wrong_command_line_exits_with_two(run: Terminal, words: list[str]) -> None:
    assert run(*words) == 2
    assert "usage: edgeserver" in run.error
    assert "Traceback" not in run.error


ASKING = [
    *(["status"], ["peers"], ["link", "status"], ["link", "test", "x"], ["pair"], ["unpair", "x"]),
    *(["token", "list"], ["token", "add"], ["token", "remove", "x"], ["notice", "x", "y"]),
]


@pytest.mark.parametrize("words", ASKING)
def test_verbs_of_the_running_box_say_how_to_start_it_when_it_does_not_run(run: Terminal, words: list[str]) -> None:
    assert run(*words) == 1
    assert run.error == "edgeserver: no box runs on data: start it with edgeserver serve, or name its folder with --data.\n"


@pytest.mark.parametrize(("words", "whose"), [(["pair", "--gateway"], "has a CODE"), (["pair", "K7QM-2XPA", "--front"], "shows the code")])
def test_options_of_the_other_end_of_a_pairing_are_refused(run: Terminal, words: list[str], whose: str) -> None:
    assert run(*words) == 2
    assert whose in run.error


def test_a_fault_of_our_own_is_one_line_without_a_traceback(run: Terminal) -> None:
    (run.folder / "edgeserver.toml").mkdir()
    assert run("check", "--config", "edgeserver.toml") == 2
    assert run.error == "edgeserver: edgeserver.toml cannot be read: Is a directory.\n"


def test_the_version_can_be_read_by_a_person_and_by_a_machine(run: Terminal) -> None:
    assert run("version") == 0
    assert run.out.startswith("edgeserver 0.")
    assert run("version", "--json") == 0
    assert run.out.startswith('{"edgeserver": "0.')


def test_the_environment_may_name_the_configuration(run: Terminal) -> None:
    (run.folder / "box.toml").write_text('[server]\ndata = "/nowhere/at/all"\n')
    environment = {**os.environ, "EDGESERVER_CONFIG": str(run.folder / "box.toml"), "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-m", "edgeserver", "check"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no data folder at /nowhere/at/all" in done.stdout
