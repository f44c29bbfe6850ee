"""ONNX files with dacycle's metadata: written whole, checked by checksum, run by ONNX Runtime.

The metadata are one JSON document under the key `dacycle`. A second key, `dacycle_sha256`, holds the SHA-256 of the
graph's bytes followed by that document, and by the digests of weights in files of their own. A file with damage
anywhere is therefore refused before it is run; protobuf and ONNX Runtime accept a flipped bit in a weight. Both keys
are at the end of the file, behind the graph (one protobuf message may continue another), so that the check needs only
the bytes.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.grid import GridError, get_grid
from dacycle.forecast_adapter.models.weights import ModelFileError, weight_files

__all__ = [
    "CPU",
    "CUDA",
    "ORT_ERRORS",
    "TENSORRT",
    "ModelFileError",
    "OnnxFile",
    "digest",
    "has_metadata",
    "open_session",
    "read_metadata",
    "write_metadata",
]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
# ONNX Runtime's errors have no base class of their own below Exception, those of IO binding are RuntimeErrors, and one
# whose message quotes a damaged name is an error of decoding that.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    UnicodeDecodeError,
    *(k for k in vars(onnxruntime_pybind11_state).values() if isinstance(k, type) and issubclass(k, Exception)),
)
_LARGEST = 2_000_000_000
"""Bytes of an ONNX file with its weights in it; protobuf ends at 2 GiB."""
_DOCUMENT, _CHECK, _LENGTH = "dacycle", "dacycle_sha256", "dacycle_graph_bytes"


class OnnxFile:
    """An open network whose metadata have been checked; forecast models, assimilators and operators are built on it.

    Args:
        path: the file.
        session: the open network.
        template: metadata of the same kind: the file must have all its keys.
        fixed: those keys whose values must be the template's. The key `kind` is checked first.
        remedy: for messages, how a file without metadata gets them.

    Attributes:
        path, session: as given.
        metadata: all metadata of the file.
        name, world: from the metadata.
        grid: the grid that the metadata name.
        digest: SHA-256 of the file.

    Raises:
        ModelFileError: a key is missing, or a value is another one or of another kind.
    """

    def __init__(
        self,
        path: Path | str,
        session: ort.InferenceSession,
        template: dict[str, Any],
        fixed: Sequence[str],
        remedy: str = "export it with `dacycle export`",
    ) -> None:
        self.path, self.session = Path(path), session
        self.metadata = read_metadata(session) if has_metadata(session) else {}
        missing = [key for key in template if key not in self.metadata]
        for key in sorted({"kind", *fixed} - {*missing}, key=lambda key: (key != "kind", key)):
            if self.metadata[key] != template[key] and (key == "kind" or not missing):
                value, needed = _brief(self.metadata[key]), _brief(template[key])
                raise ModelFileError(f"{path}: its {key} is {value}, not {needed}")
        if missing:
            raise ModelFileError(
                f"{path}: its metadata lack {', '.join(missing)}, so it is not known what it expects; {remedy}"
            )
        for key, value in self.metadata.items():
            if key in template and key != "version" and _kind(value) != _kind(template[key]):
                kind = _kind(template[key])
                raise ModelFileError(f"{path}: its {key} is {_brief(value)}, but should be {kind}; {remedy}")
        self.name: str = self.metadata["name"]
        self.world: str = self.metadata["world"]
        try:
            self.grid = get_grid(self.metadata["grid"])
        except GridError as error:
            raise ModelFileError(f"{path}: {error}") from error
        self.digest = digest(path)


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
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
    """Open an ONNX file with a fixed number of threads, so that its results are repeatable.

    Args:
        path: the file, with its external data, if any, beside it.
        threads: number of threads on the CPU.
        provider: the provider of ONNX Runtime that must run it.
        provider_options: options of that provider.
        lean: whether memory is released between calls instead of kept for the next one.
        profile: start of the path of ONNX Runtime's profile; None: no profile.

    Raises:
        ModelFileError: there is no such file, it is not ONNX or too new, a file of its weights is not there, its
            checksum is wrong, or ONNX Runtime would run it on another provider than asked for (it falls back to the
            CPU without an error).
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    weight_files(path)  # refuses weights that are not there, or outside the folder
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised below
    if lean:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if provider not in ort.get_available_providers():
        known = ", ".join(ort.get_available_providers())
        raise ModelFileError(f"{path}: this ONNX Runtime has no {provider}; it has {known}")
    if provider != CPU:
        ort.preload_dlls()  # CUDA's libraries, from PyTorch's or NVIDIA's packages
    providers = list(dict.fromkeys([provider, *([CUDA] if provider == TENSORRT else []), CPU]))
    all_options = [provider_options or {}, *({} for _ in providers[1:])]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers, provider_options=all_options)
    except ORT_ERRORS as error:
        raise ModelFileError(f"{path}: {_refusal(str(error))}") from error
    if session.get_providers()[0] != provider:
        raise ModelFileError(
            f"{path}: asked for {provider}, but ONNX Runtime chose {session.get_providers()[0]}: the libraries that "
            f"{provider} needs cannot be loaded"
        )
    _check_checksum(path, session)
    return session


