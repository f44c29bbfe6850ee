"""Kill commands at one file operation after another, run them again, and compare with an undisturbed run.

Usage: sweep.py WORLD MODEL FOLDER EVERY COMMAND..., with `killer.c`, compiled, in LD_PRELOAD. Every EVERYth operation
is tried, in an order in which those tried first are evenly spread. Prints a line of JSON for each kill, and one with
the number of operations for each command.

With random:KILLS:SEED in place of EVERY, commands drawn at random are killed at random, one to three times in a row:
half of them at an operation, the others at a moment of their time. With power:KILLS:SEED the power is cut at an
operation: what was not flushed by then is lost, which leaves files empty or (every other time) absent. Both print a
line of JSON for each command that was killed.

It is started as a script, so that children are forked from a process without threads. What commands import as they
run, and the world that they read, this process imports and reads: once for all.
"""

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dacycle.common.configuration import write_yaml
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.store import Store
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
    "long": ("drift", ["hindcast", "long.yaml"]),
    "tidy": ("long", ["archive", "tidy"]),
    "backup": ("tidy", ["archive", "backup", "archive", "copy"]),
    "restore": ("backup", ["archive", "restore", "copy", "restored"]),
    "rewind past": ("tidy", ["rewind", "long", "20240104T00", "--yes"]),
    "fork past": ("tidy", ["fork", "long@20240104T00", "fp"]),
    "longer": ("tidy", ["hindcast", "longer.yaml"]),
    "report past": ("longer", ["report", "long"]),
}
"""The command after whose undisturbed end each begins, and its arguments."""

ENDLESS = 1 << 30


