from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgeserver import config
from edgeserver.quickstart import Answers, ask, filled, text
from tests.cli.conftest import Terminal


def test_the_documented_example_is_a_configuration_of_defaults(run: Terminal) -> None:
    assert run("config", "describe") == 0
    assert config.parse(run.out) == config.Config()


def test_without_a_terminal_the_defaults_answer(run: Terminal) -> None:
    assert run("quickstart", "--yes") == 0
    made = config.load(run.folder / "edgeserver.toml")
    assert (made.server.name, made.server.suffix, made.accounts.registration, made.links) == ("", "mesh", "closed", [])
    assert "can never be reached from the internet" in run.out
    assert run.out.endswith("Next: edgeserver serve\n")


def test_options_end_up_in_a_documented_file_that_others_may_not_read(run: Terminal) -> None:
    links = ["--link", "serial:/dev/ttyUSB0,2400", "--link", "udp:gw.example.org:7710"]
    words = ["--name", "matrix.example.org", "--registration", "token", *links]
    assert run("quickstart", *words, "--data", "/srv/box", "--output", "box.toml") == 0
    path = run.folder / "box.toml"
    made = config.load(path)
    assert made.server.name == "matrix.example.org"
    assert made.data == Path("/srv/box")
    assert [link.uri for link in made.links] == ["serial:/dev/ttyUSB0,2400", "udp:gw.example.org:7710"]
    assert made.accounts.registration_tokens[0] in run.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "# How much is logged." in path.read_text()
    assert run.out.endswith("Next: edgeserver serve --config box.toml\n")


def test_a_gateway_names_the_suffix(run: Terminal) -> None:
    assert run("quickstart", "--gateway", "gw.example.org", "--yes") == 0
    assert config.load(run.folder / "edgeserver.toml").server.suffix == "gw.example.org"
    assert "pair it with that gateway" in run.out


def test_a_file_that_is_there_is_never_overwritten(run: Terminal) -> None:
    path = run.folder / "edgeserver.toml"
    path.write_text("# mine\n")
    assert run("quickstart", "--yes") == 1
    assert path.read_text() == "# mine\n"
    assert "is not overwritten" in run.error


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--name", "not a name"], "is not a server name"),
        (["--name", "localhost"], "is not a server name"),
        (["--name", "abc.mesh"], "leave the name empty"),
        (["--name", "a.example.org", "--self-named"], "exclude each other"),
        (["--gateway", "gw.example.org:8448"], "is not a domain"),
        (["--link", "pigeon:1"], "is no line that this release knows"),
        (["--link", "serial:/dev/ttyUSB0"], "is not serial:PATH,BAUD"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence_and_write_nothing(run: Terminal, words: list[str], part: str) -> None:
    assert run("quickstart", "--yes", *words) == 2
    assert part in run.error
    assert list(run.folder.iterdir()) == []


def _conversation(typed: list[str]) -> tuple[Answers, list[str]]:
    said: list[str] = []

    def prompt(question: str) -> str:
        said.append(question)
        return typed.pop(0)

    answers = ask(Answers(), prompt, said.append)
    assert typed == []
    return filled(answers), said


def test_a_person_who_answers_nothing_gets_a_self_named_closed_box() -> None:
    answers, said = _conversation(["", "", "", ""])
    assert (answers.name, answers.suffix, answers.registration, answers.links) == ("", "mesh", "closed", [])
    assert any("Names are permanent" in line for line in said)
    config.parse(text(answers))


def test_wrong_answers_are_asked_for_again() -> None:
    answers, said = _conversation(["my box", "box.example.org", "everybody", "open", "/dev/ttyUSB0"])
    assert (answers.name, answers.registration, answers.links) == ("box.example.org", "open", ["serial:/dev/ttyUSB0,2400"])
    assert sum("is not a server name" in line or "is none of" in line for line in said) == 2


def test_a_configuration_can_be_checked(run: Terminal) -> None:
    assert run("quickstart", "--yes") == 0
    assert run("config", "check", "edgeserver.toml") == 0
    assert run.out == "edgeserver.toml is right. Data goes to data.\n"


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("[server", "is not valid TOML"),
        ("[server]\ncolour = 1", "has no key colour"),
        ('[[links]]\nuri = "pigeon:1"', "no line that this release knows"),
        ('[[links]]\nuri = "udp:a:1"\nname = "x"\n[[links]]\nuri = "udp:b:1"\nname = "x"', "two lines are called 'x'"),
        ('[http]\ncertificate = "a.pem"\ncertificate_key = "b.pem"', "there is no file a.pem"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told_in_a_sentence(run: Terminal, written: str, part: str) -> None:
    (run.folder / "edgeserver.toml").write_text(written)
    assert run("config", "check", "edgeserver.toml") == 2
    assert part in run.error
    assert "Traceback" not in run.error