def _refusal(reason: str) -> str:
    """Return why ONNX Runtime does not open a file, from its own message."""
    runtime = f"ONNX Runtime {ort.__version__}"
    if found := re.search(r"model IR version: (\d+), max supported IR version: (\d+)", reason):
        return (
            f"its IR version is {found[1]}, too new for {runtime}, which reads {found[2]} and older; upgrade ONNX "
            f"Runtime, or export the network with IR version {found[2]} (`model.ir_version` of the package onnx)"
        )
    if found := re.search(r"Opset (\d+) is .* support for domain (\S+) is till opset (\d+)", reason, re.DOTALL):
        return (
            f"its opset of {found[2]} is {found[1]}, too new for {runtime}, which runs {found[3]} and older; upgrade "
            f"ONNX Runtime, or export the network with opset {found[3]} (`opset_version` of torch.onnx.export)"
        )
    return f"damaged, or not ONNX that {runtime} can run: {reason}"


def read_metadata(source: Path | str | ort.InferenceSession) -> dict[str, Any]:
    """Return the metadata of a file or of an open session; raise ModelFileError where it has none."""
    session = source if isinstance(source, ort.InferenceSession) else open_session(source)
    name = "the open session" if isinstance(source, ort.InferenceSession) else source
    with reading(f"{name}: its metadata", ModelFileError):
        stored = session.get_modelmeta().custom_metadata_map
    if _DOCUMENT not in stored:
        raise ModelFileError(
            f"{name}: no `dacycle` metadata (name, grid, world, channels); write them with "
            "dacycle.forecast_adapter.models.onnxfile.write_metadata, or export the network with `dacycle export`"
        )
    with reading(f"{name}: its metadata", ModelFileError):
        return dict(json.loads(stored[_DOCUMENT]))


def has_metadata(session: ort.InferenceSession) -> bool:
    """Return whether an open network has dacycle's metadata."""
    with reading("the metadata of the network", ModelFileError):
        return _DOCUMENT in session.get_modelmeta().custom_metadata_map


def write_metadata(path: Path | str, metadata: dict[str, Any]) -> None:
    """Give an ONNX file metadata and a checksum, in place of any it had; the file is replaced whole.

    Weights in files of their own are taken into the file, so that it is whole by itself. Where they are too large for
    that they stay where they are, and the checksum covers them. Needs the `onnx` package.

    Raises:
        ModelFileError: the file or one of its weights cannot be read.
    """
    import onnx

    path = Path(path)
    apart = weight_files(path)
    if sum((path.parent / name).stat().st_size for name in (path.name, *apart)) < _LARGEST:
        apart = []
    with reading(path, ModelFileError):
        model = onnx.load(str(path), load_external_data=not apart)
    others = [entry for entry in model.metadata_props if not entry.key.startswith(_DOCUMENT)]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    graph = model.SerializeToString(deterministic=True)
    document = json.dumps(metadata)  # keys keep their order: that of `planes` is the order of the tensors
    check = _checksum(graph, document, [path.parent / name for name in apart])
    tail = onnx.ModelProto()
    for key, value in ((_DOCUMENT, document), (_CHECK, check), (_LENGTH, str(len(graph)))):
        tail.metadata_props.add(key=key, value=value)
    write_whole(path, graph + tail.SerializeToString(deterministic=True))


def _checksum(graph: bytes, document: str, weights: Sequence[Path]) -> str:
    """Return the SHA-256 of the graph, the metadata, and the digests of the files of weights outside the graph."""
    return hashlib.sha256(graph + document.encode() + "".join(map(digest, weights)).encode()).hexdigest()


def _check_checksum(path: Path, session: ort.InferenceSession) -> None:
    """Raise ModelFileError where a file with metadata has another checksum than they say."""
    with reading(f"{path}: its metadata", ModelFileError):
        stored = session.get_modelmeta().custom_metadata_map
    if _DOCUMENT not in stored:
        return
    missing = [key for key in (_CHECK, _LENGTH) if key not in stored]
    if missing:
        raise ModelFileError(f"{path}: its metadata have lost {', '.join(missing)}; get the file anew")
    length, weights = stored[_LENGTH], weight_files(path)
    graph = path.read_bytes()[: int(length)] if length.isdecimal() else b""
    if _checksum(graph, stored[_DOCUMENT], [path.parent / name for name in weights]) != stored[_CHECK]:
        files = " with " + ", ".join(weights) if weights else ""
        raise ModelFileError(f"{path}{files}: its checksum is wrong, the file is damaged or was changed; get it anew")


def _kind(value: Any) -> str:
    """Return what a value of the metadata is, in words."""
    words = {str: "a text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
    return words.get(type(value), "nothing known")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
