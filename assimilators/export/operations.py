"""The operations of ONNX graphs in torch, by name; those that exported forecast models and learned operators have.

An attribute that is not known here, or a value of one that is not followed, is an ExportError or a TypeError.

Tensors are torch's; integers (shapes, indices, axes) are arrays of numpy and single numbers are Python's, so that a
trace takes them as constants.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dacycle.assimilators.exceptions import ExportError

__all__ = ["OPERATIONS"]


Integers = NDArray[np.int64]


def _integers(x: Integers) -> list[int]:
    return [int(i) for i in x.reshape(-1)]


def _cast(x: NDArray[np.float16], *, to: int) -> Tensor:
    if to != onnx.TensorProto.FLOAT:
        raise ExportError("only weights, in single precision, are cast in a graph that is differentiated here")
    return torch.from_numpy(x.astype(np.float32))


def _slice(
    x: Any, starts: Integers, ends: Integers, axes: Integers | None = None, steps: Integers | None = None
) -> Any:
    chosen = list(range(x.ndim)) if axes is None else _integers(axes)
    strides = [1] * len(chosen) if steps is None else _integers(steps)
    for axis, start, end, step in zip(chosen, _integers(starts), _integers(ends), strides, strict=True):
        indices = np.arange(x.shape[axis])[start:end:step]
        if isinstance(x, np.ndarray):
            x = x.take(indices, axis)
        elif step == 1:
            x = x.narrow(axis, int(indices[0]) if len(indices) else 0, len(indices))
        else:
            x = x.index_select(axis, torch.from_numpy(indices.copy()))
    return x


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
    dilations: Sequence[int] = (),
    kernel_shape: Sequence[int] = (),
    auto_pad: bytes = b"NOTSET",
    group: int = 1,
) -> Tensor:
    if any(pads) or {*strides} - {1} or auto_pad not in (b"NOTSET", b"VALID"):
        raise ExportError("a convolution with pads or strides of its own cannot be differentiated here")
    return functional.conv2d(x, weight, bias, dilation=list(dilations) or 1, groups=group)


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, axis: int = -1, stash_type: int = 1
) -> Tensor:
    if axis not in (-1, x.ndim - 1):
        raise ExportError("a normalisation over more than the last axis cannot be differentiated here")
    centred = x - x.mean(dim=axis, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dim=axis, keepdim=True) + epsilon) * scale + bias


def _gather_nd(x: Tensor, indices: Integers, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise ExportError("a gathering with batch dimensions cannot be differentiated here")
    return x[tuple(torch.from_numpy(index.copy()) for index in np.moveaxis(indices, -1, 0))]


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return product if c is None else product + beta * c


def _reshape(x: Tensor, shape: Integers, *, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(_integers(shape))])


def _depth_to_space(x: Tensor, *, blocksize: int, mode: bytes) -> Tensor:
    if mode != b"CRD":
        raise ExportError(f"a rearrangement of depth to space in the order {mode!r} cannot be differentiated here")
    return functional.pixel_shuffle(x, blocksize)


def _gather(x: Tensor, indices: Integers, *, axis: int = 0) -> Tensor:
    taken = x.index_select(axis, torch.from_numpy(np.array(indices).reshape(-1)))
    return taken.reshape(*x.shape[:axis], *np.shape(indices), *x.shape[axis + 1 :])


def _squeeze(x: Any, axes: Integers) -> Any:
    for axis in sorted(_integers(axes), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(x: Tensor, axes: Integers) -> Tensor:
    for axis in sorted(_integers(axes)):
        x = x.unsqueeze(axis)
    return x


def _expand(x: Tensor | float, shape: Integers) -> Tensor:
    if not isinstance(x, Tensor):
        return torch.full(_integers(shape), x)
    return x.expand(torch.broadcast_shapes(x.shape, _integers(shape)))


def _concat(*parts: Any, axis: int) -> Any:
    return torch.cat(parts, axis) if isinstance(parts[0], Tensor) else np.concatenate(parts, axis)


def _axes(x: Tensor, axes: Integers | None, unchanged: int) -> list[int]:
    """Return the axes to reduce; without any, all of them or none."""
    if axes is not None and len(axes):
        return _integers(axes)
    if unchanged:
        raise ExportError("a reduction over no axis cannot be differentiated here")
    return list(range(x.ndim))


def _reduce_mean(
    x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return x.mean(_axes(x, axes, noop_with_empty_axes), keepdim=bool(keepdims))


def _reduce_sum(x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.sum(_axes(x, axes, noop_with_empty_axes), keepdim=bool(keepdims))


def _reduce_l2(x: Tensor, axes: Integers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.square().sum(_axes(x, axes, noop_with_empty_axes), keepdim=bool(keepdims)).sqrt()


def _tile(x: Any, repeats: Integers) -> Any:
    return x.repeat(_integers(repeats)) if isinstance(x, Tensor) else np.tile(x, _integers(repeats))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": operator.add,
    "Cast": _cast,
    "Clip": lambda x, least=None, largest=None: x.clamp(least, largest),
    "Concat": _concat,
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Div": operator.truediv,
    "Einsum": lambda *tensors, equation: torch.einsum(equation.decode(), *tensors),
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Greater": operator.gt,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Pow": operator.pow,
    "ReduceL2": _reduce_l2,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Shape": lambda x, start=0, end=None: np.array(x.shape[start:end]),
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softplus": functional.softplus,
    "Squeeze": _squeeze,
    "Sub": operator.sub,
    "Tanh": torch.tanh,
    "Tile": _tile,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}
