"""The tensors of a forecast model: `input` and `output`, (B, 138, H, W) float32, as FengWu has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from dacycle.forecast_adapter.channels import CHANNEL_COUNT
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.onnxfile import ModelFileError

__all__ = ["Signature", "read_signature"]

_PAIR = 2 * CHANNEL_COUNT


@dataclass(frozen=True)
class Signature:
    """The sizes that a network's tensors fix or leave open.

    Attributes:
        batch: 1 where a call takes one state, None where it takes any number.
        shape: rows and columns, each None where any number fits.
    """

    batch: int | None
    shape: tuple[int | None, int | None]

    def fits(self, grid: Grid) -> bool:
        """Return whether the network runs on a grid."""
        return all(fixed in (None, size) for fixed, size in zip(self.shape, grid.shape, strict=True))


def read_signature(path: Path, session: ort.InferenceSession) -> Signature:
    """Return the signature of a network, if it has the contract of a forecast model.

    Raises:
        ModelFileError: a tensor has another name, type or number of channels, or the network a batch other than 1.
    """
    pairs = {
        "input": _only(path, "input", session.get_inputs()),
        "output": _only(path, "output", session.get_outputs()),
    }
    for name, tensor in pairs.items():
        if tensor.type != "tensor(float)":
            raise ModelFileError(
                f"{path}: `{name}` is {tensor.type}, but must be float32; export it with float32 tensors"
            )
        channels = tensor.shape[1] if len(tensor.shape) == 4 else None
        undeclared = name == "output" and not isinstance(channels, int) and len(tensor.shape) in (0, 4)
        if channels != _PAIR and not undeclared:
            raise ModelFileError(
                f"{path}: `{name}` is {tensor.shape}, but must be (batch, {_PAIR}, rows, columns): two frames of "
                f"{CHANNEL_COUNT} channels; networks with other channels cannot be run"
            )
    batch, _, *shape = (size if isinstance(size, int) else None for size in pairs["input"].shape)
    if batch not in (None, 1):
        raise ModelFileError(
            f"{path}: `input` has a fixed batch of {batch}; a forecast needs 1 or any: export it with a dynamic batch"
        )
    return Signature(batch, (shape[0], shape[1]))


def _only(path: Path, name: str, tensors: list[Any]) -> Any:
    """Return the one tensor of a list, which must have this name."""
    if [tensor.name for tensor in tensors] != [name]:
        names = ", ".join(tensor.name for tensor in tensors) or "nothing"
        raise ModelFileError(
            f"{path}: its {name} must be one tensor called `{name}`, not {names}; rename it in the export"
        )
    return tensors[0]
