"""What the documents tell people to type and to write is accepted as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edgeserver import cli, config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip().startswith("edgeserver ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_readme_is_one_that_the_program_knows(command):
    cli.parser().parse_args(shlex.split(command)[1:])


def test_the_readme_shows_commands_at_all():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("text", blocks("toml"))
def test_each_configuration_in_the_readme_is_valid(text):
    config.parse(text)


def test_each_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets
    assert not [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("path", sorted((ROOT / "firmware-config").glob("*/link.toml")), ids=lambda path: path.parent.name)
def test_each_device_folder_has_a_readme_and_a_valid_link(path):
    assert (path.parent / "README.md").exists()
    assert config.load(path).links


def test_the_documented_example_configuration_is_valid_with_every_comment_taken_off():
    text = "\n".join(
        line[2:] if re.match(r"# \w+ = ", line) or line.startswith("# [[") else line for line in config.describe().splitlines()
    )
    config.parse(re.sub(r'^name = ""$', "", text, flags=re.MULTILINE))
