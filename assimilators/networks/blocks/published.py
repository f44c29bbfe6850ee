"""The guidance and the sampler of SDA as published (Rozet and Louppe 2023, arXiv 2306.10574, section 3, algorithm 4).

At noise sigma (sigma/mu there: errors are not scaled down here) observations y = H x0 + N(0, R) add to the denoised
error D(x)

    sigma^2 J^T H^T (y - H D(x)) / (R + gamma sigma^2),    J = dD/dx,

as if errors at different places and of different variables were independent. A predictor goes to the next noise along
the probability-flow equation, and a Langevin step at that noise corrects it. Many steps are needed: the paper has 64 to
256.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

__all__ = ["GAMMA", "corrected", "guided_by", "noise_levels", "shock_of"]

GAMMA = 1e-2
"""The paper's gamma, the variance that the noise leaves in an observed value over that of the noise."""
LANGEVIN = 0.5
"""The paper's tau: size of a Langevin step relative to the square of the score."""
MOST_NOISE, LEAST_NOISE = 50.0, 0.02
"""Noise at which sampling begins and ends, in units of the error; a denoiser is trained with hardly more or less."""
ROLL = (29, 17)
"""Channels and columns by which the noise of a Langevin step is moved on from step to step."""


def noise_levels(steps: int) -> Tensor:
    """Return (steps,) standard deviations of the noise, which fall by a constant ratio."""
    return torch.from_numpy(np.geomspace(MOST_NOISE, LEAST_NOISE, steps).astype(np.float32))


def guided_by(
    denoise: Callable[[Tensor, Tensor], Tensor],
    observe: Callable[[Tensor], Tensor],
    departure: Tensor,
    precision: Tensor,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of noisy latents and their noise: the expected latents, guided by the observations.

    Args:
        denoise: returns the expected latents, without observations.
        observe: applies H, in units of the observations' errors; 0 where there are none.
        departure: y in the same units.
        precision: 1 / R^(1/2); 0 where nothing is observed.
    """

    def guided(x: Tensor, noise: Tensor) -> Tensor:
        def seen(x: Tensor) -> tuple[Tensor, Tensor]:
            denoised = denoise(x, noise)
            return observe(denoised), denoised

        equivalent, transpose, denoised = cast(Any, torch.func.vjp(seen, x, has_aux=True))
        variance = 1 + GAMMA * (precision * noise).square()
        return denoised + noise.square() * transpose((departure - equivalent) / variance)[0]

    return guided


def corrected(x: Tensor, guided: Tensor, noise: Tensor, shock: Tensor) -> Tensor:
    """Return noisy latents after one Langevin step at their noise."""
    score = (x - guided) / noise
    size = LANGEVIN / score.square().mean((1, 2, 3), keepdim=True)
    return x - noise * (size * score + (2 * size).sqrt() * shock)


def shock_of(normal: Tensor, step: Tensor) -> Tensor:
    """Return the noise of a step: noise (pairs, channels, H, W) that is moved on, with its opposite for each pair."""
    for axis, move in zip((1, 3), ROLL, strict=True):
        places = (torch.arange(normal.shape[axis]) + move * step) % normal.shape[axis]
        normal = normal.index_select(axis, places)
    return torch.cat([normal, -normal])
