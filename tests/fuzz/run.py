"""Run the fuzzing: inputs are made and read in processes of their own, which start again when they die or hang."""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dacycle.common.errors import DacycleError
from tests.fuzz.formats import Format, formats
from tests.fuzz.readers import ImplausibleError

PATIENCE = 30.0
"""Seconds that a reader may take for one folder of inputs."""

ROUNDS = 20
"""All formats have their turn so many times, so that a run that is stopped has tried each."""

OUTCOMES = ("read", "refused", "implausible", "exception", "crash", "hang")

Reason = tuple[str, str]
"""The outcome of reading a folder of inputs, and why."""


def make_inputs(format: Format, number: int, seed: int) -> list[bytes]:
    """Return the inputs of a batch; the same for the same numbers."""
    random = np.random.default_rng([seed, sum(format.name.encode()), number])
    inputs = []
    for _ in range(format.batch):
        content = format.seeds[int(random.integers(len(format.seeds)))]
        inputs.append(format.mutate(content, format.seeds, random))
    return inputs


def write_inputs(format: Format, seed: int, folder: Path, number: int) -> list[Path]:
    """Write the inputs of a batch to files of their own in an emptied folder; return their paths."""
    shutil.rmtree(folder)
    folder.mkdir()
    paths = []
    for i, content in enumerate(make_inputs(format, number, seed)):
        paths.append(folder / f"{number}-{i}{format.suffix}")
        paths[-1].write_bytes(content)
    return paths


def judge(format: Format, paths: list[Path]) -> Reason:
    """Return the outcome of reading some inputs (read, refused, implausible, exception) and the reason."""
    try:
        format.read(paths)
    except DacycleError as error:
        return "refused", str(error)
    except ImplausibleError as error:
        return "implausible", str(error)
    except Exception:  # noqa: BLE001 this is what is looked for
        return "exception", traceback.format_exc()
    return "read", ""


class Worker:
    """A process that does some work, forked when it is needed, and again when it has died or hangs.

    Args:
        work: is given what `__call__` is given.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work
        self._process: multiprocessing.process.BaseProcess | None = None

    def __call__(self, task: Any) -> Any:
        """Return the result of a task, or raise `DeadError`."""
        if self._process is None:
            self._connection, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("fork")  # seeds and imports are made once
            self._process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
            self._process.start()
            theirs.close()
        self._connection.send(task)
        how = "hang", f"more than {PATIENCE:.0f} s"
        try:
            if self._connection.poll(PATIENCE):
                return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            how = "crash", f"the process ended with {self._process.exitcode}"
        self.stop()
        raise DeadError(*how)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


class DeadError(Exception):
    """A process crashed or hung: which of them, and how."""


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    while True:
        connection.send(work(connection.recv()))


def fuzz(format: Format, numbers: range, seed: int, keep: Path, told: set[str]) -> Counter[str]:
    """Read batches of a format; print failures that were not told yet, and keep their files. Returns the outcomes.

    Inputs are made in a process of their own too: what crashes there, or corrupts its memory, is no reader's fault.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        make, read = Worker(partial(write_inputs, format, seed, Path(name))), Worker(partial(judge, format))
        for number in numbers:
            outcome, reason = _outcome(make, read, number)
            outcomes[outcome] += format.batch
            key = f"{format.name}: {reason.strip().splitlines()[-1][:60]}" if reason else ""
            if outcome not in ("read", "refused", "unmade") and key not in told:
                told.add(key)
                print(f"{format.name}, batch {number}: {outcome}\n{reason}", file=sys.stderr, flush=True)
                for path in Path(name).glob(f"{number}-*"):
                    shutil.copy(path, keep / f"{format.name.replace(' ', '-')}-{path.name}")
        make.stop()
        read.stop()
    return outcomes


def _outcome(make: Worker, read: Worker, number: int) -> Reason:
    try:
        paths = make(number)
    except DeadError:
        return "unmade", ""
    try:
        return read(paths)
    except DeadError as how:
        return how.args


class Results:
    """Outcomes by format and round in a file, to which several processes add: a run that was stopped goes on from it.

    Args:
        path: of the file, a line of JSON for each round of a format.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def rounds(self) -> list[dict[str, Any]]:
        """Return all rounds: format, number of the first batch, outcomes, seconds."""
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def add(self, name: str, first: int, outcomes: Counter[str], seconds: float) -> None:
        """Keep a round."""
        done = {"format": name, "first": first, "outcomes": outcomes, "seconds": round(seconds, 1)}
        with self._path.open("a") as file:
            file.write(json.dumps(done) + "\n")

    def table(self) -> tuple[str, int]:
        """Return a table of the outcomes of each format in Markdown, and the number of failures."""
        lines = [f"| format | inputs | {' | '.join(OUTCOMES)} | s |", f"|---|{'---|' * (len(OUTCOMES) + 2)}"]
        outcomes: Counter[str] = Counter()
        rounds = self.rounds()
        for name in [*dict.fromkeys(done["format"] for done in rounds), "all"]:
            chosen = [done for done in rounds if name in (done["format"], "all")]
            outcomes = sum((Counter(done["outcomes"]) for done in chosen), Counter())
            counts = [outcomes.total() - outcomes["unmade"], *(outcomes[outcome] for outcome in OUTCOMES)]
            lines.append(f"| {name} | {' | '.join(map(str, counts))} | {sum(done['seconds'] for done in chosen):.0f} |")
        return "\n".join(lines), sum(outcomes[outcome] for outcome in OUTCOMES[2:])


def fuzz_all(chosen: list[tuple[Format, int]], seed: int, keep: Path, results: Results) -> None:
    """Read so many batches of each format as far as it has not been done, all formats in turn."""
    done = {(line["format"], line["first"]) for line in results.rounds()}
    told: set[str] = set()
    for turn in range(ROUNDS):
        for format, batches in chosen:
            numbers = range(batches * turn // ROUNDS, batches * (turn + 1) // ROUNDS)
            if numbers and (format.name, numbers.start) not in done:
                began = time.monotonic()
                outcomes = fuzz(format, numbers, seed, keep, told)
                results.add(format.name, numbers.start, outcomes, time.monotonic() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 where an input failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Read mutated inputs with every reader of foreign files."
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--only", default="", help="formats whose names hold this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="formats that are read at the same time")
    parser.add_argument("--keep", type=Path, help="folder for results and inputs that failed; what is there goes on")
    options = parser.parse_args(arguments)
    keep = options.keep or Path(tempfile.mkdtemp(prefix="dacycle-fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    results = Results(keep / f"results-{options.seed}.jsonl")
    every = [format for format in formats() if options.only.lower() in format.name.lower()]
    whole = sum(format.share for format in every)
    chosen = [(format, round(options.inputs * format.share / whole / format.batch)) for format in every]
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=fuzz_all, args=(chosen[job :: options.jobs], options.seed, keep, results))
        for job in range(options.jobs)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    table, failures = results.table()
    print(table)
    return min(failures + sum(job.exitcode != 0 for job in jobs), 1)
