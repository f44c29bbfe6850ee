"""Copies of an archive that are whole at every moment, made while runs go on.

The newest commits are noted first; what they need is there by then. Objects of the stores are copied before the commits
that name them, and the branches point to the noted commits last. A copy that is cut short therefore stands where the
one before it stood, and the next one goes on. Objects of the stores never change and are copied once; of other files
`backup.json` in the copy notes size and time, so that those that have changed are copied again.

A copy may be in a folder or in a bucket (`s3://BUCKET/PREFIX`).
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dacycle.common.files import flush, flush_all, write_whole
from dacycle.common.foreign import reading
from dacycle.common.places import is_remote
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.commits import branch_names
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.progress import STATES, find_states

__all__ = ["Copied", "backup", "differing", "refuse_other", "restore"]

_NOTES = "backup.json"
_TRUNK = f"{STATES}/refs/branch.main/ref.json"
_OBJECTS = ("chunks", "manifests", "transactions", "snapshots", "seals")
"""Folders of a store whose files never change, in the order in which they are copied."""
_AT_ONCE = 8


@dataclass(frozen=True)
class Copied:
    """Hold how many files were copied, their bytes, and how many the copy held no longer needed."""

    files: int
    bytes: int
    removed: int


def backup(archive: Archive, destination: Path) -> Copied:
    """Copy what is new of an archive to a folder or bucket, while its runs may go on; rewinds and tidying wait.

    Raises:
        ArchiveError: something is being removed from the archive, or the destination holds another archive, lies in
            this one, or this one in it.
    """
    _refuse_nested(archive.folder, destination)
    with archive.nothing_removed():
        source = archive.folder
        newest = _branches(source)
        if (destination / STATES / "refs").is_dir():
            refuse_other(destination, source)
            _refuse_unknown_branches(destination, source)
        there, copied = _files(source), _files(destination)
        notes, found = _read_notes(destination), _noted(source, there)
        new = [name for name in there if name not in copied or not (_is_object(name) or notes.get(name) == found[name])]
        # What replaces a file of the copy comes after all that is new.
        new.sort(key=lambda name: (_rank(name), name in copied))
        _copy(source, destination, [name for name in new if name not in newest])
        gone = [name for name in copied if name not in there and (_is_object(name) or name in notes)]
        noted = {name: notes[name] for name in gone if name in notes} | found
        _write(destination / _NOTES, json.dumps(noted).encode())
        _settle(destination)
        _point(destination, newest)
        _each(lambda name: (destination / name).unlink(), gone)
        return Copied(len(new), sum(there[name] for name in new), len(gone))


def restore(backup: Path, folder: Path, only: Iterable[str] = ()) -> Copied:
    """Copy a backup to a new archive; run again, it goes on where it was cut short.

    Args:
        backup: the copy, in a folder or bucket.
        folder: of the archive, which is not there yet; with `only` it is.
        only: files, named as below the archive's folder, that are put in the place of damaged ones.

    Raises:
        ArchiveError: the backup is none or lacks a file, or the archive is there already, or lies in the backup.
    """
    _refuse_nested(backup, folder)
    find_states(backup)
    there = {name: size for name, size in _files(backup).items() if name != _NOTES}
    if chosen := [_below(name, folder) for name in only]:
        if absent := [name for name in chosen if name not in there]:
            raise ArchiveError(f"{backup} has no {', '.join(absent)}")
        _copy(backup, folder, chosen)
        return Copied(len(chosen), sum(there[name] for name in chosen), 0)
    newest, present = _branches(backup), _files(folder)
    if any(there.get(name) != size for name, size in present.items()):
        raise ArchiveError(
            f"{folder} holds something else already; restore to another folder, or move it away. Single files of an "
            "archive are restored with --only"
        )
    new = sorted((name for name in there if name not in present), key=_rank)
    folder.mkdir(parents=True, exist_ok=True)
    _copy(backup, folder, [name for name in new if name not in newest])
    _settle(folder)
    _point(folder, newest)
    return Copied(len(new), sum(there[name] for name in new), 0)


def differing(archive: Path, backup: Path, is_whole: bool) -> list[str]:
    """Return the files of the stores that are not what their copy in a backup is: one of the two is damaged.

    Args:
        archive, backup: the two.
        is_whole: nothing is missing in the archive: what only the backup has was removed since.
    """
    there, copied = _files(archive), _files(backup)

    def differs(name: str) -> bool:
        return there.get(name) != copied[name] or (archive / name).read_bytes() != (backup / name).read_bytes()

    names = sorted(name for name in copied if _is_object(name) and (name in there or not is_whole))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [name for name, other in zip(names, pool.map(differs, names), strict=True) if other]


def refuse_other(backup: Path, archive: Path) -> None:
    """Raise ArchiveError where a backup is none, or one of another archive: each archive has a trunk of its own."""
    find_states(backup)
    copied, trunk = backup / _TRUNK, archive / _TRUNK
    if copied.is_file() and trunk.is_file() and copied.read_bytes() != trunk.read_bytes():
        raise ArchiveError(f"{backup} is a copy of another archive than {archive}; name another place")


def _refuse_unknown_branches(destination: Path, source: Path) -> None:
    """Raise ArchiveError where the destination holds experiments that the source does not, and would lose them."""
    unknown = set(branch_names(destination / STATES)) - set(branch_names(source / STATES))
    if unknown:
        raise ArchiveError(
            f"{destination} holds {', '.join(sorted(unknown))}, which {source} does not: it is a copy of another "
            "archive; name another place"
        )


def _refuse_nested(source: Path, destination: Path) -> None:
    """Raise ArchiveError where one of two folders is, or lies in, the other."""
    if is_remote(source) or is_remote(destination):
        return
    one, other = source.resolve(), destination.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ArchiveError(f"{destination} and {source} lie in one another; name another destination")


def _branches(root: Path) -> dict[str, bytes]:
    """Return the files that say which commit is the newest of each branch, the forecasts' first."""
    names = [name for name in _files(root) if "/refs/" in name]
    return {name: (root / name).read_bytes() for name in sorted(names)}


