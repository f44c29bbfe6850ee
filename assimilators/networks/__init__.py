"""Networks of the trained methods: one module a method. Needs torch.

A `Method` is a network, whose `forward` is the exported contract, with its size and its loss. Training and export call
it. Put the next method here, as a module with a network, and one line in `METHODS`. Copy from `convcnp`, a feed-forward
method, which trains its `estimate` (`blocks.departures`), or from `diffusion`, a prior, which has a loss of its own
(`blocks.prior`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from dacycle.assimilators.networks.adapter import (
    AdaptedAdasSize,
    AdaptedFnpSize,
    AdaptedNetwork,
    AdaptedVaeVar,
    AdaptedVaeVarSize,
)
from dacycle.assimilators.networks.adas import AdasNetwork, AdasSize, unified_mae
from dacycle.assimilators.networks.blocks.departures import gaussian_loss
from dacycle.assimilators.networks.blocks.diffusion import DiffusionSize
from dacycle.assimilators.networks.convcnp import ConvCnpNetwork, ConvCnpSize
from dacycle.assimilators.networks.diffusion import ErrorDiffusionNetwork
from dacycle.assimilators.networks.fnp import FnpNetwork, FnpSize
from dacycle.assimilators.networks.latent_diffusion import LatentDiffusionNetwork, LatentDiffusionSize
from dacycle.assimilators.networks.vae_var import VaeVarNetwork, VaeVarSize

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """Describe a trained method.

    Attributes:
        network: built from (grid, constants, size); a `departures.DepartureNetwork` or a `prior.PriorNetwork`.
        size: dataclass of whole numbers, which a recipe's `network` fills.
        loss: at every point, of increment, spread (None where the method has none) and target, all in units of the
            background's usual error; None for a prior, which is trained on errors without observations.
        source: the paper.
    """

    network: Callable[..., Any]
    size: type
    loss: Callable[..., Tensor] | None
    source: str


ADAPTER = "DAMBench, arXiv 2511.01468"

METHODS: dict[str, Method] = {
    "adas": Method(AdasNetwork, AdasSize, unified_mae, "Chen et al. 2023, arXiv 2312.12462"),
    "adas-adapter": Method(partial(AdaptedNetwork, AdasNetwork), AdaptedAdasSize, unified_mae, ADAPTER),
    "convcnp": Method(ConvCnpNetwork, ConvCnpSize, gaussian_loss, "Gordon et al. 2020, arXiv 1910.13556"),
    "fnp": Method(FnpNetwork, FnpSize, gaussian_loss, "Chen et al. 2024, arXiv 2406.01645"),
    "fnp-adapter": Method(partial(AdaptedNetwork, FnpNetwork), AdaptedFnpSize, gaussian_loss, ADAPTER),
    "diffusion": Method(
        ErrorDiffusionNetwork,
        DiffusionSize,
        None,
        "after Rozet and Louppe 2023, arXiv 2306.10574, and 2024, arXiv 2405.13712",
    ),
    "latent-diffusion": Method(
        LatentDiffusionNetwork, LatentDiffusionSize, None, "after Qu et al. 2024, arXiv 2404.06665"
    ),
    "vae-var": Method(VaeVarNetwork, VaeVarSize, None, "Xiao et al. 2025, arXiv 2405.13711"),
    "vae-var-adapter": Method(AdaptedVaeVar, AdaptedVaeVarSize, None, ADAPTER),
}
