"""Networks that a user has brought: FengWu's weights above all, known by a name and checked whenever they are used.

A network's file stays where it is and as it is, because it may have gigabytes. `$DACYCLE_HOME/models/NAME/` describes
it:

* model.yaml: where it is, the SHA-256 of all its files, its grid, and the kind of states it was made for
* statistics.nc: the statistics that normalise its frames
* card.md: the same for people, with the licence
* increments.json: what `dacycle models NAME --increment-test` found, once it has been run
"""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dacycle.common.configuration import Strict, read_checked, write_yaml
from dacycle.common.files import whole, write_whole
from dacycle.common.foreign import reading
from dacycle.common.settings import read_settings
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES
from dacycle.forecast_adapter.grid import Grid, GridError, get_grid, grid_of_shape
from dacycle.forecast_adapter.models.contract import Signature, read_signature
from dacycle.forecast_adapter.models.fengwu import LICENCE, RELEASES, published_statistics
from dacycle.forecast_adapter.models.onnxfile import ModelFileError, digest, open_session
from dacycle.forecast_adapter.models.weights import weight_files
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["DOUBLE", "Registration", "add", "read_npy_statistics", "registered", "registered_models"]

_COPY = "network"
"""Folder of a copy, in the folder of its description."""
DOUBLE = "dacycle_double"
"""Key of an ONNX file's metadata which says that the file stands in for a forecast model and has no skill."""


class FileMark(Strict):
    """The state of a file when it was added: SHA-256, size in bytes and time of change in ns."""

    sha256: str
    bytes: int
    changed: int


class Description(Strict):
    """The content of model.yaml.

    Attributes:
        name: what experiments call the model.
        network: its ONNX file; a relative path is relative to the folder of model.yaml.
        grid: the name of its grid.
        world: the world, or kind of reference, that it was made for.
        batch: 1 where a call takes one state, None where it takes any number.
        double: whether it only stands in for a forecast model.
        files: by name, the ONNX file and the files beside it that hold its weights.
    """

    name: str
    network: Path
    grid: str
    world: str
    batch: Literal[1] | None
    double: bool
    files: dict[str, FileMark]


