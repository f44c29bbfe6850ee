"""The list of commands, which is shown without importing them."""

import subprocess
import sys
from importlib import import_module

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
