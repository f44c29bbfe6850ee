"""The manifest of a dataset: where it is from, which files belong to it, and the SHA-256 of each.

A file belongs to a dataset once its manifest says so, and is never written again: what a reader sees is whole at any
time, also while the dataset is being extended. Until everything that was first asked for is there it is unfinished.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.models.onnxfile import digest

__all__ = ["DatasetError", "Entry", "Manifest", "dataset_files", "is_dataset", "verify_dataset"]

_NAME = "manifest.json"


class DatasetError(DacycleError, LookupError):
    """A dataset is unfinished, damaged or another one; names the folder, the file and the remedy."""


@dataclass(frozen=True)
class Entry:
    """A file of a dataset: its SHA-256 and size, and the first, last and number of its times (none: no states)."""

    sha256: str
    size: int
    times: Sequence[str | int] | None = None

    @classmethod
    def of(cls, path: Path, times: Sequence[str | int] | None = None) -> "Entry":
        """The entry of a file as it is on disk."""
        return cls(digest(path), path.stat().st_size, times)


@dataclass
class Manifest:
    """What `dacycle dataset` made.

    Attributes:
        source: the product that the states are from.
        grid: the name of theirs.
        finished: whether all that was first asked for is there.
        notes: how states came to be: regridding, what was derived, fields and times left out.
        files: by path within the folder.
    """

    source: str
    grid: str
    finished: bool = False
    notes: list[str] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder, None where it has none. DatasetError for one that cannot be read."""
        path = folder / _NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text())
            return cls(files={name: Entry(**entry) for name, entry in content.pop("files").items()}, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatasetError(f"{path} is damaged ({error}); make the dataset anew in another folder") from None

    def write(self, folder: Path) -> None:
        """Put it in its folder, whole or not at all."""
        part = folder / f".{_NAME}.part"
        part.write_text(json.dumps(asdict(self), indent=1))
        part.replace(folder / _NAME)

    def note(self, text: str) -> None:
        """Add a note that is not there yet."""
        if text not in self.notes:
            self.notes.append(text)


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset, finished or not."""
    return (folder / _NAME).is_file()


def dataset_files(folder: Path) -> list[Path] | None:
    """The files of states in a dataset, or in one of its years; None where `folder` is no dataset.

    Raises:
        DatasetError: the dataset is unfinished, or a file is missing or has another size than its manifest says.
    """
    home = next((place for place in (folder, folder.parent) if is_dataset(place)), None)
    manifest = None if home is None else Manifest.read(home)
    if home is None or manifest is None:
        return None
    if not manifest.finished:
        raise DatasetError(f"{home}: this dataset is unfinished; run its `dacycle dataset` command again")
    held = {home / name: entry for name, entry in manifest.files.items() if entry.times is not None}
    mine = {path: entry for path, entry in held.items() if folder in path.parents}
    for path, entry in mine.items():
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            found = "missing" if size is None else f"{size} bytes long, not {entry.size}"
            raise DatasetError(
                f"{path} is {found}; restore it, or delete it, and run the `dacycle dataset` command of {home} again"
            )
    return sorted(mine)


def verify_dataset(folder: Path) -> list[str]:
    """Read every file of a dataset; a sentence for each that is not the one that was written.

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
