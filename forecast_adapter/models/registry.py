"""Networks that a user has brought: FengWu's weights above all, known by a name and checked whenever they are used.

A file is left where it is and as it is, because it may have gigabytes. `$DACYCLE_HOME/models/NAME/` holds what must be
known of it:

* model.yaml: where it is, the SHA-256 of all its files, its grid, and what states it was made for
* statistics.nc: by which its frames are normalised
* card.md: the same for people, with the licence
"""

import hashlib
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dacycle.forecast_adapter.channels import CHANNEL_COUNT, NAMES
from dacycle.forecast_adapter.grid import Grid, GridError, get_grid, grid_of_shape
from dacycle.forecast_adapter.home import dacycle_home
from dacycle.forecast_adapter.models.contract import Signature, read_signature
from dacycle.forecast_adapter.models.fengwu import LICENCE, RELEASES, published_statistics
from dacycle.forecast_adapter.models.onnxfile import ModelFileError, digest, open_session
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["DOUBLE", "Registration", "add", "read_npy_statistics", "registered", "registered_models"]

DOUBLE = "dacycle_double"
"""Key of an ONNX file's metadata that says it stands in for a forecast model, and is none."""


@dataclass(frozen=True)
class Registration:
    """A network that was added.

    Attributes:
        name: what experiments call it.
        network: its ONNX file.
        files: SHA-256, bytes and time of change (ns) of that file and of those that hold its weights.
        grid, world: its grid; the world, or kind of reference, that it was made for.
        batch: 1 where a call takes one state, None where it takes any number.
        double: whether it only stands in for a forecast model.
        statistics: of its normalisation.
        folder: where all this stands.
    """

    name: str
    network: Path
    files: dict[str, dict[str, Any]]
    grid: str
    world: str
    batch: int | None
    double: bool
    statistics: Statistics
    folder: Path

    @property
    def digest(self) -> str:
        """SHA-256 over those of its files and its statistics: a forecast depends on all of them."""
        parts = sorted(about["sha256"] for about in self.files.values())
        numbers = self.statistics.mean.tobytes() + self.statistics.std.tobytes()
        return hashlib.sha256(" ".join(parts).encode() + numbers).hexdigest()

    @property
    def card(self) -> Path:
        """The file for people."""
        return self.folder / "card.md"

    @property
    def size(self) -> int:
        """Bytes of the network with its weights."""
        return sum(about["bytes"] for about in self.files.values())

    def complaint(self, whole: bool = False) -> str:
        """What is wrong with its files; empty if they are as they were added.

        whole: read them; else only those whose size or time of change is another one.
        """
        for name, about in self.files.items():
            path = self.network.parent / name
            if not path.is_file():
                return f"{path} is not there; put it back, or add it again with `dacycle models add {self.name} FILE`"
            found = _mark(path)
            unchanged = all(found[key] == about[key] for key in ("bytes", "changed"))
            if (whole or not unchanged) and digest(path) != about["sha256"]:
                return f"{path} is not the file that was added; put that one back, or add this one under another name"
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
    """Check a network with FengWu's contract and make it known as `name`, in place of any of that name.

    Args:
        name: one of FengWu's releases, or a name of one's own.
        network: its ONNX file, with the files of its weights beside it.
        statistics: of its normalisation; None: FengWu's as published.
        world: the world or kind of reference that it was made for; a release's is known.
        grid: where the file leaves it open.
        copy: keep a copy, instead of the path.

    Raises:
        ModelFileError: the file is not such a network, or something of it is not known; says what, and what to do.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ModelFileError(f"{name!r} is no name; it may have letters, digits, dots, hyphens and underscores")
    release, network = RELEASES.get(name), network.resolve()
    signature, double = _inspect(network)
    if double and release is not None:
        raise ModelFileError(f"{network}: is a double without skill, not {name}; give it another name")
    world = _made_for(name, world)
    own = _grid(network, signature, grid or (release.grid if release else None))
    statistics = _statistics(name, statistics, world)
    with _staged(name) as staged:
        if copy:
            for file in _files(network):
                shutil.copy2(network.parent / file, staged)
            network = staged / network.name
        files = {
            file: {"sha256": digest(network.parent / file), **_mark(network.parent / file)} for file in _files(network)
        }
        statistics.save(staged / "statistics.nc")
        about = {
            "name": name,
            "network": network.name if copy else str(network),
            "grid": own.name,
            "world": world,
            "batch": signature.batch,
            "double": double,
            "files": files,
        }
        (staged / "model.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
        made = _read(staged)
        made.card.write_text(_card(made))
    return registered(name)


def registered_models() -> dict[str, Registration]:
    """What was added, by name. ModelFileError where its description cannot be read."""
    return {folder.parent.name: _read(folder.parent) for folder in sorted(_home().glob("[!.]*/model.yaml"))}


def registered(name: str) -> Registration:
    """One of them.

    Raises:
        ModelFileError: none has been added under that name; says how to get it, if it is one of FengWu's.
    """
    folder = _home() / name
    if (folder / "model.yaml").is_file():
        return _read(folder)
    known = RELEASES.get(name)
    how = known.how_to_get() if known else f"`dacycle models add {name} FILE` adds one"
    raise ModelFileError(f"model {name} is not on this machine: {how}")


def read_npy_statistics(mean: Path, std: Path) -> Statistics:
    """Statistics from two numpy files of 69 values in the channels' order, as FengWu's are published.

    Raises:
        ModelFileError: a file cannot be read, has another shape, or values that are not finite or not above 0.
    """
    found = []
    for path in (mean, std):
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path}: cannot be read as a numpy file: {error}") from error
        if values.shape != (CHANNEL_COUNT,) or not np.issubdtype(values.dtype, np.floating):
            raise ModelFileError(
                f"{path}: is {values.dtype} {values.shape}, but must be {CHANNEL_COUNT} floating-point values"
            )
        found.append(values.astype(np.float32))
    try:
        return Statistics(found[0], found[1], "", f"{mean.name}, {std.name}")
    except ValueError as error:
        raise ModelFileError(f"{mean}, {std}: {error}") from error


def _home() -> Path:
    return dacycle_home() / "models"


@contextmanager
def _staged(name: str) -> Iterator[Path]:
    """A folder that takes its place under a name only when everything in it is written."""
    _home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=_home()) as place:
        folder = Path(place) / name
        folder.mkdir()
        yield folder
        shutil.rmtree(_home() / name, ignore_errors=True)
        os.replace(folder, _home() / name)


def _read(folder: Path) -> Registration:
    try:
        about = yaml.safe_load((folder / "model.yaml").read_text())
        about["network"] = folder / about["network"]  # an absolute path stays as it is
        return Registration(**about, statistics=Statistics.load(folder / "statistics.nc"), folder=folder)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ModelFileError(f"{folder}: cannot be read ({error}); remove it and add the model again") from error


def _mark(path: Path) -> dict[str, int]:
    found = path.stat()
    return {"bytes": found.st_size, "changed": found.st_mtime_ns}


def _files(network: Path) -> list[str]:
    """Names of the network's file and of those beside it that it names: more than 2 GB of weights are kept apart."""
    beside = [
        path.name for path in network.parent.iterdir() if path.is_file() and path != network and len(path.name) > 4
    ]
    if not beside:
        return [network.name]
    with open(network, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        named = {
            match.decode() for match in re.findall(b"|".join(re.escape(name.encode()) for name in beside), content)
        }
    return [network.name, *sorted(named)]


def _inspect(network: Path) -> tuple[Signature, bool]:
    """A network's signature, and whether it says that it is a double."""
    session = open_session(network, lean=True)
    described = session.get_modelmeta().custom_metadata_map
    if "dacycle" in described:
        raise ModelFileError(f"{network}: takes physical states already; an experiment's `model:` takes its path")
    return read_signature(network, session), DOUBLE in described


def _made_for(name: str, world: str | None) -> str:
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
    """Those given, if a release's are the published ones; else these."""
    published = published_statistics()
    if given is not None and name in RELEASES and (apart := _apart(given, published)):
        raise ModelFileError(f"{name}: {apart}; leave --mean and --std out to use the published ones")
    return replace(given or published, world=world)


def _grid(path: Path, signature: Signature, asked: str | None) -> Grid:
    rows, columns = signature.shape
    try:
        grid = get_grid(asked) if asked else grid_of_shape((rows, columns)) if rows and columns else None
    except GridError as error:
        raise ModelFileError(f"{path}: {error}") from error
    if grid is None:
        raise ModelFileError(f"{path}: runs on any grid; say on which with `--grid`, e.g. `--grid 0.25deg`")
    if not signature.fits(grid):
        raise ModelFileError(
            f"{path}: has {rows} x {columns} points, but {grid.name} has {grid.shape[0]} x {grid.shape[1]}"
        )
    return grid


def _apart(statistics: Statistics, published: Statistics) -> str:
    """In how many channels statistics are not FengWu's; empty if they are."""
    same = [np.isclose(getattr(statistics, k), getattr(published, k), rtol=1e-5, atol=0) for k in ("mean", "std")]
    names = [name for name, agrees in zip(NAMES, np.logical_and(*same), strict=True) if not agrees]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"these statistics are not the published ones in {listed}" if names else ""


def _card(made: Registration) -> str:
    release = RELEASES.get(made.name)
    lines = [f"# {made.name}", ""]
    if made.double:
        lines += ["**A double: it has FengWu's contract and size, and no skill. For tests and measurements only.**", ""]
    if release is not None:
        lines += [release.about, "", f"- licence of the weights: {LICENCE}", f"- from {release.where}"]
    batch = "one state a call" if made.batch == 1 else "any number of states a call"
    lines += [
        f"- made for: {made.world}; an experiment in a world of another reference is refused",
        f"- grid: {made.grid}; {batch}; {made.size / 1e9:.2f} GB",
        f"- normalisation: {made.statistics.description}",
        f"- digest: `{made.digest}`",
    ]
    kept = "a copy beside this card" if made.network.parent == made.folder else str(made.network)
    lines += [f"- file: {kept}"]
    lines += [f"- sha256 of {name}: `{about['sha256']}`" for name, about in made.files.items()]
    return "\n".join(lines) + "\n"
