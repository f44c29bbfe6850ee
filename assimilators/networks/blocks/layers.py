"""Layers on a latitude-longitude grid of the sphere, as real matrices, which training and export share.

Fields are (B, C, H, W), rows from north to south, no row at a pole. All layers are periodic in longitude; beyond a pole
the grid continues along the opposite meridian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.classical.localisation import gaspari_cohn
from dacycle.forecast_adapter.grid import Grid, great_circle_km
from dacycle.forecast_adapter.models.mini import pad_sphere

__all__ = [
    "Attention",
    "ConvolutionBlock",
    "Depthwise",
    "FourierLayer",
    "Pointwise",
    "RadialConvolution",
    "SpectralMix",
    "TowerNorm",
]


def zonal_transform(width: int, modes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the real discrete Fourier transform along a circle of `width` points, (width, 2 modes), and its inverse.

    The first half of the coefficients belong to cosines (wavenumbers 0 to modes - 1), the second half to sines. With
    width / 2 + 1 modes, forward and inverse give the identity; with fewer, the truncated field.
    """
    angle = 2 * np.pi * np.outer(np.arange(width), np.arange(modes)) / width
    forward = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1)
    twice = np.full(modes, 2.0)  # a wavenumber represents its negative too
    twice[0] = 1
    if modes == width // 2 + 1 and width % 2 == 0:
        twice[-1] = 1
    inverse = forward * np.concatenate([twice, twice]) / width
    return forward.astype(np.float32), inverse.T.astype(np.float32).copy()


