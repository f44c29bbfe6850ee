"""The methods `letkf` and `hybrid`: an ensemble Kalman filter whose members are carried from cycle to cycle.

A member is the state of the chain plus a perturbation. The perturbations are updated by the local ensemble transform
(`algebra`), relaxed to those of the background, and added to the analysis. The analysis of `letkf` comes from the
covariance of the members. That of `hybrid` comes from a mixture of it with the covariance of a static ensemble
(Hamill and Snyder 2000, doi:10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2), by joining the perturbations of both:
forecasts of a smooth model lose spread, and few members know few directions. With `mix: gain` the gains are mixed
instead (Penny 2014, doi:10.1175/MWR-D-13-00131.1): optimal interpolation corrects the members' analysis once more.

The static ensemble is that of `oi`. It also gives the first members, and samples of the model's error, which each
background member gets: perturbations of the initial state do not show what the model does wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dacycle.assimilators.base import Analysis, AssimilatorError, OlderFrame, Past
from dacycle.assimilators.classical.background_error import BackgroundError, shifted
from dacycle.assimilators.classical.localisation import Blocks, Surroundings, gaspari_cohn, triangle, upper_squares
from dacycle.assimilators.classical.observed import ObservedCells, Olr, check_fields, observed_cells
from dacycle.assimilators.classical.oi import OptimalInterpolation
from dacycle.assimilators.ensemble.algebra import (
    adaptive_inflation,
    collapse,
    mean_weights,
    relax_spread,
    spread,
    square_root,
    vertical_localisation,
)
from dacycle.assimilators.ensemble.olr import LearnedOlr
from dacycle.assimilators.ensemble.settings import EnsembleSettings
from dacycle.assimilators.ensemble.static import Draws, load_static
from dacycle.forecast_adapter.channels import GROUPS, LEVELS, NAMES
from dacycle.obs_ingest.operators.learned import LearnedOperator

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["EnsembleFilter", "load"]

BLOCK = 2
"""Weights vary smoothly, and are interpolated from the centres of blocks of this many cells along a side.

Yang et al. 2009 (doi:10.1002/qj.353).
"""

SHIFT = 11.25
"""Degrees of longitude by which the static ensemble is also shifted, to the west and to the east.

