"""Change bytes of an archive, one at a time, and see whether anything that is read from it changes without a word.

Usage: flips.py ARCHIVE FLIPS SEED. Works on a copy. A byte of a file that is drawn at random gets another value, which
is taken back afterwards; locks and reports, which nobody reads, are left out. All that dacycle reads is read, and
`status --check`, `log` and `scores` are run. Prints a line of JSON for each change with a bad outcome, and the number
of each outcome at the end:

    named      every command that meets the damage ends with our error, which names the file, or array and time
    mended     a table that is derived from others was computed again, with a warning
    checked    nothing that is read has changed, and `status --check` names the file
    no effect  nothing that is read has changed, and nothing says so
    silent     something that is read has changed, and nothing says so (bad)
    traceback  the error is not ours (bad)
"""

import hashlib
import json
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import write_experiment
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import read_scores
from dacycle.cycler.verification.usage import usage
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import World, load_world


def everything(folder: Path, world: World) -> str:
    """Return a digest of all that is read from an archive."""
    read, archive = hashlib.sha256(), Archive(folder)
    for name in archive.branches():
        branch = archive.branch(name)
        read.update(write_experiment(branch.experiment.as_dict()).encode())
        for record in branch.records:
            read.update(record.to_json().encode())
            for group in ("analysis", "background")[: 1 if record.status == "cold_start" else 2]:
                read.update(branch.state(group, record.time).values.tobytes())
        read.update(branch.departures().to_csv().encode())
        tables = verify(branch, world)
        for table in (tables.errors, tables.means, tables.fits, read_scores(branch)):
            read.update(table.to_csv().encode())
        read.update(repr(usage(branch)).encode())
        for commit in archive.states.commits(name):
            read.update(json.dumps([commit.message, commit.metadata], sort_keys=True).encode())
        if name in archive.forecasts.branches():
            for time in archive.forecasts.times(name, "starts"):
                fields = archive.forecasts.read(name, "forecasts", time, list(HEADLINE))
                read.update(b"".join(field.tobytes() for field in fields.values()))
    return read.hexdigest()


class Warnings(logging.Handler):
    """Keep the texts of log records."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.texts.append(record.getMessage())


def outcome(folder: Path, world: World, name: str, whole: str, warnings: Warnings) -> str:
    """Return what comes of reading an archive with one changed byte."""
    warnings.texts.clear()
    try:
        read = everything(folder, world)
    except DacycleError as error:
        read = f"named: {error}"
    told = []
    for arguments in (["status", "--check"], ["log", name], ["scores", name]):
        result = CliRunner().invoke(app, [*arguments, "--archive", str(folder)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return f"traceback of {arguments[0]}: {result.exception!r}"
        told.append(result.exit_code)
    if read.startswith("named"):
        return read if str(folder) in read else f"silent about the file: {read}"
    if read == whole and any("is damaged" in text or "cannot be read" in text for text in warnings.texts):
        return "mended"
    if read == whole:
        return "checked" if told[0] else "no effect"
    return "silent"


def main(archive: Path, flips: int, seed: int) -> None:
    """Flip bytes, and count what comes of it."""
    rng, counts, warnings = random.Random(seed), Counter(), Warnings()
    logging.getLogger("dacycle").addHandler(warnings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(archive, Path(scratch) / "archive"))
        name = Archive(folder).branches()[0]
        world = load_world(Archive(folder).branch(name).experiment.world)
        whole = everything(folder, world)
        kept = Path(shutil.copytree(folder, Path(scratch) / "kept"))
        paths = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
        paths = [path for path in paths if not path.name.startswith("lock") and path.suffix != ".html"]
        for _ in range(flips):
            path = rng.choice(paths)
            content = bytearray((kept / path).read_bytes())
            at = rng.randrange(len(content))
            content[at] ^= rng.randrange(1, 256)
            (folder / path).write_bytes(content)
            came = outcome(folder, world, name, whole, warnings)
            kind = came.split(":")[0].split(" of ")[0]
            counts[f"{kind} | {_kind(path)}"] += 1
            if kind not in ("named", "mended", "checked"):
                print(json.dumps({"file": str(path), "at": at, "outcome": came}), flush=True)
            shutil.copytree(kept / "branches", folder / "branches", dirs_exist_ok=True)
            (folder / path).write_bytes((kept / path).read_bytes())
    print(json.dumps(dict(sorted(counts.items()))))


def _kind(path: Path) -> str:
    parts = path.parts
    return (
        f"{parts[0]}/{parts[1]}" if parts[0].endswith(".icechunk") else "/".join([parts[0], *parts[2:-1], path.suffix])
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
