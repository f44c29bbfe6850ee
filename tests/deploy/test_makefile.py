"""What `make` asks for before it runs anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_up_needs_an_experiment(tmp_path: Path) -> None:
    environment = ["-o", f"{tmp_path}/runtime.stamp", f"VENV={tmp_path}"]  # it is taken as it is
    asked = subprocess.run(["make", "up", *environment], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 2
    assert "name a live experiment, one without an end: make up EXPERIMENT=live.yaml" in asked.stderr
