"""Commits of a store as its files say: the branches, their newest commits, and the seals of commits.

The seal `seals/COMMIT` of a commit lists the digests of Icechunk's own files, which have no checksum themselves. It may
end with a note of what the branch holds by then. All this is read without Icechunk and zarr, whose import takes longer
than all of `dacycle status`.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.seals import read_sealed_text, seal_text

__all__ = ["COPY", "READ", "branch_names", "check_commit", "newest_commit", "point", "seal_commit"]

COPY = "restore it from a copy of the archive"
READ = ("config.yaml", "snapshots", "manifests")
"""Icechunk's files that are read with a commit, beside its chunks."""
_NOTE = "# holds "


def branch_names(folder: Path) -> list[str]:
    """Return the sorted names of the branches of a store, without the empty trunk `main`."""
    names = {path.parent.name.removeprefix("branch.") for path in (folder / "refs").glob("branch.*/ref.json")}
    return sorted(names - {"main"})


def newest_commit(folder: Path, branch: str) -> str:
    """Return the newest commit of a branch.

    Raises:
        ArchiveError: the file that says so cannot be read.
    """
    path = folder / f"refs/branch.{branch}/ref.json"
    with reading(f"{path} ({COPY})", ArchiveError):
        return str(json.loads(path.read_bytes())["snapshot"])


def point(folder: Path, branch: str, commit: str) -> None:
    """Make a commit, which is on disk, the newest of a branch; make the branch if need be.

    The caller holds the branch's lock. The file is Icechunk's own, which would not flush it before renaming it: after a
    power cut it could be empty.
    """
    write_whole(folder / f"refs/branch.{branch}/ref.json", json.dumps({"snapshot": commit}).encode())


def check_commit(folder: Path, commit: str, kinds: Collection[str], known: dict[str, str]) -> str:
    """Check the files of a commit against its seal, and return the seal's note; "" where there is none.

    Args:
        folder: of the store.
        commit: the commit; without a seal it is older than seals, and not checked.
        kinds: which files: `READ` or some of them, and `transactions`.
        known: digests of files that were checked; they are not read again, and those of further files are added.

    Raises:
        ArchiveError: a file is not the one that was written.
    """
    seal = folder / "seals" / commit
    if not seal.is_file():
        return ""
    note = ""
    for line in read_sealed_text(seal, COPY)[0].splitlines():
        if line.startswith(_NOTE):
            note = line.removeprefix(_NOTE)
            continue
        digest, _, name = line.partition("  ")
        kind = name.partition("/")[0]
        if kind not in kinds or known.get(name) == digest:
            continue
        with reading(f"{folder / name} ({COPY})", ArchiveError):
            content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            remedy = f"rewind the branch to an earlier cycle, or {COPY}" if kind == "manifests" else COPY
            raise ArchiveError(f"{folder / name} is damaged; {remedy}")
        known[name] = digest
    return note


def seal_commit(folder: Path, commit: str, manifests: Iterable[str], known: dict[str, str], note: str = "") -> None:
    """Write the seal of a commit, in the form of `sha256sum`, with a note in one line.

    It gets its name at once: until a branch points to the commit nobody reads it, and what a killed process left under
    a temporary name could not be told from what another is writing. The caller flushes it with the commit's files.
    """
    files = ["config.yaml", f"snapshots/{commit}", f"transactions/{commit}", *(f"manifests/{m}" for m in manifests)]
    names = [name for name in files if name in known or (folder / name).is_file()]
    for name in names:
        if name not in known:
            known[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    lines = [f"{known[name]}  {name}\n" for name in names] + ([f"{_NOTE}{note}\n"] if note else [])
    seal = folder / "seals" / commit
    seal.parent.mkdir(exist_ok=True)
    seal.write_bytes(seal_text("".join(lines)))
