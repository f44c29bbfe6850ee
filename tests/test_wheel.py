"""The wheel, as a user installs it: on each supported Python that is here, without the checkout, in an empty folder."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
SUPPORTED = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
VERSIONS = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SUPPORTED]

pytestmark = pytest.mark.trial


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive, and the wheel from it alone."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def interpreter(version: str) -> str:
    """Return a command that runs this version of Python; skip the test where there is none."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip(f"no Python {version} on this machine")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_the_demonstration_runs_from_the_wheel(version: str, wheel: Path, tmp_path: Path) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "DACYCLE"))}

    def run(*command: object, **options: Any) -> str:
        ended = subprocess.run(
            [str(word) for word in command], cwd=empty, env=clean | options, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    try:
        run(interpreter(version), "-m", "venv", environment)
        pip = (environment / "bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--requirement", ROOT / "requirements.lock", wheel)
        run(*pip, "check")
        said = run(environment / "bin/dacycle", "demo", "--days", "1", "mine", HOME=str(empty), OMP_NUM_THREADS="1")
        assert "The demonstration is complete" in said
        assert (empty / "mine/report.html").stat().st_size > 100_000
    finally:
        shutil.rmtree(environment, ignore_errors=True)  # 1.4 GB
