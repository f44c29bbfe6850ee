"""The multi-modal adapter of DAMBench (arXiv 2511.01468), which adds OLR and station precipitation to any method.

Defining parts: an encoder for each modality turns its rasters into *patches*; a *shared Transformer* processes the
patches of all modalities; a *projection*, which starts at zero, takes its output into the base method's latent space,
where it is added to the fused features of background and observations.

Differences from the paper: rasters hold departures and their weights, as in all methods here (`blocks.base`), so that
opposite departures give the opposite increment; a patch without any observation of a modality is a learnt token;
without any observation of the modalities the method is the base, bit for bit. The base has no other access to the
modalities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.networks.adas import AdasSize
from dacycle.assimilators.networks.blocks.base import Constants, weights_of
from dacycle.assimilators.networks.blocks.departures import DepartureNetwork
from dacycle.assimilators.networks.blocks.layers import Attention, Pointwise
from dacycle.assimilators.networks.fnp import FnpSize
from dacycle.assimilators.networks.vae_var import VaeVarNetwork, VaeVarSize
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = [
    "MODALITIES",
    "Adapted",
    "AdaptedAdasSize",
    "AdaptedFnpSize",
    "AdaptedNetwork",
    "AdaptedVaeVar",
    "AdaptedVaeVarSize",
    "AdapterSize",
]

MODALITIES = ("tp6h", "olr")
PATCH = 4
"""Cells of a patch in each direction."""
WAVES = 4
"""Zonal wavenumbers that encode the position of a patch, beside sine and cosine of its latitude."""


@dataclass(frozen=True)
class AdapterSize:
    """Hold the size of the adapter, without its base.

    Attributes:
        tokens: width of the tokens.
        token_heads, token_layers: of the shared Transformer.
    """

    tokens: int = 96
    token_heads: int = 4
    token_layers: int = 2


@dataclass(frozen=True)
class AdaptedFnpSize(AdapterSize, FnpSize):
    """Hold the size of FNP and of its adapter."""


@dataclass(frozen=True)
class AdaptedAdasSize(AdapterSize, AdasSize):
    """Hold the size of Adas and of its adapter."""


@dataclass(frozen=True)
class AdaptedVaeVarSize(AdapterSize, VaeVarSize):
    """Hold the size of VAE-Var and of its adapter."""


class Adapter(nn.Module):
    """Compute the addition to a base's latents from rasters of the modalities' departures and weights.

    Args:
        grid: of the rasters.
        size: of the adapter.
        latent: channels of the base's latents, on 2 x 2 blocks of cells.
        modalities: number of them.
    """

    places: Tensor

    def __init__(self, grid: Grid, size: AdapterSize, latent: int, modalities: int) -> None:
        super().__init__()
        self.modalities = modalities
        rows, columns = (n // PATCH for n in grid.shape)
        self.embed = nn.ModuleList(nn.Conv2d(2, size.tokens, PATCH, stride=PATCH) for _ in range(modalities))
        self.missing = nn.Parameter(torch.zeros(modalities, size.tokens, 1, 1))
        self.kind = nn.Parameter(0.1 * torch.randn(modalities, size.tokens, 1, 1))
        self.register_buffer("places", _places(grid), persistent=False)
        self.place = Pointwise(1, self.places.shape[1], size.tokens)
        # One window holds the patches of all modalities, one below the other.
        window = (modalities * rows, columns)
        self.layers = nn.ModuleList(
            Attention(size.tokens, size.token_heads, window, shifted=False) for _ in range(size.token_layers)
        )
        self.project = Pointwise(1, modalities * size.tokens, latent * (PATCH // 2) ** 2)
        for parameter in self.project.parameters():
            nn.init.zeros_(parameter)

    def forward(self, departure: Tensor, weight: Tensor) -> Tensor:
        """Return (B, latent, H/2, W/2) for (B, modalities, H, W) departures times their weights, and weights."""
        tokens = []
        for k, embed in enumerate(self.embed):
            raster = torch.stack([departure[:, k], weight[:, k]], 1)
            seen = functional.max_pool2d(weight[:, k : k + 1], PATCH) > 0
            token = torch.where(seen, embed(raster), self.missing[k])
            tokens.append(token + self.kind[k] + self.place(self.places))
        x = torch.cat(tokens, 2)
        for layer in self.layers:
            x = layer(x, x)
        latent = functional.pixel_shuffle(self.project(torch.cat(x.chunk(self.modalities, 2), 1)), PATCH // 2)
        any_seen = (weight.amax((1, 2, 3), keepdim=True) > 0).to(latent.dtype)
        return latent * any_seen


def _chosen(planes: tuple[str, ...]) -> list[int]:
    """Return the indices of the modalities among the inputs.

    Raises:
        RecipeError: none of them is there, so that there is nothing to adapt to.
    """
    chosen = [CHANNEL_COUNT + planes.index(name) for name in MODALITIES if name in planes]
    if not chosen:
        raise RecipeError(
            f"method: an adapter needs one of {' and '.join(MODALITIES)}, and the data have neither; train its base, "
            "or add a field with `dacycle dataset --beside`"
        )
    return chosen


def _all_but(chosen: list[int], inputs: int) -> Tensor:
    """Return (inputs, 1, 1): 0 for the modalities, 1 for all other inputs."""
    others = torch.ones(inputs, 1, 1)
    others[chosen] = 0
    return others


def _places(grid: Grid) -> Tensor:
    """Return the position features (1, 2 + 2 WAVES, rows, columns) of the patches' centres."""
    latitude, longitude = (
        np.deg2rad(np.asarray(c, float).reshape(-1, PATCH).mean(1)) for c in (grid.latitude, grid.longitude)
    )
    lat, lon = np.meshgrid(latitude, longitude, indexing="ij")
    waves = [f(m * lon) for m in range(1, WAVES + 1) for f in (np.sin, np.cos)]
    return torch.from_numpy(np.stack([np.sin(lat), np.cos(lat), *waves])[None].astype(np.float32))


