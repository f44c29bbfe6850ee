"""Checks of an installation, and of what one experiment needs, each with a remedy."""

import hashlib
import importlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pandas as pd
from onnxruntime.datasets import get_example
from packaging.requirements import Requirement

from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cycle.inputs import Inputs, absent_files, load_inputs
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id, load_experiment
from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.models.frames import frames_text, read_frames
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import CPU, CUDA, ModelFileError, digest, open_session
from dacycle.forecast_adapter.models.runtime import gpu_present
from dacycle.forecast_adapter.worlds.relaxation import relaxation_text
from dacycle.forecast_adapter.worlds.world import WorldError, load_world
from dacycle.obs_ingest.sources.base import FileSource
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["Finding", "check_experiment", "check_installation", "check_writing"]

_WHY = {
    "fastapi": "Prefect 3.8.8 cannot be imported with a newer one",
    "sqlalchemy": "Prefect's scheduler creates no runs with 2.1, without saying so",
    "eccodes": "from 2.48 on it crashes beside pyproj",
    "eccodeslib": "from 2.48 on it crashes beside pyproj",
}
"""Reasons of bounds whose breach shows late or elsewhere."""

_GET_FILES = "mend its path, or get its files: `dacycle fetch --help`"

_SPARE = 1 << 30
"""Bytes that should stay free on the archive's disk."""


@dataclass(frozen=True)
class Finding:
    """Hold the result of one check: its subject, level, finding, and remedy."""

    subject: str
    level: Literal["ok", "warning", "wrong"]
    text: str
    remedy: str = ""


def check_installation() -> Iterator[Finding]:
    """Check Python, packages, Prefect's server and the provider that ONNX Runtime really uses."""
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield from _packages()
    yield _one_onnxruntime()
    yield _provider()
    yield _prefect()
    yield _matplotlib()


def check_experiment(path: Path, archive: Path) -> Iterator[Finding]:
    """Check an experiment file, what it names, and whether its archive can take it."""
    try:
        experiment = load_experiment(path)
        inputs = load_inputs(experiment)
    except ExperimentError as error:
        absent = list(_absent(path))
        yield from absent or [Finding("experiment", "wrong", str(error), "mend the file, or get what it names")]
        yield _disk(archive, 0)
        return
    yield Finding("experiment", "ok", f"{experiment.name}, digest {experiment.digest[:12]}")
    yield _world(experiment, inputs.world.folder, inputs.world.reference.times)
    yield _model(inputs)
    yield _frames(inputs)
    yield _assimilator(inputs)
    yield from _trained(inputs)
    yield _ledger(experiment, archive, inputs.digests)
    if experiment.late is not None:
        late = experiment.late_run()
        yield replace(_ledger(late, archive, load_inputs(late, like=inputs).digests), subject="archive, late chain")
        yield from _receipts(inputs)
    simulate = f"`dacycle simulate {path}` makes them, if they are to be simulated; else "
    yield from _sources(inputs, ("" if inputs.world.reference_kind else simulate) + _GET_FILES)
    state_bytes = 2 * CHANNEL_COUNT * int(np.prod(inputs.world.grid.shape)) * 4
    # Compressed states take about 0.9 bytes a value; departures and forecasts take about as much again.
    chains = 1.0 if experiment.late is None else 2.5  # a late chain, and the older frame of each cycle
    yield _disk(archive, 0 if experiment.end is None else int(len(experiment.times()) * chains * state_bytes / 2))


def check_writing(archive: Path) -> Iterator[Finding]:
    """Try to write where commands write: in the archive, or where it would be made, and in the working folder."""
    places = [archive, *archive.glob("*.icechunk"), *archive.glob("*.icechunk/*/"), *archive.glob("branches/**/")]
    locks = [file for place in places if (file := place / "lock").is_file()]
    yield _written("writing to the archive", [*filter(Path.is_dir, places), *locks] or [_nearest(archive)])
    yield _written("writing to the working folder", [Path.cwd()])


def _written(subject: str, places: list[Path]) -> Finding:
    """Write a file without a name into each folder, and open each file to write."""
    for place in places:
        try:
            with place.open("r+b") if place.is_file() else tempfile.TemporaryFile(dir=place) as file:
                if not place.is_file():
                    file.write(bytes(4096))
        except OSError as error:
            remedy = "change its permissions, or give another folder; what is there can be read and compared as it is"
            return Finding(subject, "wrong", f"{place} cannot be written to: {error.strerror}", remedy)
    return Finding(subject, "ok", f"{places[0].resolve()} can be written to")


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(place for place in (folder.resolve(), *folder.resolve().parents) if place.is_dir())