def meridional_transform(height: int, modes: int, zonal_modes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the transform along meridians by zonal wavenumber m, (m, modes, height), and its inverse.

    Continued across a pole, half a turn away, a field of even zonal wavenumber is even and a field of odd wavenumber is
    odd. So the former is expanded in cosines and the latter in sines, of which the first has n = 1. The inverse is
    (m, height, modes).
    """
    angle = np.pi * (np.arange(height) + 0.5) / height
    n = np.arange(modes)[:, None]
    even, odd = np.cos(n * angle), np.sin((n + 1) * angle)
    even_norm = np.where(n == 0, 1.0, 2.0) / height
    odd_norm = np.where(n + 1 == height, 1.0, 2.0) / height
    forward = np.stack([(odd * odd_norm if m % 2 else even * even_norm) for m in range(zonal_modes)])
    inverse = np.stack([(odd if m % 2 else even).T for m in range(zonal_modes)])
    return forward.astype(np.float32), inverse.astype(np.float32)


def distances(grid: Grid) -> NDArray[np.floating]:
    """Return (H, H, W) great-circle distances in km between the points of two rows, by difference in longitude."""
    rows = grid.latitude[:, None, None]
    return great_circle_km(rows, grid.longitude[0], grid.latitude[None, :, None], grid.longitude)


class RadialConvolution(nn.Module):
    """Sum the points around each point with weights of great-circle distance, the same in km at every latitude.

    (B, C, H, W) -> (B, K, C, H, W), one sum for each of K supports in km, beyond which the weight is 0 (Gaspari-Cohn).
    """

    forward_zonal: Tensor
    inverse_zonal: Tensor
    spectrum: Tensor

    def __init__(self, grid: Grid, supports: tuple[float, ...]) -> None:
        super().__init__()
        width = len(grid.longitude)
        modes = width // 2 + 1
        forward, inverse = zonal_transform(width, modes)
        kernels = np.stack([gaspari_cohn(distances(grid), support) for support in supports])
        # Kernels are even in longitude, so their transform is real: (K, H, H, modes) -> (modes, K H, H).
        spectrum = np.einsum("khjw,wm->mkhj", kernels, forward[:, :modes].astype(float))
        self.supports, self.modes = supports, modes
        self.register_buffer("forward_zonal", torch.from_numpy(forward), persistent=False)
        self.register_buffer("inverse_zonal", torch.from_numpy(inverse), persistent=False)
        spectrum = spectrum.reshape(modes, -1, len(grid.latitude)).astype(np.float32)
        self.register_buffer("spectrum", torch.from_numpy(spectrum), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        waves = _by_wavenumber(x, self.forward_zonal, self.modes)  # (2, m, B C, H)
        spread = waves @ self.spectrum.transpose(1, 2)  # (2, m, B C, K H)
        sums = _from_wavenumbers(spread, self.inverse_zonal)
        return sums.reshape(-1, channels, len(self.supports), height, width).transpose(1, 2)


class SpectralMix(nn.Module):
    """Transform over the sphere, truncated, apply a complex matrix for each mode and block of channels, and go back.

    It is the spectral convolution of Fourier neural operators (Li et al. 2021, arXiv 2010.08895), block-diagonal over
    channels (Guibas et al. 2022, arXiv 2111.13587), with the sphere's parity in place of a torus.
    """

    zonal: Tensor
    zonal_back: Tensor
    meridional: Tensor
    meridional_back: Tensor

    def __init__(self, shape: tuple[int, int], width: int, modes: int, block: int) -> None:
        super().__init__()
        height, length = shape
        self.modes, self.block = modes, block
        for name, value in zip(("zonal", "zonal_back"), zonal_transform(length, modes), strict=True):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)
        for name, value in zip(
            ("meridional", "meridional_back"), meridional_transform(height, modes, modes), strict=True
        ):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)
        blocks = width // block
        scale = 1 / block**0.5
        self.weights = nn.Parameter(scale * torch.randn(modes * modes * blocks, 2 * block, block))

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, length = x.shape
        m, c = self.modes, self.block
        waves = _by_wavenumber(x, self.zonal, m) @ self.meridional.transpose(1, 2)  # (2, m, B C, n)
        waves = waves.reshape(2, m, batch, width // c, c, m).permute(1, 5, 3, 0, 2, 4)  # (m, n, blocks, 2, B, c)
        real, imaginary = waves.flatten(0, 2).unbind(1)  # (m n blocks, B, c)
        both = torch.cat([torch.cat([real, -imaginary], -1), torch.cat([imaginary, real], -1)], 1)
        mixed = torch.bmm(both, self.weights)  # (m n blocks, 2 B, c): real parts, then imaginary ones
        mixed = mixed.reshape(m, m, width // c, 2, batch, c).permute(3, 0, 4, 2, 5, 1)  # (2, m, B, blocks, c, n)
        back = mixed.reshape(2, m, batch * width, m) @ self.meridional_back.transpose(1, 2)  # (2, m, B C, H)
        return _from_wavenumbers(back, self.zonal_back).reshape(batch, width, height, length)


# With wavenumbers first, neither a transform nor its inverse moves the coefficients of whole fields in memory: each is
# one product of matrices, of which one is read transposed.


def _by_wavenumber(x: Tensor, transform: Tensor, modes: int) -> Tensor:
    """Return the zonal transform of (B, C, H, W): cosines and sines by wavenumber, (2, m, B C, H)."""
    height, width = x.shape[2:]
    return (transform.T @ x.reshape(-1, width).T).reshape(2, modes, -1, height)


def _from_wavenumbers(waves: Tensor, inverse: Tensor) -> Tensor:
    """Return the fields (B C rows, W) of cosines and sines by wavenumber, (2, m, B C, rows)."""
    return waves.reshape(inverse.shape[0], -1).T @ inverse


class Pointwise(nn.Module):
    """Apply a matrix for each tower at every point: (B, towers x inputs, H, W) -> (B, towers x outputs, H, W)."""

    def __init__(self, towers: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.towers = towers
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(towers, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(towers, outputs, 1)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        # The batch is left to `reshape`, so that the exported graph computes no shapes.
        width, height, length = x.shape[1:]
        y = self.weight @ x.reshape(-1, self.towers, width // self.towers, height * length)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(-1, self.towers * y.shape[2], height, length)


class TowerNorm(nn.Module):
    """Apply layer norm over the channels of each tower of (B, towers x width, H, W)."""

    def __init__(self, towers: int, width: int) -> None:
        super().__init__()
        self.towers = towers
        self.weight = nn.Parameter(torch.ones(1, towers * width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, towers * width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        width, height, length = x.shape[1:]
        y = x.reshape(-1, self.towers, width // self.towers, height, length)
        y = y - y.mean(2, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(2, keepdim=True) + 1e-5)
        return y.reshape(-1, width, height, length) * self.weight + self.bias


class _Depthwise(torch.autograd.Function):
    """Convolve depthwise with gradients that are forward convolutions, which are faster on a CPU than backward ones."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, groups=len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        gradient = gradients[0].contiguous()
        x, weight = (saved.to(gradient.dtype) for saved in ctx.saved_tensors)  # in mixed precision they are float32
        batch, channels, height, width = gradient.shape
        rows, columns = weight.shape[2:]
        around = functional.pad(gradient, (columns - 1, columns - 1, rows - 1, rows - 1))
        of_input = functional.conv2d(around, weight.flip(2, 3), groups=channels)
        if not ctx.needs_input_grad[1]:
            return of_input, None
        # Each channel of a sample is correlated with its own gradient, so the samples are taken as channels.
        kernels = gradient.reshape(batch * channels, 1, height, width)
        by_sample = functional.conv2d(x.reshape(1, batch * channels, *x.shape[2:]), kernels, groups=batch * channels)
        return of_input, by_sample.reshape(batch, *weight.shape).sum(0)


class Depthwise(nn.Conv2d):
    """Convolve each channel by itself, without padding."""

    def __init__(self, channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        y = _Depthwise.apply(x, self.weight)
        return y if self.bias is None else y + self.bias[:, None, None]


class ConvolutionBlock(nn.Module):
    """Add a depthwise convolution and a perceptron, for each tower, to the input (ConvNeXt, arXiv 2201.03545)."""

    branches = 1

    def __init__(self, towers: int, width: int, kernel: int) -> None:
        super().__init__()
        channels = towers * width
        self.margin = kernel // 2
        self.norm = TowerNorm(towers, width)
        self.around = Depthwise(channels, kernel)
        self.widen = Pointwise(towers, width, 2 * width)
        self.narrow = Pointwise(towers, 2 * width, width)
        self.scale = nn.Parameter(torch.full((self.branches, 1, channels, 1, 1), 0.1))

    def local(self, y: Tensor) -> Tensor:
        """Return the convolution and perceptron of normalised features."""
        return self.narrow(functional.silu(self.widen(self.around(pad_sphere(y, self.margin)))))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale[0] * self.local(self.norm(x))


class FourierLayer(ConvolutionBlock):
    """Add a convolution block and a spectral mix to the input: a neural Fourier layer."""

    branches = 2

    def __init__(self, shape: tuple[int, int], towers: int, width: int, kernel: int, modes: int, block: int) -> None:
        super().__init__(towers, width, kernel)
        self.spectral = SpectralMix(shape, towers * width, modes, block)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.scale[0] * self.local(y) + self.scale[1] * self.spectral(y)


class Attention(nn.Module):
    """Apply attention of x to y within windows (Liu et al. 2021, arXiv 2103.14030), then a perceptron.

    Both are (B, C, H, W). Shifted windows begin half a window further: they continue around the sphere, and across a
    pole on the opposite meridian.
    """

    def __init__(self, width: int, heads: int, window: tuple[int, int], shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.norm_x, self.norm_y, self.norm = (TowerNorm(1, width) for _ in range(3))
        self.query, self.keys = Pointwise(1, width, width), Pointwise(1, width, 2 * width)
        self.out = Pointwise(1, width, width)
        self.widen, self.narrow = Pointwise(1, width, 2 * width), Pointwise(1, 2 * width, width)
        n = window[0] * window[1]
        self.place = nn.Parameter(torch.zeros(heads, n, n))
        self.scale = nn.Parameter(torch.full((2, width, 1, 1), 0.1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query = self._windows(self.query(self.norm_x(x)))
        key, value = (self._windows(features) for features in self.keys(self.norm_y(y)).chunk(2, 1))
        similarity = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + self.place
        attended = self._grid(similarity.softmax(-1) @ value, x)
        x = x + self.scale[0] * self.out(attended)
        return x + self.scale[1] * self.narrow(functional.silu(self.widen(self.norm(x))))

    # The batch is left to `reshape`, so that the exported graph computes no shapes.
    def _windows(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) as (B windows, heads, points, C / heads)."""
        rows, columns = self.window
        if self.shifted:
            x = pad_sphere(x, rows // 2)[..., rows // 2 : -(rows // 2)].roll(columns // 2, -1)
        width, height, length = x.shape[1:]
        x = x.reshape(-1, self.heads, width // self.heads, height // rows, rows, length // columns, columns)
        return x.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, self.heads, rows * columns, width // self.heads)

    def _grid(self, x: Tensor, like: Tensor) -> Tensor:
        """Undo `_windows`, to the shape of `like`."""
        rows, columns = self.window
        width, height, length = like.shape[1:]
        height += rows if self.shifted else 0
        x = x.reshape(-1, height // rows, length // columns, self.heads, rows, columns, width // self.heads)
        x = x.permute(0, 3, 6, 1, 4, 2, 5).reshape(-1, width, height, length)
        return x[:, :, rows // 2 : -(rows // 2)].roll(-(columns // 2), -1) if self.shifted else x
