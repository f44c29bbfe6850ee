"""What an experiment sets for members: its key `ensemble`."""

from typing import Literal

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
    At most half the globe."""
    vertical_lnp: float | None = Field(default=None, gt=0)
    """The same in the vertical, as the logarithm of a ratio of pressures; default: none, observations of a column
    correct all of it."""
    rtps: float = Field(default=0.95, ge=0, le=1.5)
    """Relaxation of the spread to that of the background: 0 is none, 1 restores it."""
    rtpp: float = Field(default=0.0, ge=0, lt=1)
    """Relaxation of the perturbations to those of the background: 0 is none, 1 would restore them."""
    inflation: Literal["adaptive"] | None = None
    """`adaptive`: the members' covariance gets the factor that the departures around a place ask for; default: none."""
    additive: float | None = Field(default=None, ge=0)
    """Size of the samples of the model's error that background members get, as a share of the static ensemble's;
    default: 0.04 of `letkf` and `hybrid`, 0.16 of others."""
    static_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the static ensemble in the covariance of `hybrid`, or in its gain; default: a half."""
    members_share: float | None = Field(default=None, gt=0, le=1)
    """Share of the members' covariance in that of `hybrid`; default: what `static_share` leaves. With fewer than that,
    the spread can have the size of the error while what few members sample badly counts less."""
    mix: Literal["gain"] | None = None
    """`gain`: the analysis of `hybrid` is that of the members, corrected by `static_share` of what optimal
    interpolation with the static ensemble would add; default: their covariances are mixed."""
    static: str = "oi"
    """The static ensemble: a packaged one, or a file that `dacycle train` made of a recipe of kind `oi`."""
    olr: Literal["learned"] | None = None
    """`learned`: the world's learned operator computes OLR; default: the regression on a column that the static
    ensemble's file holds."""
    least_spread: float = Field(default=0.1, ge=0, lt=1)
    """With less spread than this share of the background's error, as departures imply it, a cycle is `degraded`."""

    def completed(self, of_filter: bool) -> "EnsembleSettings":
        """Return the settings with the default of `additive`, of a filter or of another method."""
        return self.model_copy(update={"additive": self.additive_of(of_filter)})

    def additive_of(self, of_filter: bool) -> float:
        """Return `additive`, or its default, of a filter or of another method."""
        return (0.04 if of_filter else 0.16) if self.additive is None else self.additive


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
