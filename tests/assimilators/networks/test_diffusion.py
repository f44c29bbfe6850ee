"""The sampler of diffusion methods, with a denoiser that is exact for Gaussian errors, against the Kalman filter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dacycle.assimilators.export.assimilator import write_graph
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.blocks.base import Constants
from dacycle.assimilators.networks.blocks.diffusion import DiffusionNetwork, DiffusionSize, least_residual
from dacycle.assimilators.trained.network import TrainedAssimilator, assimilator_metadata
from dacycle.assimilators.training.assimilation import TorchAssimilator
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.onnxfile import write_metadata

GRID = get_grid("5.625deg")
SHAPE = (69, *GRID.shape)
MODES = 24
PAIRS = 6


class Gaussian(DiffusionNetwork):
    """Errors of a few orthonormal modes with known variances; all other modes have no error."""

    def __init__(self, seed: int, **size: Any) -> None:
        ones, planes = np.ones(69, np.float32), np.ones(3, np.float32)
        static, bias = np.zeros((4, *GRID.shape), np.float32), np.zeros((5, *SHAPE), np.float32)
        season = np.zeros((2, 13 * GRID.shape[0] + 1), np.float32)
        constants = Constants(0 * ones, ones, ones, 0 * planes, planes, static, season, bias)
        super().__init__(GRID, constants, DiffusionSize(**{"context": 4, "steps": 16, "pairs": PAIRS, **size}), SHAPE)
        generator = np.random.default_rng(seed)
        modes = np.linalg.qr(generator.standard_normal((np.prod(SHAPE), MODES)))[0]
        self.modes = torch.from_numpy(modes.astype(np.float32))
        self.variances = torch.from_numpy(np.geomspace(100, 20000, MODES).astype(np.float32))

    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        share = self.variances / (self.variances + noise.flatten().square())
        return ((x.flatten(1) @ self.modes) * share @ self.modes.T).reshape(x.shape)

    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        return latent

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError


def members_and_posterior(seed: int, share: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Return the sampled members, the Kalman filter's mean and covariance, and the means' standard errors, by mode."""
    network, generator = Gaussian(seed).eval(), np.random.default_rng(seed)
    modes, variances = network.modes.numpy().astype(float), network.variances.numpy().astype(float)
    background = torch.full((1, *SHAPE), float(seed))  # noise is the background's
    truth = (modes @ (np.sqrt(variances) * generator.standard_normal(MODES))).reshape(SHAPE).astype(np.float32)
    seen = generator.random(SHAPE) < share
    error = np.where(seen, 0.5, 0).astype(np.float32)
    values = np.where(seen, seed + truth + error * generator.standard_normal(SHAPE), 0).astype(np.float32)
    nothing = np.zeros((3, *GRID.shape), np.float32)
    given = [background, *(torch.from_numpy(np.concatenate([part, nothing])[None]) for part in (values, error))]
    with torch.no_grad():
        departure, errors, _ = network.observed(background, *given[1:])
        carried = [torch.from_numpy(part) for part in network.stepping.start(background[0].numpy())]
        for step in range(network.stepping.steps):
            _, _, *carried = network(*given, torch.tensor([step]), *carried)
    members = carried[1].flatten(1).numpy().astype(float) @ modes
    observed = seen.ravel()
    H, R = modes[observed], errors[0, :69].numpy().ravel()[observed].astype(float) ** 2
    precision = H.T @ (H / R[:, None]) + np.diag(1 / variances)
    posterior = np.linalg.inv(precision)
    y = departure[0, :69].numpy().ravel()[observed].astype(float)
    return members, posterior @ (H.T @ (y / R)), posterior, variances


@pytest.mark.parametrize(("seed", "share"), [(0, 0.05), (1, 0.2)])
def test_members_have_the_mean_and_the_covariance_of_the_kalman_filter(seed: int, share: float) -> None:
    members, mean, posterior, variances = members_and_posterior(seed, share)
    spread = np.sqrt(np.diag(posterior))
    assert (spread < 0.9 * np.sqrt(variances)).all()  # something was observed
    # Pairs of opposite noise: for Gaussian errors their mean has no sampling error, only that of few steps.
    off = np.linalg.norm(members.mean(0) - mean)
    assert off < 0.3 * np.linalg.norm(spread) + 0.02 * np.linalg.norm(mean)
    half = 0.5 * (members[:PAIRS] - members[PAIRS:])
    ratio = (half**2).mean(0) / np.diag(posterior)
    assert abs(ratio.mean() - 1) < 3 * np.sqrt(2 / PAIRS / MODES) + 0.1
    assert np.abs(ratio - 1).max() < 4 * np.sqrt(2 / PAIRS)


class Independent(Gaussian):
    """Errors of variance 1 that are independent everywhere, so that the published guidance has the right form."""

    def __init__(self, **size: Any) -> None:
        super().__init__(0, **size)

    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        return x / (1 + noise.square())