@dataclass(frozen=True)
class Registration:
    """A network that was added.

    Attributes:
        name, grid, world, batch, double, files: see `Description`.
        network: the absolute path of its ONNX file.
        statistics: those that normalise its frames.
        folder: the folder of its description.
    """

    name: str
    network: Path
    files: dict[str, FileMark]
    grid: str
    world: str
    batch: int | None
    double: bool
    statistics: Statistics
    folder: Path

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of its files and its statistics: a forecast depends on all of them."""
        file_digests = sorted(mark.sha256 for mark in self.files.values())
        numbers = self.statistics.mean.tobytes() + self.statistics.std.tobytes()
        return hashlib.sha256(" ".join(file_digests).encode() + numbers).hexdigest()

    @property
    def card(self) -> Path:
        """The file for people."""
        return self.folder / "card.md"

    @property
    def increments(self) -> dict[str, Any] | None:
        """What the increment test found; None where it has not been run, or with another file of the network."""
        path = self.folder / "increments.json"
        if not path.is_file():
            return None
        with reading(f"{path}: run `dacycle models {self.name} --increment-test STATE` again", ModelFileError):
            found: dict[str, Any] = json.loads(path.read_bytes())
        return found if found["digest"] == self.digest else None

    def keep_increments(self, found: dict[str, Any]) -> None:
        """Keep what the increment test found beside the description."""
        content = json.dumps({"digest": self.digest, **found}, indent=1)
        write_whole(self.folder / "increments.json", content.encode())

    @property
    def size(self) -> int:
        """Bytes of the network with its weights."""
        return sum(mark.bytes for mark in self.files.values())

    def complaint(self, read_all: bool = False) -> str:
        """Return what is wrong with its files; empty if they are as they were added.

        Args:
            read_all: whether to read every file; else only those whose size or time of change differs are read.
        """
        for name, mark in self.files.items():
            path = self.network.parent / name
            if not path.is_file():
                return f"{path} is not there; put it back, or add it again with `dacycle models add {self.name} FILE`"
            status = path.stat()
            unchanged = (status.st_size, status.st_mtime_ns) == (mark.bytes, mark.changed)
            if (read_all or not unchanged) and digest(path) != mark.sha256:
                return f"{path} is not the file that was added; put that one back, or add this one under another name"
        if unknown := [name for name in weight_files(self.network) if name not in self.files]:
            again = f"add it again with `dacycle models add {self.name} {self.network}`"
            return f"its weights in {', '.join(unknown)} were not recorded when it was added; {again}"
        return ""


def add(
    name: str,
    network: Path,
    statistics: Statistics | None = None,
    *,
    world: str | None = None,
    grid: str | None = None,
    copy: bool = False,
) -> Registration:
    """Check a network with FengWu's contract and register it as `name`, in place of any of that name.

    Args:
        name: one of FengWu's releases, or a name of one's own.
        network: its ONNX file, with the files of its weights beside it.
        statistics: those that normalise its frames; None: FengWu's as published.
        world: the world or kind of reference that it was made for; that of a release is known.
        grid: its grid, where the file leaves it open.
        copy: keep a copy, instead of the path.

    Raises:
        ModelFileError: the file is not such a network, or its world or grid is not known; names the remedy.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ModelFileError(f"{name!r} is no name; it may have letters, digits, dots, hyphens and underscores")
    release, network = RELEASES.get(name), network.resolve()
    signature, double = _inspect(network)
    if double and release is not None:
        raise ModelFileError(f"{network}: is a double without skill, not {name}; give it another name")
    world = _made_for(name, world)
    network_grid = _grid(network, signature, grid or (release.grid if release else None))
    statistics = _statistics(name, statistics, world)
    with whole(_models_folder() / name) as folder:
        folder.mkdir()
        files = [network.name, *weight_files(network)]
        if copy:
            for file in files:
                (folder / _COPY / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(network.parent / file, folder / _COPY / file)
            network = folder / _COPY / network.name
        statistics.save(folder / "statistics.nc")
        description = {
            "name": name,
            "network": f"{_COPY}/{network.name}" if copy else str(network),
            "grid": network_grid.name,
            "world": world,
            "batch": signature.batch,
            "double": double,
            "files": {file: _mark(network.parent / file).model_dump() for file in files},
        }
        (folder / "model.yaml").write_text(write_yaml(description), encoding="utf-8")
        registration = _read(folder)
        registration.card.write_text(_card(registration), encoding="utf-8")
    return registered(name)


def registered_models() -> dict[str, Registration]:
    """Return the networks that were added, by name.

    Raises:
        ModelFileError: the description of one cannot be read.
    """
    return {file.parent.name: _read(file.parent) for file in sorted(_models_folder().glob("[!.]*/model.yaml"))}


def registered(name: str) -> Registration:
    """Return the network that was added under a name.

    Raises:
        ModelFileError: none was added under that name; says how to get it, if it is one of FengWu's.
    """
    folder = _models_folder() / name
    if (folder / "model.yaml").is_file():
        return _read(folder)
    release = RELEASES.get(name)
    how = release.how_to_get() if release else f"`dacycle models add {name} FILE` adds one"
    raise ModelFileError(f"model {name} is not on this machine: {how}")


def read_npy_statistics(mean: Path, std: Path) -> Statistics:
    """Read statistics from two numpy files of 69 values in the channels' order, as FengWu's are published.

    Raises:
        ModelFileError: a file cannot be read, has another shape, or values that are not finite or not above 0.
    """
    arrays = []
    for path in (mean, std):
        with reading(f"{path}: a numpy file is expected", ModelFileError):
            values = np.load(path, allow_pickle=False)
        if values.shape != (CHANNEL_COUNT,) or not np.issubdtype(values.dtype, np.floating):
            raise ModelFileError(
                f"{path}: is {values.dtype} {values.shape}, but must be {CHANNEL_COUNT} floating-point values"
            )
        arrays.append(values.astype(np.float32))
    try:
        return Statistics(arrays[0], arrays[1], "", f"{mean.name}, {std.name}")
    except ValueError as error:
        raise ModelFileError(f"{mean}, {std}: {error}") from error


def _models_folder() -> Path:
    return read_settings().home / "models"


def _read(folder: Path) -> Registration:
    """Read the description of a network."""
    remedy = f"mend it, or remove {folder} and add the model again"
    try:
        described = read_checked(folder / "model.yaml", Description, "a model's description", ModelFileError)
        with reading(folder / "statistics.nc", ModelFileError):
            statistics = Statistics.load(folder / "statistics.nc")
    except ModelFileError as error:
        raise ModelFileError(f"{error}\n{remedy}") from None
    return Registration(
        described.name,
        folder / described.network,  # an absolute path stays as it is
        described.files,
        described.grid,
        described.world,
        described.batch,
        described.double,
        statistics,
        folder,
    )


def _mark(path: Path) -> FileMark:
    status = path.stat()
    return FileMark(sha256=digest(path), bytes=status.st_size, changed=status.st_mtime_ns)


def _inspect(network: Path) -> tuple[Signature, bool]:
    """Return a network's signature, and whether its metadata say that it is a double."""
    session = open_session(network, lean=True)
    metadata = session.get_modelmeta().custom_metadata_map
    if "dacycle" in metadata:
        raise ModelFileError(f"{network}: takes physical states already; an experiment's `model:` takes its path")
    return read_signature(network, session), DOUBLE in metadata


def _made_for(name: str, world: str | None) -> str:
    """Return the world or kind of reference that a network was made for."""
    release = RELEASES.get(name)
    if release is None:
        if world is None:
            raise ModelFileError(
                f"{name}: say what states it was made for: `--for era5`, `--for operational`, or a world"
            )
        return world
    if world not in (None, release.made_for):
        raise ModelFileError(f"{name} was made for {release.made_for}, not for {world}; leave `--for` out")
    return release.made_for


def _statistics(name: str, given: Statistics | None, world: str) -> Statistics:
    """Return the statistics given, or the published ones; a release takes no others than the published ones."""
    published = published_statistics()
    if given is not None and name in RELEASES and (difference := _difference(given, published)):
        raise ModelFileError(f"{name}: {difference}; leave --mean and --std out to use the published ones")
    return replace(given or published, world=world)


def _grid(path: Path, signature: Signature, name: str | None) -> Grid:
    """Return the grid of a network: the one named, else the one that its tensors fix."""
    rows, columns = signature.shape
    try:
        grid = get_grid(name) if name else grid_of_shape((rows, columns)) if rows and columns else None
    except GridError as error:
        raise ModelFileError(f"{path}: {error}") from error
    if grid is None:
        raise ModelFileError(f"{path}: runs on any grid; say on which with `--grid`, e.g. `--grid 0.25deg`")
    if not signature.fits(grid):
        raise ModelFileError(
            f"{path}: has {rows} x {columns} points, but {grid.name} has {grid.shape[0]} x {grid.shape[1]}"
        )
    return grid


def _difference(statistics: Statistics, published: Statistics) -> str:
    """Return which channels' statistics are not FengWu's; empty if all are."""
    same = [np.isclose(getattr(statistics, k), getattr(published, k), rtol=1e-5, atol=0) for k in ("mean", "std")]
    names = [name for name, agrees in zip(NAMES, np.logical_and(*same), strict=True) if not agrees]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"these statistics are not the published ones in {listed}" if names else ""


def _card(registration: Registration) -> str:
    """Return the text of card.md."""
    release = RELEASES.get(registration.name)
    lines = [f"# {registration.name}", ""]
    if registration.double:
        lines += ["**A double: it has FengWu's contract and size, and no skill. For tests and measurements only.**", ""]
    if release is not None:
        lines += [release.about, "", f"- licence of the weights: {LICENCE}", f"- from {release.where}"]
    batch = "one state a call" if registration.batch == 1 else "any number of states a call"
    copied = registration.network.is_relative_to(registration.folder)
    lines += [
        f"- made for: {registration.world}; an experiment in a world of another reference is refused",
        f"- grid: {registration.grid}; {batch}; {registration.size / 1e9:.2f} GB",
        f"- normalisation: {registration.statistics.description}",
        f"- digest: `{registration.digest}`",
        f"- file: {'a copy in the folder of this card' if copied else registration.network}",
    ]
    lines += [f"- sha256 of {name}: `{mark.sha256}`" for name, mark in registration.files.items()]
    return "\n".join(lines) + "\n"
