"""The stored analyses that the next cycle starts from: a read-only reader, handed down to the stages of a cycle."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.experiment import STEP
from dacycle.forecast_adapter.models.frames import older_frame

__all__ = ["StoredFrames"]


class StoredFrames:
    """Read the analyses of a branch as the archive holds them.

    Args:
        branch: whose analyses are read.
    """

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._frames: dict[pd.Timestamp, NDArray[np.float32]] = {}

    def frame(self, time: pd.Timestamp) -> NDArray[np.float32]:
        """Return the analysis (69, H, W) at `time`, read-only; frames more than 6 h before it are no longer kept.

        Raises:
            ArchiveError: there is no such analysis, or it is damaged.
        """
        if time not in self._frames:
            values = self._branch.frame(time)
            self._frames = {t: frame for t, frame in self._frames.items() if t >= time - STEP} | {time: values}
        return self._frames[time]

    def pair(self, time: pd.Timestamp) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the two frames (69, H, W) that a forecast from the analysis at `time` starts from, the older first.

        The older one is the analysis 6 h before, with the share of the increment at `time` that the experiment's
        `frames` says, or as the cycle at `time` has kept it. The two frames of a cold start are as they were given.

        Raises:
            ArchiveError: as `frame`.
        """
        share = self._branch.experiment.frames
        if self._may_keep_older and (kept := self._branch.smoothed(time)) is not None:
            return kept, self.frame(time)
        older, newer = self.frame(time - STEP), self.frame(time)
        if share is None or share == "smoothed" or time <= self._branch.times[1]:
            return older, newer
        return older_frame(older, self._branch.state("background", time).values, newer, share), newer

    def perturbations(self, time: pd.Timestamp) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return the members' perturbations (N, 69, H, W) of the two frames of `pair`; None where none are kept.

        Raises:
            ArchiveError: as `frame`.
        """
        kept = self._branch.smoothed_members(time) if self._may_keep_older else None
        return self._branch.members(time - STEP) if kept is None else kept, self._branch.members(time)

    @property
    def _may_keep_older(self) -> bool:
        """Whether cycles may have kept the older frame of the forecast from them; a fork has those of its donor."""
        experiment = self._branch.experiment
        return experiment.frames == "smoothed" or bool(experiment.late or experiment.cold_start.from_)

    def has_background(self, time: pd.Timestamp) -> bool:
        """Return whether the analysis at `time` has a background, which those of a cold start have not."""
        return time > self._branch.times[1]

    def pair_without_increment(self, time: pd.Timestamp) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the two frames (69, H, W) that a forecast from the background at `time` starts from, the older first.

        Raises:
            ArchiveError: there is no such background, or it is damaged.
        """
        return self.frame(time - STEP), self._branch.state("background", time).values

    def before(self, time: pd.Timestamp, count: int) -> list[NDArray[np.float32]]:
        """Return the analyses (69, H, W) before `time`, every 6 h, oldest first.

        Args:
            time: the first time after them.
            count: how many; fewer are returned where the branch does not have so many in a row.
        """
        frames: list[NDArray[np.float32]] = []
        while len(frames) < count and (earlier := time - (len(frames) + 1) * STEP) in self._branch.times:
            frames.insert(0, self.frame(earlier))
        return frames
