"""Run the fuzzing: each reader in a process of its own, which is started again when it dies or hangs."""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

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


def serve(connection: Connection, format: Format, seed: int) -> None:
    """Read the batches whose numbers come through the connection, and answer with outcome and reason."""
    with tempfile.TemporaryDirectory() as folder:
        while True:
            number = connection.recv()
            paths = []
            for i, content in enumerate(make_inputs(format, number, seed)):
                paths.append(Path(folder) / f"{i}{format.suffix}")
                paths[-1].write_bytes(content)
            connection.send(("begun", ""))
            connection.send(judge(format, paths))


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


class Reader:
    """A process that reads inputs of one format, forked when it is needed, and again when it has died or hangs."""

    def __init__(self, format: Format, seed: int) -> None:
        self._format, self._seed = format, seed
        self._process: multiprocessing.process.BaseProcess | None = None

    def __call__(self, number: int) -> Reason:
        """Return the outcome of a batch (read, refused, implausible, exception, crash, hang, unmade) and the reason."""
        if self._process is None:
            self._connection, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("fork")  # seeds and imports are made once
            self._process = context.Process(target=serve, args=(theirs, self._format, self._seed), daemon=True)
            self._process.start()
            theirs.close()
        self._connection.send(number)
        outcome = "unmade", "the mutation itself hung or crashed"
        try:
            if self._connection.poll(PATIENCE):
                self._connection.recv()
                outcome = "hang", f"more than {PATIENCE:.0f} s"
                if self._connection.poll(PATIENCE):
                    return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            if outcome[0] != "unmade":
                outcome = "crash", f"the process ended with {self._process.exitcode}"
        self.stop()
        return outcome

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def fuzz(format: Format, numbers: range, seed: int, keep: Path | None, told: set[str]) -> Counter[str]:
    """Read batches of a format; print failures that were not told yet, and keep their files. Returns the outcomes."""
    outcomes: Counter[str] = Counter()
    reader = Reader(format, seed)
    for number in numbers:
        outcome, reason = reader(number)
        outcomes[outcome] += format.batch
        if outcome in ("read", "refused", "unmade"):
            continue
        key = f"{format.name}: {reason.strip().splitlines()[-1][:60]}"
        if key not in told:
            told.add(key)
            print(f"{format.name}, batch {number}: {outcome}\n{reason}", file=sys.stderr, flush=True)
            if keep is not None:
                for i, content in enumerate(make_inputs(format, number, seed)):
                    (keep / f"{format.name.replace(' ', '-')}-{number}-{i}{format.suffix}").write_bytes(content)
    reader.stop()
    return outcomes


class Results:
    """Outcomes by format and round; in a file, so that a run that was stopped goes on where it was.

    Args:
        path: of the file, a line of JSON for each round of a format; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._rounds = [json.loads(line) for line in lines]

    def has(self, name: str, numbers: range) -> bool:
        """Return whether a round of a format is there."""
        return any(done["format"] == name and done["first"] == numbers.start for done in self._rounds)

    def add(self, name: str, numbers: range, outcomes: Counter[str], seconds: float) -> None:
        """Keep a round."""
        done = {"format": name, "first": numbers.start, "outcomes": outcomes, "seconds": round(seconds, 1)}
        self._rounds.append(done)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(done) + "\n")

    def table(self) -> tuple[str, int]:
        """Return a table of the outcomes of each format in Markdown, and the number of failures."""
        lines = [f"| format | inputs | {' | '.join(OUTCOMES)} | s |", f"|---|{'---|' * (len(OUTCOMES) + 2)}"]
        whole: Counter[str] = Counter()
        for name in [*dict.fromkeys(done["format"] for done in self._rounds), "all"]:
            rounds = [done for done in self._rounds if name in (done["format"], "all")]
            outcomes: Counter[str] = sum((Counter(done["outcomes"]) for done in rounds), Counter())
            counts = [outcomes.total() - outcomes["unmade"], *(outcomes[outcome] for outcome in OUTCOMES)]
            seconds = sum(done["seconds"] for done in rounds)
            lines.append(f"| {name} | {' | '.join(map(str, counts))} | {seconds:.0f} |")
            whole = outcomes
        return "\n".join(lines), sum(whole[outcome] for outcome in OUTCOMES[2:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 where an input failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Read mutated inputs with every reader of foreign files."
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--only", default="", help="formats whose names hold this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for results and inputs that failed; what is there goes on")
    options = parser.parse_args(arguments)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    results = Results(options.keep / f"results-{options.seed}.jsonl" if options.keep else None)
    chosen = [format for format in formats() if options.only.lower() in format.name.lower()]
    whole = sum(format.share for format in chosen)
    told: set[str] = set()
    for turn in range(ROUNDS):
        for format in chosen:
            batches = round(options.inputs * format.share / whole / format.batch)
            numbers = range(batches * turn // ROUNDS, batches * (turn + 1) // ROUNDS)
            if not numbers or results.has(format.name, numbers):
                continue
            began = time.monotonic()
            outcomes = fuzz(format, numbers, options.seed, options.keep, told)
            results.add(format.name, numbers, outcomes, time.monotonic() - began)
    table, failures = results.table()
    print(table)
    return min(failures, 1)
