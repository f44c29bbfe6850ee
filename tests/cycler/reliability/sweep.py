"""Kill commands at one file operation after another, run them again, and compare with an undisturbed run.

Usage: sweep.py WORLD MODEL FOLDER EVERY COMMAND..., with `killer.c`, compiled, in LD_PRELOAD. Every EVERYth operation
is tried, in an order in which those tried first are evenly spread. Prints a line of JSON for each kill, and one with
the number of operations for each command. Started as a script, so that children are forked from a process without
threads. What commands import as they run, and the world that they read, this process imports and reads: once for all.
"""

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dacycle.common.configuration import write_yaml
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import STEP
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.simulation import files as simulation  # noqa: F401 - the command imports it
from tests.cycler import replays

COMMANDS: dict[str, tuple[str, list[str]]] = {
    "hindcast": ("", ["hindcast", "demo.yaml"]),
    "drift": ("hindcast", ["drift", "demo"]),
    "fork": ("drift", ["fork", "demo@20240103T12", "fk", "--set", "deny=[t2m]"]),
    "rewind": ("drift", ["rewind", "demo", "20240103T12", "--yes"]),
    "report": ("drift", ["report", "demo"]),
    "simulate": ("", ["simulate", "files.yaml"]),
}
"""The command after whose undisturbed end each begins, and its arguments."""

ENDLESS = 1 << 30


def in_child(work: Callable[[], Any], folder: Path, kill_at: int = ENDLESS) -> tuple[int, Any]:
    """Do some work in a forked process that dies at a file operation; return its exit status and its answer, if any."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        output, status, answer = io.StringIO(), 1, None
        killer = ctypes.CDLL(None)
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                killer.killer_arm(str(folder).encode(), kill_at)
                answer, status = [work(), killer.killer_count()], 0
        finally:
            killer.killer_arm(b"", -1)
            os.write(writing, json.dumps(answer or [traceback.format_exc()[-3000:] + output.getvalue(), 0]).encode())
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def command(arguments: list[str]) -> Callable[[], list[str]]:
    """Return the work of a command; it ends with the names of all modules that have been imported."""

    def work() -> list[str]:
        app(arguments, standalone_mode=False)
        return sorted(sys.modules)

    return work


def undisturbed(work: Callable[[], Any], folder: Path) -> tuple[Any, int]:
    """Do some work in a forked process; return its result, and the number of operations."""
    status, told = in_child(work, folder)
    assert status == 0, told
    return told


def whole(name: str, folder: Path) -> int:
    """Run a command, and before it what it needs, as far as it has not been run; return the number of operations."""
    before, arguments = COMMANDS[name]
    if before and not (folder / f"after {before}").exists():
        whole(before, folder)
    end = folder / f"after {name}"
    if end.exists():
        shutil.rmtree(end)
    shutil.copytree(folder / (f"after {before}" if before else "nothing"), end)
    modules, operations = undisturbed(command(arguments), end)
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    return operations


def contents() -> dict[str, str]:
    """Return digests of all that is to be read of the working directory: its files, and its archive's two stores."""
    found = {
        str(path): _digest(re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", path.read_bytes()))
        for path in sorted(Path().rglob("*"))
        if path.is_file()
        and not path.name.startswith("lock")
        and not any(part.endswith(".icechunk") for part in path.parts)
    }
    found |= {str(path): "" for path in Path().rglob(".*")}  # what is left of temporary files and folders
    if Path("archive/states.icechunk").is_dir():
        archive = Archive("archive")
        for store in (archive.states, archive.forecasts):
            for branch in store.branches():
                for group in ("analysis", "background", "cycles", "forecasts", "starts"):
                    if len(store.times(branch, group)):
                        dataset = store.dataset(branch, group).load()
                        for name, variable in dataset.variables.items():
                            values = np.asarray(variable)
                            content = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
                            found[f"{store.folder.name} {branch} {group} {name}"] = _digest(content)
                commits = [commit.message for commit in store.commits(branch)]
                found[f"{store.folder.name} {branch} commits"] = "; ".join(commits)
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sweep(name: str, folder: Path, every: int) -> None:
    """Kill one command at every `every`th operation."""
    before, arguments = COMMANDS[name]
    start = folder / (f"after {before}" if before else "nothing")
    operations = whole(name, folder)
    expected = undisturbed(contents, folder / f"after {name}")[0]
    print(json.dumps({"command": name, "operations": operations}), flush=True)
    for at in sorted(range(1, operations + 1, every), key=lambda at: f"{at:b}"[::-1].ljust(20, "0")):
        trial = folder / "trial"
        shutil.copytree(start, trial)
        killed, _ = in_child(command(arguments), trial, at)
        again, told_again = in_child(command(arguments), trial)
        found = in_child(contents, trial)[1][0]
        other = (
            sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
            if isinstance(found, dict)
            else [found]
        )
        print(json.dumps({
            "command": name, "at": at, "killed": killed == -signal.SIGKILL, "again": again, "other": other,
            "told": None if again == 0 else told_again,
        }), flush=True)  # fmt: skip
        shutil.rmtree(trial)


def main(world: Path, model: Path, folder: Path, every: int, *names: str) -> None:
    """Make the folder that the first commands begin with, and sweep."""
    reference = load_world(world).reference
    for time in reference.times:
        reference.array(time)
    nothing = folder / "nothing"
    nothing.mkdir(parents=True)
    drift = {"starts": [12], "lead": "12h", "free_run": False}
    end = f"{replays.START + STEP:%Y-%m-%dT%H}"
    content = replays.content(world, model, folder, end=end, drift=drift)
    (nothing / "demo.yaml").write_text(write_yaml(content))
    source = {"source": "olr_netcdf", "name": "olr", "path": "observations/olr", "cutoff": "none"}
    (nothing / "files.yaml").write_text(write_yaml(content | {"observations": [source]}))
    for name in names:
        sweep(name, folder, every)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