def _absent(path: Path) -> Iterator[Finding]:
    """Yield a finding for each thing that an experiment names and this machine lacks."""
    try:
        experiment = load_experiment(path)
    except ExperimentError:
        return
    loaders: dict[str, tuple[Callable[[], object], str]] = {
        "world": (lambda: load_world(experiment.world), "make it: `dacycle dataset`, then `dacycle world`"),
        "model": (
            lambda: load_model(experiment.model),
            "`dacycle models` lists what is here, `dacycle models add` takes a file, `dacycle train` makes one",
        ),
    }
    for subject, (load, remedy) in loaders.items():
        try:
            load()
        except (WorldError, ModelFileError) as error:
            yield Finding(subject, "wrong", str(error), remedy)
    if Path(experiment.assimilator).suffix and not Path(experiment.assimilator).is_file():
        remedy = "make it: `dacycle train` and, if it is a network, `dacycle export`; or name one of `dacycle models`"
        yield Finding("assimilator", "wrong", f"there is no {experiment.assimilator}", remedy)
    for source, sentence in absent_files(experiment).items():
        text = sentence.removeprefix(f"source {source}: ")
        yield Finding(f"source {source}", "wrong", text, _GET_FILES)


def _model(inputs: Inputs) -> Finding:
    """Name the model, what it runs on, and whether it was made for this world."""
    model = inputs.model
    text = f"{model.name}, digest {model.digest[:12]}; {getattr(model, 'running', '')}"
    if inputs.mismatch:
        return Finding("model", "warning", f"{text}; {inputs.mismatch}", "scores are not those of the model")
    return Finding("model", "ok", text)


def _frames(inputs: Inputs) -> Finding:
    """Compare the experiment's `frames` with what the model's increment test found."""
    found: dict[str, Any] | None = getattr(inputs.model, "increments", None)
    asked, name = inputs.experiment.frames, inputs.model.name
    if found is None and getattr(inputs.model, "metadata", None):
        return Finding("frames", "ok", f"{name} holds no increment test; its card says what becomes of an increment")
    if found is None:
        remedy = f"`dacycle models {name} --increment-test STATE` tries it, with two states of this world"
        return Finding("frames", "warning", f"it is not known what {name} makes of an increment", remedy)
    needed = found["frames"]
    if (asked is None) == (needed == "newest"):
        return Finding("frames", "ok", f"{needed}, as the increment test of {name} found")
    text = f"the increment test of {name} found `{needed}`, the experiment has `{frames_text(asked)}`"
    return Finding("frames", "warning", text, f"say `frames: {needed}` in the experiment")


def _trained(inputs: Inputs) -> Iterator[Finding]:
    """Yield a warning for each key in which a trained method's own cycles differed from the experiment's."""
    method = getattr(inputs.assimilator, "inner", inputs.assimilator)  # of an incremental analysis, the method itself
    training = getattr(method, "metadata", {}).get("training")
    if training is None:
        return
    experiment = inputs.experiment
    relaxation = experiment.as_dict().get("relaxation")
    keys = {
        "model": (training["model"].removesuffix(".onnx").split("/")[-1], inputs.model.name),
        "frames": (frames_text(read_frames(training.get("frames"))), frames_text(experiment.frames)),
        "relaxation": (relaxation_text(training.get("relaxation")), relaxation_text(relaxation)),
    }
    for key, (trained, asked) in keys.items():
        if asked != trained:
            text = f"{method.name} was trained in cycles with `{key}: {trained}`, the experiment has `{asked}`"
            change = f"leave out `{key}`" if trained == "none" else f"say `{key}: {trained}`"
            yield Finding(key, "warning", text, f"{change} in the experiment, or train a method in cycles like its own")


def _assimilator(inputs: Inputs) -> Finding:
    method = inputs.assimilator
    by = "" if inputs.observation_grid is method.grid else f", increments on {inputs.observation_grid.name}"
    return Finding("assimilator", "ok", f"{method.name}, digest {method.digest[:12]}{by}")


def _packages() -> Iterator[Finding]:
    for line in metadata.requires("dacycle") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        why = _WHY.get(requirement.name.lower(), "")
        remedy = f"pip install '{requirement}'" + (f" ({why})" if why else "")
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "wrong", "not installed", remedy)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        text = version if fits else f"{version}, outside {requirement.specifier}"
        yield Finding(requirement.name, "ok" if fits else "wrong", text, "" if fits else remedy)


def _one_onnxruntime() -> Finding:
    installed = {d.metadata["Name"].lower() for d in metadata.distributions() if d.metadata["Name"]}
    both = {"onnxruntime", "onnxruntime-gpu"} <= installed
    remedy = (
        "they overwrite each other's files: pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu"
    )
    text = "onnxruntime and onnxruntime-gpu are both installed" if both else "one build of ONNX Runtime"
    return Finding("ONNX Runtime", "wrong" if both else "ok", text, remedy if both else "")


def _provider() -> Finding:
    """Name the provider that a real session runs on: ONNX Runtime falls back to the CPU without an error."""
    device = gpu_present()
    try:
        session = open_session(get_example("sigmoid.onnx"), provider=CUDA if device else CPU)
    except ModelFileError as error:
        text = f"there is a GPU, but a session does not run on it: {error}"
        return Finding("provider", "warning", text, "install the CUDA and cuDNN libraries that this ONNX Runtime needs")
    values = np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    (result,) = session.run(None, {session.get_inputs()[0].name: values})
    right = np.allclose(result, 1 / (1 + np.exp(-values)), atol=1e-6)
    text = f"{session.get_providers()[0]} of ONNX Runtime {onnxruntime.__version__}" + (
        "" if device else "; no GPU found"
    )
    return Finding(
        "provider", "ok" if right else "wrong", text, "" if right else "it computes wrong numbers: reinstall"
    )


