"""Run the fuzzing: each reader in a process of its own, which is started again when it dies or hangs."""

import argparse
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
from tests.fuzz.readers import Format, ImplausibleError, formats

PATIENCE = 30.0
"""Seconds that a reader may take for one folder of inputs."""


def make_inputs(format: Format, number: int, seed: int) -> list[bytes]:
    """Return the inputs of a batch; the same for the same numbers."""
    random = np.random.default_rng([seed, sum(format.name.encode()), number])
    inputs = []
    for _ in range(format.batch):
        content = format.seeds[int(random.integers(len(format.seeds)))]
        inputs.append(format.mutate(content, format.seeds, random))
    return inputs


def serve(connection: Connection, name: str, seed: int) -> None:
    """Read the batches whose numbers come through the connection, and answer with outcome and reason."""
    format = next(format for format in formats() if format.name == name)
    with tempfile.TemporaryDirectory() as folder:
        while True:
            number = connection.recv()
            paths = []
            for i, content in enumerate(make_inputs(format, number, seed)):
                paths.append(Path(folder) / f"{i}{format.suffix}")
                paths[-1].write_bytes(content)
            connection.send(("begun", ""))
            connection.send(judge(format, paths))


def judge(format: Format, paths: list[Path]) -> tuple[str, str]:
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
    """A process that reads inputs of one format; started again when it dies or hangs."""

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._process: multiprocessing.process.BaseProcess | None = None

    def __call__(self, number: int) -> tuple[str, str]:
        """Return the outcome of a batch (read, refused, implausible, exception, crash, hang, unmade) and the reason."""
        if self._process is None:
            self._connection, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(target=serve, args=(theirs, self._name, self._seed), daemon=True)
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


def fuzz(format: Format, inputs: int, seed: int, keep: Path | None) -> tuple[Counter[str], float]:
    """Read mutated inputs of a format; print failures, keep their files. Returns the outcomes and the seconds."""
    outcomes: Counter[str] = Counter()
    reader, began = Reader(format.name, seed), time.monotonic()
    told: set[str] = set()
    for number in range(-(-inputs // format.batch)):
        outcome, reason = reader(number)
        outcomes[outcome] += format.batch
        if outcome in ("read", "refused", "unmade"):
            continue
        key = reason.strip().splitlines()[-1][:60]
        if key not in told:
            told.add(key)
            print(f"{format.name}, batch {number}: {outcome}\n{reason}", file=sys.stderr, flush=True)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                for i, content in enumerate(make_inputs(format, number, seed)):
                    (keep / f"{format.name.replace(' ', '-')}-{number}-{i}{format.suffix}").write_bytes(content)
    reader.stop()
    return outcomes, time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 where an input failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Read mutated inputs with every reader of foreign files."
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--only", default="", help="formats whose names hold this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for inputs that failed")
    options = parser.parse_args(arguments)
    chosen = [format for format in formats() if options.only.lower() in format.name.lower()]
    whole = sum(format.share for format in chosen)
    failed = 0
    columns = ("read", "refused", "implausible", "exception", "crash", "hang")
    print(f"| format | inputs | {' | '.join(columns)} | s |\n|---|{'---|' * (len(columns) + 2)}")
    for format in chosen:
        outcomes, seconds = fuzz(format, round(options.inputs * format.share / whole), options.seed, options.keep)
        failed += sum(outcomes[name] for name in columns[2:])
        counts = " | ".join(str(outcomes[name]) for name in columns)
        print(f"| {format.name} | {outcomes.total() - outcomes['unmade']} | {counts} | {seconds:.0f} |", flush=True)
    return min(failed, 1)
