"""The two frames that a forecast starts from, after an analysis has changed the newer one."""

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS

__all__ = ["older_frame"]


def older_frame(
    older: NDArray[np.float32], background: NDArray[np.float32], analysis: NDArray[np.float32], share: float
) -> NDArray[np.float32]:
    """Return the older frame with a share of the newer frame's increment, without negative humidity.

    A network trained on seamless pairs takes an increment in the newer frame alone for a tendency, and carries it on.
    With the increment in both frames the tendency stays that of the background.

    Args:
        older: the frame 6 h before the analysis, (..., 69, H, W), SI.
        background, analysis: the newer frame before and after the analysis, of the same shape.
        share: of the increment, 0 to 1.
    """
    moved = older + np.float32(share) * (analysis - background)
    moved[..., GROUPS["q"], :, :] = np.maximum(moved[..., GROUPS["q"], :, :], 0)
    return moved