class Adapted(ABC):
    """Declare what training needs of a method with an adapter.

    Attributes:
        size: of the base and of the adapter.
    """

    size: Any

    @abstractmethod
    def begin_with(self, trained: nn.Module) -> None:
        """Take the weights of a trained base, and its constants, which the weights depend on.

        Raises:
            RuntimeError: the base is of another method or size.
        """

    @abstractmethod
    def freeze_base(self, frozen: bool) -> None:
        """Train the adapter alone, or also the base."""


class AdaptedNetwork(DepartureNetwork, Adapted):
    """Add the adapter to a feed-forward method.

    Args:
        base: makes the network of the base method, whose `latent` is its number of fused channels.
        grid, constants, planes: as for the base.
        size: of the base and of the adapter.
    """

    left: Tensor

    def __init__(
        self, base: Callable[..., Any], grid: Grid, constants: Constants, size: Any,
        planes: tuple[str, ...] = tuple(PLANES),
    ) -> None:  # fmt: skip
        super().__init__(grid, constants, size, planes)
        self.size = size
        self.base = base(grid, constants, size, planes)
        self.base.operator = self.operator  # shared
        self.chosen = _chosen(planes)
        self.adapter = Adapter(grid, size, self.base.latent, len(self.chosen))
        self.register_buffer("left", _all_but(self.chosen, self.inputs), persistent=False)

    def begin_with(self, trained: nn.Module) -> None:
        """Take the weights and the constants of a trained base."""
        self.base.load_state_dict(trained.state_dict())
        with torch.no_grad():
            for field in fields(Constants):
                if (constant := getattr(self, field.name)) is not None:  # the base, just loaded, has the same ones
                    constant.copy_(getattr(trained, field.name))

    def freeze_base(self, frozen: bool) -> None:
        """Train the adapter alone, or also the base."""
        for parameter in self.base.parameters():
            parameter.requires_grad_(not frozen)
        self.operator.requires_grad_(False)

    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the base's features of all inputs but the modalities, and the rasters of these."""
        rasters = torch.stack([departure * weight, weight], 1)[:, :, self.chosen]
        return (*self.base.observe(departure * self.left, weight * self.left), rasters)

    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """Return the base's features of the background."""
        features: tuple[Tensor, ...] = self.base.encode(state, known)
        return features

    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return the base's increment and spread, with the adapter's features added to its own."""
        *base_features, rasters = observed
        decoded: tuple[Tensor, Tensor | None] = self.base.decode(
            state, known, background, tuple(base_features), self.adapter(rasters[:, 0], rasters[:, 1])
        )
        return decoded


class AdaptedVaeVar(VaeVarNetwork, Adapted):
    """Add the adapter to VAE-Var, whose prior it makes conditional on the modalities."""

    observes = True
    left: Tensor

    def __init__(
        self, grid: Grid, constants: Constants, size: AdaptedVaeVarSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, planes)
        self.chosen = _chosen(planes)
        self.adapter = Adapter(grid, size, sum(size.latents), len(self.chosen))
        self.register_buffer("left", _all_but(self.chosen, self.inputs), persistent=False)

    def begin_with(self, trained: nn.Module) -> None:
        """Take the weights and the constants of a trained base."""
        adapter = self.adapter.state_dict(prefix="adapter.")
        self.load_state_dict({**trained.state_dict(), **adapter})

    def freeze_base(self, frozen: bool) -> None:
        """Train the adapter alone, or also the base."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("adapter."))
        self.operator.requires_grad_(False)

    def prior_loss(
        self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator,
        values: Tensor | None = None, errors: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return `VaeVarNetwork.prior_loss`, given the modalities among observations, (B, 69 + M, H, W), SI."""
        assert values is not None
        assert errors is not None
        departure, error, _ = self.observed(self.unbiased(state)[0], values, errors)
        state, true_error, sizes = self.error_of(state, target, generator)
        expected, _ = self.centred(departure, error, sizes[:, :1])
        return self._bound(state, true_error, sizes, weights, generator, expected)

    def centred(self, departure: Tensor, error: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents that the modalities predict, odd in their departures, and errors without the modalities."""
        weight = weights_of(error[:, self.chosen] / size)
        rasters = departure[:, self.chosen] / size * weight
        positive, negative = self.adapter(torch.cat([rasters, -rasters]), torch.cat([weight, weight])).chunk(2)
        odd = 0.5 * (positive - negative)
        levels = zip(odd.split(list(self.size.latents), 1), (4, 2, 1), strict=True)
        expected = [functional.avg_pool2d(latent, k).flatten(1) for latent, k in levels]
        return torch.cat(expected, 1), error * self.left
