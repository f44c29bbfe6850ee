"""The list of commands, which is shown without importing them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import dacycle
from dacycle.cycler.cli import COMMANDS, app


@pytest.mark.parametrize("module", COMMANDS)
def test_the_list_says_what_the_commands_say(module: str) -> None:
    commands = typer.main.get_group(import_module(f"dacycle.cycler.cli.{module}").app).commands
    assert list(COMMANDS[module]) == list(commands)
    for name, sentence in COMMANDS[module].items():
        assert " ".join(str(commands[name].help).split()).startswith(sentence.rstrip("."))


def _texts(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the words that call a command and each part of it, with each text of their help."""
    yield words, command.help or ""
    for parameter in command.params:
        yield words, getattr(parameter, "help", None) or ""
    for name, part in getattr(command, "commands", {}).items():
        yield from _texts(part, *words, name)


@pytest.mark.parametrize("module", COMMANDS)
def test_the_help_shows_every_character_of_its_texts(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    commands = typer.main.get_group(import_module(f"dacycle.cycler.cli.{module}").app).commands
    for name, command in commands.items():
        for words, text in _texts(command, name):
            shown = " ".join(re.sub("[│╭╮╰╯─]", " ", CliRunner().invoke(app, [*words, "--help"]).output).split())
            assert " ".join(re.sub(r"[\b\f]", " ", text).split()) in shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_no_other_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom dacycle.cycler.cli import app\n"
        f"try:\n    app({arguments})\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'xarray', 'zarr', 'matplotlib', 'onnxruntime', 'prefect', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"dacycle {dacycle.__version__}\n"


def test_a_misspelt_command_is_suggested() -> None:
    ended = CliRunner().invoke(app, ["plann"])
    assert ended.exit_code == 2
    assert "Did you mean 'plan'?" in ended.output