def in_child(
    work: Callable[[], Any],
    folder: Path,
    kill_at: int = ENDLESS,
    seconds: float | None = None,
    unflushed: Path | None = None,
) -> tuple[int, Any]:
    """Do some work in a forked process; return its exit status and its answer, if any.

    The process dies at a file operation, or after some seconds. At the operation it lists the files that it has not
    flushed in `unflushed`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        output, status, answer = io.StringIO(), 1, None
        killer = ctypes.CDLL(None)
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                killer.killer_arm(str(folder).encode(), kill_at)
                if unflushed is not None:
                    killer.killer_cut(str(unflushed).encode())
                answer, status = [work(), killer.killer_count()], 0
        finally:
            killer.killer_arm(b"", -1)
            os.write(writing, json.dumps(answer or [traceback.format_exc()[-3000:] + output.getvalue(), 0]).encode())
            os._exit(status)
    os.close(writing)
    if seconds is not None and not select.select([reading], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def command(arguments: list[str]) -> Callable[[], list[str]]:
    """Return the work of a command; it ends with the names of all modules that have been imported."""

    def work() -> list[str]:
        status = app(arguments, standalone_mode=False)
        assert not status, f"exit status {status}"
        return sorted(sys.modules)

    return work


def undisturbed(work: Callable[[], Any], folder: Path) -> tuple[Any, int]:
    """Do some work in a forked process; return its result, and the number of operations; fail where it fails."""
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
    for folder in ("archive", "copy", "restored"):
        if Path(folder, "states.icechunk").is_dir():
            archive = Archive(folder)
            for store in (archive.states, archive.forecasts):
                found |= {f"{store.folder} {key}": value for key, value in _stored(store).items()}
    return found


def _stored(store: Store) -> dict[str, str]:
    """Return digests of the arrays of a store, and the messages of its commits."""
    found = {}
    for branch in store.branches():
        for group in (
            "analysis",
            "background",
            "cycles",
            "headline_analysis",
            "headline_background",
            "forecasts",
            "starts",
        ):
            if len(store.times(branch, group)):
                dataset = store.dataset(branch, group).load()
                for name, variable in dataset.variables.items():
                    values = np.asarray(variable)
                    content = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
                    found[f"{branch} {group} {name}"] = _digest(content)
        found[f"{branch} commits"] = "; ".join(commit.message for commit in store.commits(branch))
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sweep(name: str, folder: Path, every: int) -> None:
    """Kill one command at every `every`th operation."""
    before, arguments = COMMANDS[name]
    start = folder / (f"after {before}" if before else "nothing")
    operations = whole(name, folder)
    expected = _expected(name, folder)
    print(json.dumps({"command": name, "operations": operations}), flush=True)
    for at in sorted(range(1, operations + 1, every), key=lambda at: f"{at:b}"[::-1].ljust(20, "0")):
        trial = folder / "trial"
        shutil.copytree(start, trial)
        killed, _ = in_child(command(arguments), trial, at)
        again, told_again = in_child(command(arguments), trial)
        other = _difference(expected, in_child(contents, trial)[1][0])
        print(json.dumps({
            "command": name, "at": at, "killed": killed == -signal.SIGKILL, "again": again, "other": other,
            "told": None if again == 0 else told_again,
        }), flush=True)  # fmt: skip
        shutil.rmtree(trial)


def _expected(name: str, folder: Path) -> dict[str, str]:
    found: dict[str, str] = undisturbed(contents, folder / f"after {name}")[0]
    return found


def _difference(expected: dict[str, str], found: Any) -> list[str]:
    if not isinstance(found, dict):  # it is what an error said
        return [str(found)]
    return sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))


def lose(unflushed: Path, absent: bool) -> int:
    """Do to files what a power cut may do to what was not flushed; return their number."""
    lost = [path for path in map(Path, unflushed.read_text().splitlines()) if path.is_file()]
    for path in lost:
        path.unlink() if absent else os.truncate(path, 0)
    unflushed.unlink()
    return len(lost)


def at_random(names: tuple[str, ...], folder: Path, kills: int, seed: int, power: bool = False) -> None:
    """Kill commands until there were so many kills."""
    draw = random.Random(seed)
    operations, seconds, expected = {}, {}, {}
    for name in names:
        operations[name] = whole(name, folder)
        began = time.monotonic()
        whole(name, folder)
        seconds[name], expected[name] = time.monotonic() - began, _expected(name, folder)
    while kills > 0:
        name, trial = draw.choice(names), folder / "trial"
        before, arguments = COMMANDS[name]
        shutil.copytree(folder / (f"after {before}" if before else "nothing"), trial)
        killed: list[Any] = []
        lost = 0
        for _ in range(draw.randint(1, 3)):
            at, after = draw.randint(1, operations[name]), draw.uniform(0, seconds[name])
            how: dict[str, Any] = {"kill_at": at} if power or draw.random() < 0.5 else {"seconds": after}
            unflushed = folder / "unflushed" if power else None
            status, _ = in_child(command(arguments), trial, **how, unflushed=unflushed)
            if status == -signal.SIGKILL:
                killed += [*how.values()]
                lost += 0 if unflushed is None else lose(unflushed, absent=len(killed) % 2 == 0)
        again, told = in_child(command(arguments), trial)
        other = _difference(expected[name], in_child(contents, trial)[1][0])
        kills -= len(killed)
        print(json.dumps({
            "command": name, "killed": killed, "lost": lost, "again": again, "other": other,
            "told": None if again == 0 else told,
        }), flush=True)  # fmt: skip
        shutil.rmtree(trial)


def main(world: Path, model: Path, folder: Path, every: str, *names: str) -> None:
    """Make the folder that the first commands begin with, and sweep."""
    reference = load_world(world).reference
    for when in reference.times:
        reference.array(when)
    nothing = folder / "nothing"
    nothing.mkdir(parents=True)
    drift = {"starts": [12], "lead": "12h", "free_run": False}
    end = f"{replays.START + STEP:%Y-%m-%dT%H}"
    content = replays.content(world, model, folder, end=end, drift=drift)
    (nothing / "demo.yaml").write_text(write_yaml(content))
    kept = {"name": "long", "end": "2024-01-06T18", "keep": {"cycles": "2d"}}
    (nothing / "long.yaml").write_text(write_yaml(content | kept))
    (nothing / "longer.yaml").write_text(write_yaml(content | kept | {"end": "2024-01-07T00"}))
    source = {"source": "olr_netcdf", "name": "olr", "path": "observations/olr", "cutoff": "none"}
    (nothing / "files.yaml").write_text(write_yaml(content | {"observations": [source]}))
    if ":" in every:
        mode, kills, seed = every.split(":")
        at_random(names, folder, int(kills), int(seed), power=mode == "power")
        return
    for name in names:
        sweep(name, folder, int(every))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