def _prefect() -> Finding:
    try:
        importlib.import_module("prefect.server.api.server")
    except (ImportError, TypeError) as error:
        remedy = "bring the packages above within their bounds; `dacycle serve` and `hindcast` run without Prefect"
        return Finding("Prefect's server", "wrong", f"it cannot be imported: {error}", remedy)
    return Finding("Prefect's server", "ok", "can be imported")


def _matplotlib() -> Finding:
    """Check that `import cycler` gives matplotlib's dependency: another package of that name breaks every plot."""
    module = importlib.import_module("cycler")
    file = getattr(module, "__file__", None)
    if hasattr(module, "Cycler"):
        return Finding("imports", "ok", "matplotlib's own cycler is in place")
    remedy = "remove that package or folder from sys.path (PYTHONPATH); ours is imported as dacycle.cycler"
    return Finding("imports", "wrong", f"`import cycler` gives {file}, which is not matplotlib's", remedy)


def _world(experiment: Experiment, folder: Path, times: np.ndarray) -> Finding:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = "".join(f"{path.relative_to(folder)} {digest(path)}\n" for path in files)
    short = hashlib.sha256(digests.encode()).hexdigest()[:12]
    first, last = pd.Timestamp(times[0]), pd.Timestamp(times[-1])
    text = f"{experiment.world}, {len(files)} files, digest {short}, reference {cycle_id(first)} to {cycle_id(last)}"
    if experiment.end is not None and experiment.end > last:
        remedy = "later cycles are not verified, and nothing can be drawn from it for them"
        return Finding("world", "warning", f"{text}; the experiment ends {cycle_id(experiment.end)}", remedy)
    return Finding("world", "ok", text)


def _sources(inputs: Inputs, remedy: str) -> Iterator[Finding]:
    """Check whether the files of each source can be read for the first cycle; `remedy` is for those that cannot."""
    window = np.datetime64(inputs.experiment.start, "h")
    for source in inputs.sources:
        if not isinstance(source, FileSource):
            continue
        subject = f"source {source.name}"
        try:
            table, inventory = source.read(Window(window, source.cutoff))
        except ObservationError as error:
            text = str(error).removeprefix(f"{subject}: ")
            yield Finding(subject, "wrong", text, remedy)
            continue
        text = f"{len(table)} values from {len(inventory.files)} files for {cycle_id(inputs.experiment.start)}"
        if inventory.unreadable:
            which = "remove or mend them: " + "; ".join(inventory.problems[: inventory.unreadable])
            yield Finding(subject, "warning", f"{text}; unreadable files: {inventory.unreadable}", which)
        else:
            yield Finding(subject, "ok", text)


def _receipts(inputs: Inputs) -> Iterator[Finding]:
    """Warn of sources whose values do not say when they were received: a late chain then waits in vain for them."""
    window = np.datetime64(inputs.experiment.start, "h")
    for source in inputs.sources:
        if source.cutoff is None or not isinstance(source, FileSource):
            continue
        try:
            table, inventory = source.read(Window(window, source.cutoff))
        except ObservationError:
            continue  # it is said elsewhere
        if len(table) and inventory.latency is None:
            yield Finding(
                f"source {source.name}, late chain", "warning",
                "its values do not say when they were received, so that none is late: a replay gives early cycles what "
                "came after their cutoff",
                "give the source a `latency`, or `received: mtime`",
            )  # fmt: skip


def _ledger(experiment: Experiment, folder: Path, digests: dict[str, str]) -> Finding:
    """Check that the archive holds this very experiment, run with these very files."""
    if not (folder / "states.icechunk").is_dir():
        return Finding("archive", "ok", f"{folder} is not there yet")
    archive = Archive(folder)
    if experiment.name not in archive.branches():
        return Finding("archive", "ok", f"{folder} does not hold {experiment.name} yet")
    branch = archive.branch(experiment.name)
    try:
        records = branch.records
    except ArchiveError as error:
        return Finding("archive", "wrong", str(error), "restore the archive from a copy")
    if not records:
        return Finding("archive", "ok", f"{folder}: {experiment.name} has not begun")
    last = records[-1]
    begun = last.time >= experiment.start - 2 * STEP  # else it is the past that a fork shares
    changed = [key for key, value in digests.items() if begun and last.digests.get(key, value) != value]
    if changed:
        text = f"{', '.join(changed)}: not as at cycle {last.id}"
        return Finding("archive", "wrong", text, "put the old files back, or `dacycle fork` the experiment")
    return Finding("archive", "ok", f"{experiment.name} stands at {last.id}")


def _disk(archive: Path, needed: int) -> Finding:
    existing = _nearest(archive)
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.1f} GB free at {existing}, about {needed / 1e9:.2f} GB needed"
    if free < needed + _SPARE:
        return Finding("disk", "wrong", text, "make room, or give --archive on another disk")
    return Finding("disk", "ok", text)