def _is_object(name: str) -> bool:
    store, _, rest = name.partition("/")
    return store.endswith(".icechunk") and rest.partition("/")[0] in _OBJECTS


def _rank(name: str) -> int:
    """Return where a file stands in the order of copying: nothing comes before what it names."""
    return _OBJECTS.index(name.split("/")[1]) if _is_object(name) else len(_OBJECTS)


def _files(root: Path) -> dict[str, int]:
    """Return the size of each file below a folder or bucket by its name there, without locks and temporary files."""
    if not is_remote(root):
        found = {
            str(Path(at, name).relative_to(root)): at + os.sep + name
            for at, _, names in os.walk(root)
            for name in names
        }
        sizes = {name: _size(path) for name, path in found.items()}
    else:
        with reading(root, ArchiveError):
            there = cast(Any, root)
            entries = there.fs.find(there.path, detail=True)
        sizes = {key.removeprefix(there.path).lstrip("/"): int(entry["size"]) for key, entry in entries.items()}
    return {name: size for name, size in sizes.items() if size is not None and _belongs(name)}


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:  # a temporary file
        return None


def _belongs(name: str) -> bool:
    *folders, last = name.split("/")
    hidden = any(part.startswith(".") for part in (*folders, last))
    return not (
        hidden or last == "lock" or last.startswith("lock.") or last.endswith(".lock") or folders[:1] == ["prefect"]
    )


def _noted(root: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Return size and time of change of the files that may change."""
    stats = {name: (root / name).stat() for name in names if not _is_object(name)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _read_notes(destination: Path) -> Mapping[str, list[int]]:
    path = destination / _NOTES
    if not path.is_file():
        return {}
    with reading(path, ArchiveError):
        return dict(json.loads(path.read_bytes()))


def _below(name: str, folder: Path) -> str:
    """Return the name of a file below an archive, from that or from its path."""
    path = Path(name)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _copy(source: Path, destination: Path, names: list[str]) -> None:
    """Copy files, a rank after the other."""
    for rank in sorted({_rank(name) for name in names}):
        _each(
            lambda name: _write(destination / name, (source / name).read_bytes()),
            [n for n in names if _rank(n) == rank],
        )


def _each(work: Callable[[str], object], names: list[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(work, names):
            pass


def _write(path: Path, content: bytes) -> None:
    """Write a file that is seen whole; a bucket does so by itself."""
    if is_remote(path):
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.copy")
    temporary.write_bytes(content)
    flush(temporary)
    temporary.replace(path)


def _point(root: Path, newest: Mapping[str, bytes]) -> None:
    """Make the branches of a copy point to the commits that were noted."""
    for name, content in newest.items():
        if not is_remote(root):
            write_whole(root / name, content)
        else:
            (root / name).write_bytes(content)


def _settle(root: Path) -> None:
    """Make the system write to disk what was copied to a folder."""
    if not is_remote(root):
        flush_all(root)
