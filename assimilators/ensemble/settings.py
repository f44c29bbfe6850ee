"""What an experiment sets for members: its key `ensemble`."""

from typing import Annotated, Literal

from pydantic import Field

from dacycle.common.configuration import Strict
from dacycle.forecast_adapter.physics import HALF_GLOBE_KM

__all__ = ["OF_FILTERS", "EnsembleSettings"]


class EnsembleSettings(Strict):
    """Set the ensemble of `letkf` and `hybrid`, or that of another method, which has none of `OF_FILTERS`."""

    members: int = Field(default=40, ge=8)
    """Number of members, which the archive holds."""
    localisation_km: float = Field(default=3000.0, gt=0, le=HALF_GLOBE_KM)
    """Distance from which on an observation has no influence; Gaspari-Cohn's correlation falls to 5/24 at half of it.
    At most half the globe; default: 3000 of `letkf`, 4500 of `hybrid`."""
    vertical_lnp: Annotated[float, Field(gt=0)] | Literal["none"] = "none"
    """The same in the vertical, as the logarithm of a ratio of pressures, or `none`: observations of a column correct
    all of it; default: 1 of `letkf`, none of `hybrid`."""
    rtps: float = Field(default=0.95, ge=0, le=1.5)
    """Relaxation of the spread to that of the background: 0 is none, 1 restores it; default: 0.281 of `letkf`, 0.95 of
    `hybrid`."""
    rtpp: float = Field(default=0.0, ge=0, lt=1)
    """Relaxation of the perturbations to those of the background: 0 is none, 1 would restore them."""
    inflation: Literal["adaptive", "none"] = "adaptive"
    """`adaptive`, the default: the members' covariance gets the factor that the departures around a place ask for; or
    `none`."""
    additive: float = Field(default=0.16, ge=0)
    """Size of the samples of the model's error that background members get, as a share of the static ensemble's;
    default: 0.225 of `letkf`, 0.14 of `hybrid`, 0.16 of other methods."""
    static_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the static ensemble in the covariance of `hybrid`, by default 0.9, or in its gain, by default a half."""
    members_share: float | None = Field(default=None, gt=0, le=1)
    """Share of the members' covariance in that of `hybrid`; default: what `static_share` leaves. With fewer than that,
    the spread can have the size of the error while what few members sample badly counts less."""
    mix: Literal["gain"] | None = None
    """`gain`: the analysis of `hybrid` is that of the members, corrected by `static_share` of what optimal
    interpolation with the static ensemble would add; default: their covariances are mixed."""
    static: str = "oi"
    """The static ensemble: a packaged one, or a file that `dacycle train` made of a recipe of kind `oi`."""
    olr: Literal["learned", "regression"] | None = None
    """`learned`: the experiment's operator computes OLR; `regression`: that of the static ensemble's file, on a column;
    default: `learned` where there is an operator, but with `mix: gain`."""
    least_spread: float = Field(default=0.1, ge=0, lt=1)
    """With less spread than this share of the background's error, as departures imply it, a cycle is `degraded`."""

    def completed(self, method: str) -> "EnsembleSettings":
        """Return the settings with the defaults of a method: `letkf`, `hybrid`, or another that is to have members."""
        defaults = {"letkf": _OfLetkf, "hybrid": _OfHybrid}.get(method, EnsembleSettings)
        of_gains = {"static_share": 0.5} if self.mix == "gain" else {}
        return defaults.model_construct(**of_gains | self.model_dump(exclude_unset=True))


class _OfLetkf(EnsembleSettings):
    """Has the defaults of `letkf`, from sweeps in the demonstration's world: docs/studies/knobs.md."""

    vertical_lnp: float | Literal["none"] = 1.0
    rtps: float = 0.281
    additive: float = 0.225


class _OfHybrid(EnsembleSettings):
    """Has the defaults of `hybrid`, from the same sweeps."""

    localisation_km: float = 4500.0
    additive: float = 0.14
    static_share: float | None = 0.9


OF_FILTERS = (
    "localisation_km",
    "vertical_lnp",
    "rtps",
    "rtpp",
    "inflation",
    "static_share",
    "members_share",
    "mix",
    "olr",
)
"""Settings of the transform, which other methods have not."""
