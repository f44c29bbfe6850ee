"""FengWu's published releases and statistics: where they are, and on what terms.

FengWu (Chen et al. 2023, arXiv 2304.02948) is not part of dacycle, and nothing here fetches it. Its files take and
return normalised frames; `registry` registers a file that a user has brought.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.statistics import Statistics

__all__ = ["ERA5", "LICENCE", "OPERATIONAL", "RELEASES", "Release", "published_statistics"]

ERA5, OPERATIONAL = "era5", "operational"
"""Kinds of reference that a world names (`reference:` in its world.yaml) and that a model is made for."""

LICENCE = "CC BY-NC-SA 4.0: no commercial use; whoever shares the weights shares them on the same terms"

_STATISTICS = Path(__file__).with_name("fengwu_statistics.csv")
_REPOSITORY = "https://github.com/OpenEarthLab/FengWu"


@dataclass(frozen=True)
class Release:
    """One published file of weights.

    Attributes:
        name: its name in experiments.
        file: the published name of the file.
        where: the page that links to it.
        made_for: the kind of states that it forecasts.
        grid: its grid.
        about: its training and limits, in a sentence or two.
    """

    name: str
    file: str
    where: str
    made_for: str
    grid: str
    about: str

    def how_to_get(self) -> str:
        """Return how a user gets the file, in a sentence or two."""
        statistics = " with data_mean.npy and data_std.npy" if self.where == _REPOSITORY else ""
        return (
            f"its weights are not part of dacycle (licence {LICENCE}). Get {self.file}{statistics} by the links at "
            f"{self.where}, then `dacycle models add {self.name} {self.file}`. Until then `mini` has the same contract"
        )


RELEASES: dict[str, Release] = {
    release.name: release
    for release in (
        Release(
            "fengwu-v1", "fengwu_v1.onnx", _REPOSITORY, ERA5, "0.25deg",
            "Trained on ERA5. Its authors ask that it be judged on ERA5 only; for operational analyses there is v2.",
        ),
        Release(
            "fengwu-v2", "fengwu_v2.onnx", _REPOSITORY, OPERATIONAL, "0.25deg",
            "v1 refined with operational analyses to 2021: for real time, not for ERA5.",
        ),
        Release(
            "fengwu-128x256", "FengWu.onnx", "https://github.com/OpenEarthLab/FNP", ERA5, "1.40625deg",
            "Trained on ERA5 at 128 x 256. Its latitudes are not published: those of the cells' centres are assumed, "
            "89.296875 N to 89.296875 S, which is how its authors' code resizes fields. Nor are statistics published "
            "beside it: those of v1 are assumed.",
        ),
    )
}  # fmt: skip


def published_statistics() -> Statistics:
    """Return the mean and standard deviation of each channel that normalise FengWu's frames."""
    table = pd.read_csv(_STATISTICS, comment="#", index_col="channel").loc[NAMES]
    mean, std = (table[key].to_numpy(np.float32) for key in ("mean", "std"))
    return Statistics(mean, std, ERA5, f"published beside FengWu's inference code, {_REPOSITORY}")
