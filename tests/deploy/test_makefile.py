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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_methods_are_made_in_order_and_what_is_done_is_left(tmp_path: Path) -> None:
    def planned(*settings: str) -> list[str]:
        """Return the commands that are left, from the folder of the runs."""
        command = ["make", "-n", "-f", str(ROOT / "Makefile"), "-o", f"{tmp_path}/train.stamp", "methods"]
        command += [f"VENV={tmp_path}", *settings]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
        lines = [line for line in shown.splitlines() if "bin/dacycle" in line]
        return [line.partition("bin/dacycle ")[2].strip() for line in lines]

    methods = {path.stem.removesuffix("-cpu") for path in (ROOT / "deploy/recipes").glob("*-cpu.yaml")} - {
        "mini",
        "olr-tp",
    }
    everything = planned()
    assert everything[0].startswith("nature-run nature --years 2010-2021,2023,2024")
    for method in methods:
        run = f"runs/{method}-cpu"
        steps = [
            f"train deploy/recipes/{method}-cpu.yaml --out {run}",
            f"export {run}",
            f"gate {run}/{method}.onnx --data nature --register",
        ]
        places = [everything.index(step) for step in steps]
        assert places == sorted(places)
        if method.endswith("-adapter"):
            base = method.removesuffix("-adapter")
            assert everything.index(f"train deploy/recipes/{base}-cpu.yaml --out runs/{base}-cpu") < places[0]
    done = tmp_path / "runs/.done"
    done.mkdir(parents=True)
    # in the order in which they are made: a stage that is older than what it needs is made again
    for stage in ("nature", "backgrounds", "backgrounds-mini-2", "oi", "3dvar", "bias", "olr-tp"):
        (done / stage).touch()
    for method in sorted(methods):  # a method comes before the adapter, or the further training, that begins with it
        (done / f"train-{method}").touch()
        if method != "fnp":
            (done / method).touch()
    assert planned() == ["export runs/fnp-cpu", "gate runs/fnp-cpu/fnp.onnx --data nature --register"]
    (done / "train-fnp").unlink()
    assert planned("SET=workers=12 threads=2")[0].endswith("--out runs/fnp-cpu --set workers=12 --set threads=2")
