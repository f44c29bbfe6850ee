"""What an experiment sets for optimal interpolation: its key `tuning`; and how recipes and experiments write it."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from dacycle.assimilators.classical.background_error import Tuning
from dacycle.common.configuration import Number, Strict
from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.physics import HALF_GLOBE_KM

__all__ = ["Inflation", "TuningSettings"]


def _inflation(value: Any) -> float | dict[str, float]:
    factors = value.values() if isinstance(value, dict) else [value]
    if not all(isinstance(factor, int | float) and not isinstance(factor, bool) for factor in factors):
        raise ValueError(f"is one number or one for each of {', '.join(GROUPS)}, not {value!r}")
    Tuning(value)
    return value


Inflation = Annotated[float | dict[str, float], PlainValidator(_inflation)]
"""Factor on the ensemble's deviations: one number, or one for each group of channels."""


class TuningSettings(Strict):
    """Set what differs from the settings that a file of background errors holds."""

    model_config = ConfigDict(strict=True)

    inflation: Inflation | None = None
    """Factor on the ensemble's deviations: one number, or one for each group of channels."""
    distance_km: Number | None = Field(default=None, gt=0, le=HALF_GLOBE_KM)
    """Great-circle distance from which on an observation has no influence, at most half the globe."""
    shift: Number | None = Field(default=None, ge=0, lt=180)
    """Degrees of longitude by which the members are also shifted, to the west and to the east; 0: they are not."""
    block: int | None = Field(default=None, ge=1)
    """Weights are computed at the centres of blocks of so many cells along a side, and interpolated."""