def test_the_published_guidance_finds_the_posterior_mean_of_independent_errors() -> None:
    """Where gamma says what the noise leaves unknown, guidance and sampler lead to the mean of many members."""
    network, generator = Independent(guidance="published", steps=64, pairs=8).eval(), np.random.default_rng(3)
    background = torch.zeros((1, *SHAPE))
    seen = generator.random(SHAPE) < 0.3
    error = np.where(seen, 0.3, 0).astype(np.float32)
    values = np.where(seen, generator.standard_normal(SHAPE), 0).astype(np.float32)
    nothing = np.zeros((3, *GRID.shape), np.float32)
    given = [background, *(torch.from_numpy(np.concatenate([part, nothing])[None]) for part in (values, error))]
    with torch.no_grad():
        departure, errors, _ = network.observed(background, *given[1:])
        carried = [torch.from_numpy(part) for part in network.stepping.start(background[0].numpy())]
        for step in range(network.stepping.steps):
            _, _, *carried = network(*given, torch.tensor([step]), *carried)
    r = errors[0, :69].numpy()
    mean = np.where(seen, departure[0, :69].numpy() / (1 + r**2), 0)
    found = carried[0].mean(0).numpy()
    assert np.polyfit(mean[seen], found[seen], 1)[0] == pytest.approx(1, abs=0.12)
    assert abs(found[~seen].mean()) < 0.01
    assert {tensor.name for tensor in network.stepping.carried} == {"sample", "shocks"}


def test_a_file_with_the_published_guidance_steps_as_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ones, planes = np.ones(69, np.float32), np.ones(3, np.float32)
    static, bias = np.zeros((4, *GRID.shape), np.float32), np.zeros((5, *SHAPE), np.float32)
    season = np.zeros((2, 13 * GRID.shape[0] + 1), np.float32)
    size = DiffusionSize(context=8, width=16, coarse=16, depth=1, steps=5, pairs=1, guidance="published")
    constants = Constants(0 * ones, ones, ones, 0 * planes, planes, static, season, bias)
    network = METHODS["diffusion"].network(GRID, constants, size).requires_grad_(False).eval()
    for weights in network.parameters():
        if weights.ndim > 1 and not weights.any():
            torch.nn.init.normal_(weights, std=0.01)
    path = tmp_path / "published.onnx"
    write_graph(network, path)
    about = assimilator_metadata(
        "published", "1", GRID.name, "tiny", tuple(network.planes), "diffusion", size.reach_km,
        stepping=network.stepping.as_dict(),
    )  # fmt: skip
    write_metadata(path, about)
    generator = np.random.default_rng(0)
    background = generator.standard_normal((1, *SHAPE)).astype(np.float32)
    errors = (generator.random((1, network.inputs, *GRID.shape)) < 0.1).astype(np.float32)
    given = background, errors * generator.standard_normal(errors.shape).astype(np.float32), errors
    found, expected = TrainedAssimilator(path).analyse(*given), TorchAssimilator(network, GRID, "tiny").analyse(*given)
    np.testing.assert_allclose(found.state, expected.state, atol=1e-4)
    np.testing.assert_allclose(found.spread, expected.spread, atol=1e-4)
    assert np.abs(found.state - background).max() > 1e-2


def test_an_unknown_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="'exact' is unknown; it is solved or published"):
        DiffusionSize(guidance="exact")


@given(seed=st.integers(0, 99), gradients=st.integers(24, 30))
@settings(max_examples=20)
def test_conjugate_residuals_solve_the_equation(seed: int, gradients: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    H, root = (torch.randn(12, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    C = 0.1 * root.T @ root
    y, first = (torch.randn(3, 12, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    pull, v = least_residual(
        lambda v: (v[..., 0, 0] @ H @ C)[..., None, None], lambda x: (x[..., 0, 0] @ H.T)[..., None, None],
        y, first, torch.ones_like(y), gradients,
    )  # fmt: skip
    expected = torch.linalg.solve(torch.eye(12, dtype=torch.float64) + H @ C @ H.T, y[..., 0, 0].T).T
    torch.testing.assert_close(v[..., 0, 0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pull[..., 0, 0], expected @ H @ C, atol=1e-4, rtol=1e-4)


@given(seed=st.integers(0, 99), gradients=st.integers(0, 4), size=st.floats(0.1, 100))
@settings(max_examples=30)
def test_what_is_left_of_the_equation_never_grows(seed: int, gradients: int, size: float) -> None:
    """Even for a Jacobian that is neither symmetric nor positive, and a bad first guess."""
    generator = torch.Generator().manual_seed(seed)
    spread, observe = (torch.randn(2, 12, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    y, first = (torch.randn(2, 12, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))

    def through(matrix: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("bij,bjhw->bihw", matrix, x)

    diagonal = 1 + 100 * torch.rand(y.shape, generator=generator, dtype=torch.float64)
    pull, v = least_residual(
        lambda v: size * through(spread, v), lambda x: through(observe, x), y, first, diagonal, gradients
    )
    left = y - v - through(observe, pull)
    assert (left.norm(dim=1) <= (1 + 1e-9) * y.norm(dim=1)).all()


@given(seed=st.integers(0, 99))
@settings(max_examples=20)
def test_independent_errors_take_one_direction_however_exact_observations_are(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    precision = 10 ** (4 * torch.rand(1, 12, 4, 4, generator=generator, dtype=torch.float64) - 2)
    y = torch.randn(1, 12, 4, 4, generator=generator, dtype=torch.float64)
    diagonal = 1 + precision**2
    pull, _ = least_residual(
        lambda v: precision * v, lambda x: precision * x, y, torch.zeros_like(y), diagonal, gradients=1
    )
    torch.testing.assert_close(pull, precision * y / diagonal)