Its statistics hardly change along a parallel, so that this makes three members of one.
"""

_CHANNELS = len(NAMES)


class EnsembleFilter(Draws):
    """A local ensemble transform Kalman filter, with or without a static part of the covariance.

    Args:
        name: `letkf` or `hybrid`, which has a static part.
        error: the static ensemble.
        settings: of the ensemble.
        threads: threads of the matrix products; the same number gives the same bits.
        learned: operator of OLR in place of the static ensemble's regression on a column.
    """

    controlled = False

    def __init__(
        self,
        name: str,
        error: BackgroundError,
        settings: EnsembleSettings,
        threads: int = 1,
        learned: LearnedOperator | None = None,
    ) -> None:
        settings = settings.completed(name)
        super().__init__(name, error, settings)
        self.name, self.settings = name, settings
        self.grid, self.world, self.digest = error.grid, error.world, error.digest
        self.learned = learned
        self.planes: tuple[str, ...] = () if error.olr is None and learned is None else ("olr",)
        share = settings.static_share or 0.0
        self._gain = share if settings.mix == "gain" else 0.0  # of the static ensemble
        self._share = share - self._gain  # of it in P
        self._of_members = 1 - self._share if settings.members_share is None else settings.members_share
        again = replace(error.tuning, shift=SHIFT, block=BLOCK)
        self._static = OptimalInterpolation(error, again, threads=threads) if self._gain else None
        self._scale = np.float32(np.sqrt(self._of_members / (self.size - 1)))  # of the members in P
        wide, self._static_factor = self._static_part()
        self._wide = wide[:, :_CHANNELS]
        # P in each cell, the members' part first, which every update writes anew: (cells, 69 + M, K).
        static = _by_cell(wide) * self._static_factor
        self._joined = np.concatenate([np.zeros((*static.shape[:2], self.size), np.float32), static], axis=2)
        self._surroundings = Surroundings(self.grid, settings.localisation_km, BLOCK)
        self._blocks = Blocks(self.grid, BLOCK)
        self._layers = _Layers.of(settings.vertical_lnp, len(self.planes))
        self._adaptive = settings.inflation == "adaptive"
        self._threads, self._pools = threads, ThreadpoolController()

    def with_members(
        self, perturbations: NDArray, generator: np.random.Generator, older: NDArray | None = None
    ) -> "Update":
        """Return the assimilator of one chain whose background has these perturbations (N, 69, H, W), SI.

        Args:
            perturbations: of the background.
            generator: not used: nothing is drawn.
            older: perturbations of the frame 6 h before, from which those of the background were forecast. With them
                the analysis corrects that frame as well, by the same weights (an ensemble smoother: Evensen and van
                Leeuwen 2000).
        """
        return Update(self, perturbations, older)

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Refuse: without the members of the cycle before, there is no analysis."""
        raise AssimilatorError(
            f"{self.name} carries members from cycle to cycle; run it in an experiment, or use oi for one analysis"
        )

    def update(
        self,
        background: NDArray,
        perturbations: NDArray,
        older: NDArray | None,
        values: NDArray,
        errors: NDArray,
        past: Past | None = None,
    ) -> Analysis:
        """Correct one chain, (1, 69, H, W); the analysis holds the new perturbations as `members`, and `older`."""
        check_fields(self.name, self.grid, self.planes, background, values, errors)
        with self._pools.limit(limits=self._threads, user_api="blas"):
            olr = self._olr(background[0], past)
            analysis = self._update(background[0], perturbations, older, values[0], errors[0], olr)
        if self._static is not None:
            further = self._static.analyse(analysis.state, values, errors).state - analysis.state
            analysis = replace(analysis, state=analysis.state + np.float32(self._gain) * further)
        return analysis

    def _olr(self, background: NDArray, past: Past | None) -> Olr | None:
        """Return the operator of OLR at a background, with the static ensemble's equivalents by it in P."""
        if self.learned is None:
            return None if self._error.olr is None else self._error.olr.operator
        if past is None:
            raise AssimilatorError(
                f"{self.name} with ensemble.olr: learned needs the frame 6 h before; run it in an experiment"
            )
        olr = LearnedOlr.about(self.learned, past.newer, background)
        if len(self._wide):
            slopes = olr.slopes(background, self._wide)
            self._joined[:, _CHANNELS, self.size :] = self._static_factor * slopes.reshape(len(slopes), -1).T
        return olr

    def _static_part(self) -> tuple[NDArray[np.float32], np.float32]:
        """Return the static ensemble with its equivalents, (S, 69 + M, H, W), and the factor on it in P.

        S is 0 without a share. Equivalents by a learned operator, which depend on the background, are 0 here.
        """
        error = self._error
        count = len(error.members) if self._share else 0
        static = error.members[:count] * self._inflation
        if self.planes:
            regression = error.olr if self.learned is None else None
            olr = np.zeros_like(static[:, :1]) if regression is None else regression.members[:count, None]
            static = np.concatenate([static, olr * self._inflation[GROUPS["q"][0]]], axis=1, dtype=np.float32)
        wide = shifted(static, SHIFT)
        factor = np.float32(np.sqrt(self._share / max(len(wide) // max(count, 1), 1) / max(count - 1, 1)))
        return wide, factor

    def _update(
        self,
        background: NDArray,
        perturbations: NDArray,
        older: NDArray | None,
        values: NDArray,
        errors: NDArray,
        olr: Olr | None,
    ) -> Analysis:
        members = _with_equivalents(background, perturbations, olr)
        joined = self._joined
        np.multiply(members, self._scale, out=joined[..., : self.size])
        observed = observed_cells(background, values, errors, olr)
        now = _Frame.of(joined, members)
        before = None if older is None else _Frame.of(self._joined_before(older, joined), _by_cell(older))
        factors = np.ones((_CHANNELS, members.shape[0]), np.float32)
        for cells, weights, transforms, sizes in self._weights(joined, observed):
            for layer, channels in enumerate(self._layers.channels):
                factors[channels, cells] = sizes[:, layer]
                now.update(cells, channels, weights[:, layer], transforms[:, layer])
                if before is not None:
                    before.update(cells, channels, weights[:, layer], transforms[:, layer])
        state = background.reshape(_CHANNELS, -1) + now.increment
        inflated = perturbations * factors.reshape(background.shape)
        after = self._relaxed(now.after.reshape(perturbations.shape), inflated)
        return Analysis(
            state.reshape(1, *background.shape),
            spread(after)[None],
            {
                "observations": [int(np.count_nonzero(observed.precision))],
                **({"inflation": [float(np.square(factors).mean())]} if self._adaptive else {}),
            },
            members=after[None],
            doubts=[self._doubt(members, observed)],
            older=[] if before is None or older is None else [self._older_frame(before, older, factors)],
        )

    def _joined_before(self, older: NDArray, joined: NDArray) -> NDArray[np.float32]:
        """Return P (cells, 69, K) of the frame before: the members there, and the static part of this one."""
        return np.concatenate([_by_cell(older) * self._scale, joined[:, :_CHANNELS, self.size :]], axis=2)

    def _older_frame(self, updated: "_Frame", perturbations: NDArray, factors: NDArray) -> OlderFrame:
        inflated = perturbations * factors.reshape(perturbations.shape[1:])
        after = self._relaxed(updated.after.reshape(perturbations.shape), inflated)
        return OlderFrame(updated.increment.reshape(perturbations.shape[1:]), after)

    def _weights(self, joined: NDArray, observed: ObservedCells) -> Iterator[tuple[slice, NDArray, NDArray, NDArray]]:
        """Yield cells of a row of the grid, and there weights (W, A, K), transforms (W, A, N, N) and inflation (W, A).

        Args:
            joined: (cells, 69 + M, K) perturbations whose first N are the members'.
            observed: of the chain.
        """
        seen = self._information(joined, observed)
        rows = [self._row_weights(row, observed.cells, seen) for row in range(self._surroundings.shape[0])]
        fields = [np.stack(of_rows) for of_rows in zip(*rows, strict=True)]
        for of_row, (weights, transforms, sizes) in self._blocks.rows(*fields):
            yield of_row, weights, transforms, sizes

    def _information(self, joined: NDArray, observed: ObservedCells) -> "_Information":
        """Return what the observations of each cell say."""
        cells, size = len(observed.cells), joined.shape[2]
        shape = cells, len(self._layers.fields)
        matrix, projected, fit = (np.zeros((*shape, n), np.float32) for n in (size * (size + 1) // 2, size, 3))
        sounded = observed.precision[:, len(GROUPS["surface"]) : _CHANNELS].any(axis=1)
        for layer, fields in enumerate(self._layers.fields):
            for some in (np.flatnonzero(sounded), np.flatnonzero(~sounded)):  # these have few fields, and are many
                where = np.ix_(some, fields[observed.precision[np.ix_(some, fields)].any(axis=0)])
                Y = joined[np.ix_(observed.cells[some], where[1][0])] * observed.precision[where][:, :, None]
                departures = observed.departures[where]
                matrix[some, layer] = upper_squares(Y)
                projected[some, layer] = (Y.transpose(0, 2, 1) @ departures[:, :, None])[:, :, 0]
                count = np.count_nonzero(observed.precision[where], axis=1)
                fit[some, layer, 0] = np.square(departures).sum(axis=1) - count
                fit[some, layer, 1] = np.square(Y[..., : self.size]).sum(axis=(1, 2)) / self._of_members
                fit[some, layer, 2] = count
        return _Information(matrix, projected, fit)

    def _row_weights(
        self, row: int, cells: NDArray, seen: "_Information"
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return weights (W', A, K), transforms (W', A, N, N) and inflation (W', A) at the points of a row.

        Beyond the reach of all observations they are 0, identity and 1.

        Args:
            row: of the points.
            cells: (C,) the observed cells.
            seen: in these cells.
        """
        layers, size, points = len(self._layers.channels), seen.projected.shape[2], self._surroundings.shape[1]
        weights = np.zeros((points, layers, size), np.float32)
        transforms = np.tile(np.eye(self.size, dtype=np.float32), (points, layers, 1, 1))
        sizes = np.ones((points, layers), np.float32)
        columns, near, localisation = self._surroundings.of_row(row, cells)
        if columns.size:
            matrix, right, fit = (
                self._layers.localisation @ np.tensordot(localisation, x[near], 1)
                for x in (seen.matrix, seen.projected, seen.fit)
            )
            matrix = np.take(matrix, triangle(size)[1], axis=2).reshape(*matrix.shape[:2], size, size)
            scale = np.ones((*matrix.shape[:2], size), np.float32)
            if self._adaptive:
                sizes[columns] = np.sqrt(adaptive_inflation(*np.moveaxis(fit, -1, 0)))
                scale[..., : self.size] = sizes[columns][..., None]
                matrix = matrix * scale[..., :, None] * scale[..., None, :]
            weights[columns] = scale * mean_weights(matrix, scale * right)
            of_members = matrix[..., : self.size, : self.size] / self._of_members
            transforms[columns] = sizes[columns][..., None, None] * square_root(of_members)
        return weights, transforms, sizes

    def _relaxed(self, analysis: NDArray, background: NDArray) -> NDArray[np.float32]:
        """Return the perturbations of the analysis, relaxed to those of the background."""
        share = self.settings.rtpp
        mixed = (1 - share) * analysis + share * background if share else analysis
        return relax_spread(mixed, background, self.settings.rtps).astype(np.float32)

    def _doubt(self, members: NDArray, observed: ObservedCells) -> str:
        """Return what is wrong with the spread of the background; empty where nothing is."""
        seen = observed.precision > 0
        spreads = spread(np.moveaxis(members[observed.cells] * observed.precision[:, :, None], 2, 0))
        return collapse(observed.departures[seen], spreads[seen], self.settings.least_spread, "additive or rtps")


class Update:
    """A filter with the perturbations (N, 69, H, W), SI, of one chain's background; see `base.Assimilator`."""

    def __init__(
        self, method: EnsembleFilter, perturbations: NDArray, older: NDArray | None, past: Past | None = None
    ) -> None:
        self.name, self.grid, self.world = method.name, method.grid, method.world
        self.digest, self.planes = method.digest, method.planes
        self.steps = 0 if method.learned is None else 1
        self._method, self._perturbations, self._older, self._past = method, perturbations, older, past

    def with_past(self, past: Past) -> "Update":
        """Return the same with the frame before, which a learned operator takes."""
        return Update(self._method, self._perturbations, self._older, past)

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct one chain's background (1, 69, H, W); see `EnsembleFilter.update`."""
        return self._method.update(background, self._perturbations, self._older, values, errors, self._past)


@dataclass(frozen=True, eq=False)
class _Information:
    """Hold what the observations of C cells say in L layers, with Y = H P of K perturbations.

    Attributes:
        matrix: (C, L, n) upper triangles of Y^T R^-1 Y.
        projected: (C, L, K) Y^T R^-1 d.
        fit: (C, L, 3) the three sums that `algebra.adaptive_inflation` takes.
    """

    matrix: NDArray
    projected: NDArray
    fit: NDArray


@dataclass(frozen=True, eq=False)
class _Frame:
    """Hold a frame that the weights update.

    Attributes:
        joined: (cells, 69 or more, K) P of the covariance, the members' part first.
        members: (cells, 69 or more, N) their perturbations.
        increment: (69, cells) what the weights make of P.
        after: (N, 69, cells) the perturbations, transformed.
    """

    joined: NDArray
    members: NDArray
    increment: NDArray
    after: NDArray

    @classmethod
    def of(cls, joined: NDArray, members: NDArray) -> "_Frame":
        cells, size = len(members), members.shape[2]
        increment, after = (np.zeros((*shape, _CHANNELS, cells), np.float32) for shape in ((), (size,)))
        return cls(joined, members, increment, after)

    def update(self, cells: slice, channels: NDArray, weights: NDArray, transforms: NDArray) -> None:
        """Apply the weights (W, K) and the transforms (W, N, N) of some cells to channels."""
        self.increment[channels, cells] = np.einsum("wck,wk->cw", self.joined[cells, channels], weights)
        self.after[:, channels, cells] = (self.members[cells, channels] @ transforms).transpose(2, 1, 0)


@dataclass(frozen=True, eq=False)
class _Layers:
    """Hold what is localised in the vertical together.

    Attributes:
        channels: of states, by each of the A layers.
        fields: of observations, by each of the L layers.
        localisation: (A, L) how much observations of each layer count for states of each layer.
    """

    channels: list[NDArray]
    fields: list[NDArray]
    localisation: NDArray

    @classmethod
    def of(cls, reach: float | Literal["none"], planes: int) -> "_Layers":
        """Return the layers for a reach in ln p, or the whole column as one layer; further planes have all levels."""
        fields = np.arange(_CHANNELS + planes)
        if reach == "none":
            return cls([fields[:_CHANNELS]], [fields], np.ones((1, 1), np.float32))
        surface = len(LEVELS) - 1
        level = np.array([surface] * len(GROUPS["surface"]) + list(range(len(LEVELS))) * 5 + [-1] * planes)
        height = np.log(np.array(LEVELS, float))
        correlation = gaspari_cohn(height[:, None] - height, reach)
        of_states = np.arange(len(LEVELS))
        of_observations = np.unique(level)
        return cls(
            [np.flatnonzero(level[:_CHANNELS] == k) for k in of_states],
            [np.flatnonzero(level == k) for k in of_observations],
            vertical_localisation(of_states, of_observations, correlation),
        )


def _with_equivalents(background: NDArray, perturbations: NDArray, olr: Olr | None) -> NDArray[np.float32]:
    """Return the perturbations with those of the further planes, (cells, 69 + M, N)."""
    if olr is None:
        return _by_cell(perturbations)
    of_members = olr(background + perturbations)
    return _by_cell(np.concatenate([perturbations, (of_members - of_members.mean(axis=0))[:, None]], axis=1))


def _by_cell(fields: NDArray) -> NDArray[np.float32]:
    """Return fields (N, F, H, W) as (cells, F, N): the numbers of one cell are contiguous."""
    return np.ascontiguousarray(
        fields.reshape(*fields.shape[:2], np.prod(fields.shape[2:])).transpose(2, 1, 0), np.float32
    )


def load(
    name: str,
    world: "World",
    settings: EnsembleSettings | None = None,
    threads: int = 1,
    operator: LearnedOperator | None = None,
) -> EnsembleFilter:
    """Load `letkf` or `hybrid` for a world, with an experiment's settings.

    Args:
        name: of the method.
        world: whose states it corrects.
        settings: of the ensemble.
        threads: of its products.
        operator: of OLR, in place of the regression.

    Raises:
        AssimilatorError: the static ensemble is none, or was made for another grid, world or set of channels; settings
            that do not go with the method; `olr: learned` has no operator.
    """
    settings = settings or EnsembleSettings()
    for key in ("mix", "static_share", "members_share") if name == "letkf" else ():  # mix brings a share by default
        if getattr(settings, key) is not None:
            raise AssimilatorError(f"letkf has no static part: leave out ensemble.{key}, or use hybrid")
    for key in ("members_share", "olr") if settings.mix == "gain" else ():
        if getattr(settings, key) is not None:
            raise AssimilatorError(f"ensemble.{key} goes with a mixed covariance, not with mix: gain; leave one out")
    if settings.olr == "learned" and operator is None:
        raise AssimilatorError("ensemble.olr: learned, but there is no learned operator; leave it out")
    learned = None if settings.olr == "regression" or settings.mix == "gain" else operator
    return EnsembleFilter(name, load_static(settings.static, world), settings, threads, learned)
