"""ONNX files with dacycle's metadata: written whole, checked whole, run by ONNX Runtime.

The metadata are one JSON document under the key `dacycle`. A second key, `dacycle_sha256`, holds the SHA-256 of the
graph's bytes followed by that document, so that a file damaged anywhere is refused before it is run: protobuf and
ONNX Runtime themselves accept a flipped bit in a weight. Both stand at the end of the file, behind the graph (a
protobuf message may be continued by another), so that checking needs nothing beyond the bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from dacycle.common.errors import DacycleError
from dacycle.common.files import write_whole

__all__ = [
    "CPU",
    "CUDA",
    "ORT_ERRORS",
    "TENSORRT",
    "ModelFileError",
    "digest",
    "open_session",
    "read_metadata",
    "write_metadata",
]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
# ONNX Runtime's errors have no base class of their own below Exception, and those of IO binding are RuntimeErrors.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(k for k in vars(onnxruntime_pybind11_state).values() if isinstance(k, type) and issubclass(k, Exception)),
)
_DOCUMENT, _CHECK, _LENGTH = "dacycle", "dacycle_sha256", "dacycle_graph_bytes"


class ModelFileError(DacycleError, ValueError):
    """A model file is missing, damaged, or not what it has to be; names the file and what differs."""


def digest(path: Path | str) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(
    path: Path | str,
    threads: int = 1,
    provider: str = CPU,
    provider_options: dict[str, Any] | None = None,
    lean: bool = False,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Open an ONNX file with a fixed number of threads, which makes its results repeatable.

    Args:
        path: the file; external data are found beside it.
        threads: on the CPU.
        provider: what it must run on.
        provider_options: of that provider.
        lean: give memory back between calls instead of keeping it for the next one.
        profile: beginning of the path to which ONNX Runtime writes what it did; None: nowhere.

    Raises:
        ModelFileError: there is no such file, it is not ONNX, its checksum is wrong, or ONNX Runtime would run it on
            another provider than asked for (it falls back to the CPU without an error).
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what goes wrong is raised below
    if lean:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if provider not in ort.get_available_providers():
        known = ", ".join(ort.get_available_providers())
        raise ModelFileError(f"{path}: this ONNX Runtime has no {provider}; it has {known}")
    if provider != CPU:
        ort.preload_dlls()  # CUDA's libraries where PyTorch or NVIDIA's own packages have brought them
    chosen = list(dict.fromkeys([provider, *([CUDA] if provider == TENSORRT else []), CPU]))
    given = [provider_options or {}, *({} for _ in chosen[1:])]
    try:
        session = ort.InferenceSession(str(path), options, providers=chosen, provider_options=given)
    except ORT_ERRORS as error:
        raise ModelFileError(f"{path}: damaged or not ONNX, ONNX Runtime cannot read it: {error}") from error
    if session.get_providers()[0] != provider:
        raise ModelFileError(
            f"{path}: asked for {provider}, but ONNX Runtime chose {session.get_providers()[0]}: the libraries that "
            f"{provider} needs cannot be loaded"
        )
    _check_whole(path, session)
    return session


def read_metadata(source: Path | str | ort.InferenceSession) -> dict[str, Any]:
    """The metadata of a file or of an open session. ModelFileError where it has none."""
    session = source if isinstance(source, ort.InferenceSession) else open_session(source)
    name = "the open session" if isinstance(source, ort.InferenceSession) else source
    stored = session.get_modelmeta().custom_metadata_map
    if _DOCUMENT not in stored:
        raise ModelFileError(
            f"{name}: no `dacycle` metadata (name, grid, world, channels); write them with "
            "dacycle.forecast_adapter.models.onnxfile.write_metadata, or export the network with `dacycle export`"
        )
    return dict(json.loads(stored[_DOCUMENT]))


def write_metadata(path: Path | str, metadata: dict[str, Any]) -> None:
    """Give an ONNX file its metadata and checksum, in place of any it had; the file is replaced in one move.

    Needs the `onnx` package (`pip install "dacycle[train]"`).
    """
    import onnx

    path = Path(path)
    model = onnx.load(str(path))
    others = [entry for entry in model.metadata_props if not entry.key.startswith(_DOCUMENT)]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    graph = model.SerializeToString(deterministic=True)
    document = json.dumps(metadata)  # in the order given: that of `planes` is the order of the tensors
    check = hashlib.sha256(graph + document.encode()).hexdigest()
    tail = onnx.ModelProto()
    for key, value in ((_DOCUMENT, document), (_CHECK, check), (_LENGTH, str(len(graph)))):
        tail.metadata_props.add(key=key, value=value)
    write_whole(path, graph + tail.SerializeToString(deterministic=True))


def _check_whole(path: Path, session: ort.InferenceSession) -> None:
    """Compare the checksum, where the file has one."""
    stored = session.get_modelmeta().custom_metadata_map
    if _DOCUMENT not in stored:
        return
    missing = [key for key in (_CHECK, _LENGTH) if key not in stored]
    if missing:
        raise ModelFileError(f"{path}: its metadata have lost {', '.join(missing)}; get the file anew")
    length = stored[_LENGTH]
    graph = path.read_bytes()[: int(length)] if length.isdecimal() else b""
    if hashlib.sha256(graph + stored[_DOCUMENT].encode()).hexdigest() != stored[_CHECK]:
        raise ModelFileError(f"{path}: its checksum is wrong, the file is damaged or was changed; get it anew")
