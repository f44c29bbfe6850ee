"""The list of commands, which is shown without importing them."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
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


ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    path
    for pattern in ("*.md", "*/README.md", "docs/**/*.md", "deploy/**/*.md", "deploy/**/*.yaml")
    for path in sorted(ROOT.glob(pattern))
    if path.name not in ("CHANGELOG.md", "commands.md", "decisions.md")
]


def _written_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of dacycle: in blocks of code, and in comments of an experiment or recipe."""
    joined = re.sub(r"\\\n\s*", " ", text)
    fenced = "\n".join(re.findall(r"^```.*?$(.*?)^```", joined, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^(?:\$ )?dacycle (\S.*)$", fenced, re.MULTILINE)
    lines += re.findall(r"^#? {3,}dacycle (\S.*)$", joined, re.MULTILINE)
    for line in lines:
        yield shlex.split(line, comments=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_commands_and_options_that_there_are(document: Path) -> None:
    groups = {
        name: typer.main.get_group(import_module(f"dacycle.cycler.cli.{module}").app).commands[name]
        for module, commands in COMMANDS.items()
        for name in commands
    }
    for name, *words in _written_commands(document.read_text()):
        assert name in groups
        command = groups[name]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {
            option
            for part in (command, *getattr(command, "commands", {}).values())
            for parameter in part.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        assert options <= known | {"--help"}, f"dacycle {name} {' '.join(words)}"
