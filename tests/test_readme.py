"""What the README tells people to type exists: commands, scripts, settings, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from distill.cli import app
from distill.config import load_config

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
COMMANDS = [
    line.partition("#")[0].strip() for line in LINES if re.match(r"(make|distill|python|accelerate|cp|pip) ", line)
]


def test_the_readme_shows_its_two_commands() -> None:
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_names_what_exists(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    if words[0] == "distill":
        names = {info.name or (info.callback.__name__ if info.callback else "") for info in app.registered_commands}
        assert words[1] in names
    for word in words:
        if re.fullmatch(r"(scripts|configs)/\S+", word):
            assert (ROOT / word).exists(), word
    load_config(ROOT / "configs/demo.yaml", [word for word in words if re.fullmatch(r"[a-z]+\.[a-z_.]+=\S+", word)])
