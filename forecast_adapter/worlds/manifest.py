"""The manifest of a dataset: where it is from, which files belong to it, and the SHA-256 of each.

A file belongs to a dataset once the manifest lists it, and is never written again. So a reader sees whole files at any
time, also while the dataset is being extended. The dataset is unfinished until it has all times that were first asked
for.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dacycle.common.errors import DacycleError
from dacycle.common.files import write_whole
from dacycle.common.foreign import read_text, reading
from dacycle.forecast_adapter.models.onnxfile import digest

__all__ = ["DatasetError", "Entry", "Manifest", "dataset_files", "is_dataset", "verify_dataset"]

_NAME = "manifest.json"


class DatasetError(DacycleError, LookupError):
    """A dataset is unfinished or damaged, or another one is in its folder; names folder, file and remedy."""


@dataclass(frozen=True)
class Entry:
    """A file of a dataset: its SHA-256, size, and first, last and number of its times (None: it holds no states)."""

    sha256: str
    size: int
    times: Sequence[str | int] | None = None

    @classmethod
    def of(cls, path: Path, times: Sequence[str | int] | None = None) -> "Entry":
        """Return the entry of a file as it is on disk."""
        return cls(digest(path), path.stat().st_size, times)


@dataclass
class Manifest:
    """The origin and the files of a dataset that `dacycle dataset` made.

    Attributes:
        source: the product that the states are from.
        grid: the name of their grid.
        finished: whether all times that were first asked for are there.
        notes: how the states were made: regridding, derived fields, fields and times left out.
        files: entries by path within the folder.
        beside: further products, whose extra fields are taken where `source` lacks them.
    """

    source: str
    grid: str
    finished: bool = False
    notes: list[str] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Return the manifest of a folder, None where it has none; raise DatasetError where it cannot be read."""
        path = folder / _NAME
        if not path.is_file():
            return None
        text = read_text(path, DatasetError)
        with reading(f"{path} is damaged; make the dataset anew in another folder", DatasetError):
            content = json.loads(text)
            return cls(files={name: Entry(**entry) for name, entry in content.pop("files").items()}, **content)

    def write(self, folder: Path) -> None:
        """Write the manifest into its folder, whole or not at all."""
        write_whole(folder / _NAME, json.dumps(asdict(self), indent=1).encode())

    def note(self, text: str) -> None:
        """Add a note, unless it is there."""
        if text not in self.notes:
            self.notes.append(text)


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is a dataset, finished or not."""
    return (folder / _NAME).is_file()


def dataset_files(folder: Path) -> list[Path] | None:
    """Return the files of states in a dataset, or in one of its years; None where `folder` is no dataset.

    Raises:
        DatasetError: the dataset is unfinished, or a file is missing or has another size than its manifest says.
    """
    root = next((candidate for candidate in (folder, folder.parent) if is_dataset(candidate)), None)
    manifest = None if root is None else Manifest.read(root)
    if root is None or manifest is None:
        return None
    if not manifest.finished:
        raise DatasetError(f"{root}: this dataset is unfinished; run its `dacycle dataset` command again")
    of_states = {root / name: entry for name, entry in manifest.files.items() if entry.times is not None}
    entries = {path: entry for path, entry in of_states.items() if folder in path.parents}
    for path, entry in entries.items():
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            difference = "missing" if size is None else f"{size} bytes long, not {entry.size}"
            raise DatasetError(
                f"{path} is {difference}; restore it, or delete it, and run the `dacycle dataset` command of {root} "
                "again"
            )
    return sorted(entries)


def verify_dataset(folder: Path) -> list[str]:
    """Read every file of a dataset, and return a sentence for each that is missing or damaged.

    Raises:
        DatasetError: `folder` is no dataset.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise DatasetError(f"{folder}: there is no {_NAME}, so it is no dataset made by `dacycle dataset`")
    complaints = [] if manifest.finished else [f"{folder}: unfinished"]
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            complaints.append(f"{path}: missing")
        elif digest(path) != entry.sha256:
            complaints.append(f"{path}: damaged, its SHA-256 is not the manifest's")
    return complaints
