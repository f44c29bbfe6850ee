"""What each trained method has from its paper, and what is dacycle's own; printed in its card."""

from dataclasses import dataclass

__all__ = ["HARNESS", "ORIGINS", "Origin", "origin_section"]


@dataclass(frozen=True)
class Origin:
    """Hold the parts of a method that are its paper's, and those that differ from it or are missing."""

    paper: tuple[str, ...]
    ours: tuple[str, ...]


HARNESS = (
    "in dacycle's harness: departures in units of the background's error, whose size is estimated from them; the "
    "model's mean error removed; increments that are odd in the departures and gated by the density of observations"
)
_FEED_FORWARD = f"{HARNESS}; closed-loop training"
_ADAPTED = (
    "rasters hold departures and their weights",
    "patches of 4 x 4 cells; a patch without observations is a learnt token",
    "without OLR and precipitation it is its base, bit for bit",
)
_ADAPTER = (
    "an encoder of patches for each modality",
    "one Transformer shared by all modalities",
    "a projection into the base's latent space that starts at zero",
)
_ERRORS = "the prior is of the background's error, given the background, in place of trajectories of states"

ORIGINS: dict[str, Origin] = {
    "adas": Origin(
        (
            "streams of background, observations and confidence",
            "gated convolution and gated cross-attention in plain and shifted windows, in a U-shape",
            "a loss with the same weight for all channels",
        ),
        (
            "observations enter through FNP's set convolutions at three radii, with their density as confidence; the "
            "paper's network sees masked points",
            "windows are two-dimensional; three stages in place of five",
            _FEED_FORWARD,
        ),
    ),
    "convcnp": Origin(
        ("set convolutions with their density", "one convolutional tower a source", "a Gaussian by a perceptron"),
        ("kernels are fixed, at three radii", "the mean is a residual on the background", _FEED_FORWARD),
    ),
    "fnp": Origin(
        (
            "set convolutions with their density",
            "towers of each group of variables and of all, with Fourier layers",
            "dynamic alignment and merging; a Gaussian whose mean is a residual on the background",
        ),
        (
            "kernels are fixed, at three radii, in place of learnt ones of 11 x 11 points",
            "the merging compares features at each point, without smoothing over 9 x 9 points",
            "the background has no set convolution; one Fourier layer before the merging, the others behind it, with "
            "modes mixed in blocks of channels",
            "trained and tried at one resolution only",
            _FEED_FORWARD,
        ),
    ),
    "diffusion": Origin(
        (
            "a prior learnt by diffusion without observations",
            "observations guide the sampling through their operators, with a variance that includes what the noise "
            "leaves unknown",
            "with `guidance: published`: the variance of arXiv 2306.10574 (sigma_y^2 + gamma sigma^2/mu^2) and its "
            "predictor with Langevin corrections",
        ),
        (
            _ERRORS,
            "the usual guidance solves for the observations' multipliers with the denoiser's Jacobian (arXiv "
            "2405.13712), in ten steps, of which three only solve",
            "a denoiser that is odd; members in pairs of opposite noise, whose mean is nearly that of a Gaussian "
            "posterior",
            HARNESS,
        ),
    ),
    "latent-diffusion": Origin(
        ("diffusion in the latent space of an autoencoder, all variables together",),
        (
            _ERRORS,
            "observations are not encoded: a latent is decoded and then observed, so OLR and precipitation are not in "
            "the latent space, which is what the paper is about",
            "the decoder is linear in the latent: a learnt basis, gated by the background",
            "sampler and guidance as in `diffusion`",
            HARNESS,
        ),
    ),
    "vae-var": Origin(
        (
            "a variational autoencoder of the background's error",
            "latents minimise a cost function with the observation operator in it",
        ),
        (
            "the decoder depends on the background, and is odd",
            "latents at three scales with nested dropout; the decoder's own error is added to that of observations",
            "twelve conjugate-gradient steps in place of L-BFGS; no window in time",
            HARNESS,
        ),
    ),
    **dict.fromkeys(("adas-adapter", "fnp-adapter", "vae-var-adapter"), Origin(_ADAPTER, _ADAPTED)),
}


def origin_section(method: str) -> list[str]:
    """Return the lines of a card that say what is the paper's and what is ours; none for an unknown method."""
    if (origin := ORIGINS.get(method)) is None:
        return []
    paper, ours = ([f"- {part}" for part in parts] for parts in (origin.paper, origin.ours))
    return ["", "## The paper's", "", *paper, "", "## Ours", "", *ours]
