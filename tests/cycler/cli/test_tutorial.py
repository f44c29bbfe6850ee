"""The commands of the tutorial and the notebook, on a short demonstration: what they tell a reader to type must run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
SHORT = {"20240108T00": "20240104T12", "20240110T00": "20240104T18"}
"""Times of the tutorial, and those that take their place in one day of cycles."""

pytestmark = pytest.mark.trial


def dacycle(folder: Path, *words: str) -> str:
    command = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()", *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, f"dacycle {' '.join(words)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorial")
    dacycle(folder, "demo", "--days", "1")
    return folder / "dacycle-demo"


def commands(page: str) -> list[list[str]]:
    """Return the words of each command in the `console` blocks of a page, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ dacycle ")]
    return [line.removeprefix("$ dacycle ").replace("'", "").split() for line in lines]


def test_the_commands_and_the_python_of_the_tutorial_run(demonstration: Path) -> None:
    page = (DOCS / "tutorial.md").read_text()
    for long, short in SHORT.items():
        page = page.replace(long, short)
    found = commands(page)
    assert len(found) >= 9
    for words in found:
        dacycle(demonstration, *words)
    assert (demonstration / "analysis.nc").exists()
    (python,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ended = subprocess.run([sys.executable, "-c", python], cwd=demonstration, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "t2m" in ended.stdout


def test_the_notebook_runs(demonstration: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    script = DOCS / "notebooks/execute.py"
    before = (DOCS / "notebooks/archive.ipynb").read_bytes()
    subprocess.run([sys.executable, str(script), str(demonstration / "archive")], check=True)
    assert (DOCS / "notebooks/archive.ipynb").read_bytes() == before
    assert len(before) < 300_000
