"""The closed loop: cycles that run with the training, so that a network is trained on backgrounds of its own.

A chain makes cycles: a 6-h forecast from the last analysis, observations that are drawn, checked and gridded, and an
analysis. Each cycle is a training sample, and its analysis is the network's output in the training step. So every
background is one of the current network, and none occurs twice.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.backgrounds import within_years
from dacycle.assimilators.sampling.cycles import CycledModel
from dacycle.assimilators.trained.recent import CYCLES as RECENT_CYCLES
from dacycle.assimilators.trained.recent import recent_departures
from dacycle.assimilators.training.samples import Batch, Samples
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.models.frames import older_frame
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.relaxation import Relaxation

__all__ = ["EVERY", "ClosedLoop"]

EVERY = 2
"""One in so many samples comes from the forecasts' errors, so that the network does not forget them."""


class ClosedLoop(Dataset[Batch]):
    """Draw samples from chains, and other samples between them. A chain begins with the error of another sample.

    Samples must be taken in order, with or without workers: the chains take turns, and at most `ahead` samples may be
    taken before the first of them has been analysed.

    Args:
        others: the other samples; the loop has as many in all.
        model: the forecast model, by name or file.
        ahead: how many samples may be in flight.
        longest: most cycles of a chain.
        frames, relaxation: as those of `CycledModel`.
        recent: whether values and errors of a sample have the departures of the last 24 hours behind them, 0 in the
            other samples.

    Raises:
        DataError: the reference is too short for a chain.
    """

    def __init__(
        self,
        others: Samples,
        model: str,
        ahead: int,
        longest: int,
        frames: float | None = None,
        relaxation: Relaxation | None = None,
        recent: bool = False,
    ) -> None:
        self.others, self.model, self.recent = others, model, recent
        self.frames, self.relaxation = frames, relaxation
        slots = EVERY * -(-max(len(others) // longest, ahead) // EVERY)
        self._starts, errors = self._begin(slots, -(-len(others) // slots))
        world = others.observing.world
        shape = (slots, len(NAMES), *world.grid.shape)
        self._previous, self._current, self._background = (_shared(shape, torch.float32) for _ in range(3))
        self._cycles = _shared((slots,), torch.int64)
        # Departures of the last cycles, and their errors; the newest takes the place of the oldest.
        kept = (slots, RECENT_CYCLES if recent else 0, *shape[1:])
        self._values, self._errors = _shared(kept, torch.float32), _shared(kept, torch.float32)
        for slot, (start, error) in enumerate(zip(self._starts, errors, strict=True)):
            error = error.astype(np.float32) * world.statistics.std[:, None, None]
            for frame, time in ((self._previous, start - STEP), (self._current, start)):
                frame[slot] = _moist(world.reference.array(time) + error)

    def _begin(self, slots: int, cycles: int) -> tuple[NDArray[np.datetime64], NDArray[np.float16]]:
        """Return when each chain begins, and with which error; each chain lies within one year."""
        backgrounds, reference = self.others.backgrounds, self.others.observing.world.reference
        whole = within_years(reference, backgrounds.times - STEP, backgrounds.times + cycles * STEP)
        if not whole.any():
            raise DataError(f"{reference.folder}: too short for chains of {cycles} cycles")
        generator = np.random.default_rng(self.others.seed)
        chosen = np.sort(generator.choice(np.flatnonzero(whole), slots))
        return backgrounds.times[generator.permutation(chosen)], backgrounds.errors[chosen]

    @cached_property
    def _forecaster(self) -> CycledModel:
        """The forecast model, loaded in the worker that uses it."""
        return CycledModel(load_model(self.model), self.frames, self.relaxation)

    def __len__(self) -> int:
        return len(self.others)

    def __getitem__(self, item: int) -> Batch:
        slot = item % len(self._starts)
        if slot % EVERY == 0:
            return self._with_recent(self.others[item])
        previous, current = (frame[slot].numpy()[None] for frame in (self._previous, self._current))
        time = self._starts[slot] + (int(self._cycles[slot]) + 1) * STEP
        background = self._forecaster.background(previous, current, time)[0]
        self._background[slot] = torch.from_numpy(background)
        # Errors of sparsely observed chains are many times as large, and would dominate the loss.
        subset = self.others.observing.usual(slot // EVERY)
        fields = self.others.observed(time, background, subset, np.random.default_rng([self.others.seed, item]))
        batch = self._with_recent((*fields, torch.tensor(slot)), slot)
        if self.recent:
            seen = fields[2][: len(NAMES)] > 0
            newest = int(self._cycles[slot]) % RECENT_CYCLES
            self._values[slot, newest] = torch.where(seen, fields[1][: len(NAMES)] - torch.from_numpy(background), 0)
            self._errors[slot, newest] = fields[2][: len(NAMES)]
        return batch

    def _with_recent(self, batch: Batch, slot: int | None = None) -> Batch:
        """Return a sample with the recent departures of a chain, or of none, behind its values and errors."""
        if not self.recent:
            return batch
        state, values, errors, target, number = batch
        departures, their_errors = np.zeros((2, *state.shape), np.float32)
        if slot is not None:
            past = zip(self._values[slot].numpy(), self._errors[slot].numpy(), strict=True)
            departures, their_errors = recent_departures([(np.zeros_like(departures), *cycle) for cycle in past])
        further = (torch.from_numpy(part) for part in (departures, their_errors))
        values, errors = (torch.cat(pair) for pair in zip((values, errors), further, strict=True))
        return state, values, errors, target, number

    def analysed(self, slots: Tensor, analyses: Tensor) -> None:
        """Continue the chains from the normalised analyses (B, 69, H, W) of a batch."""
        states = self.others.observing.world.statistics.denormalise(analyses.float().cpu().numpy())
        for slot, state in zip(slots.tolist(), states, strict=True):
            if slot >= 0:
                analysis = _moist(state)
                before, background = self._current[slot].numpy(), self._background[slot].numpy()
                self._previous[slot] = torch.from_numpy(older_frame(before, background, analysis.numpy(), self.frames))
                self._current[slot] = analysis
                self._cycles[slot] += 1


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory that workers and the training share."""
    return torch.zeros(shape, dtype=dtype).share_memory_()


def _moist(state: NDArray[np.float32]) -> Tensor:
    """Return a state (69, H, W) in SI units without negative humidity."""
    state = np.array(state, np.float32)
    state[GROUPS["q"]] = np.maximum(state[GROUPS["q"]], 0)
    return torch.from_numpy(state)
