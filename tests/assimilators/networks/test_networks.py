"""Layers on the sphere against independent sums, and the invariants of every method for any weights."""

import copy
import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.assimilators.classical.localisation import gaspari_cohn
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.networks.adapter import (
    AdaptedAdasSize,
    AdaptedFnpSize,
    AdaptedNetwork,
    AdaptedVaeVar,
    AdaptedVaeVarSize,
)
from dacycle.assimilators.networks.adas import AdasNetwork, AdasSize, unified_mae
from dacycle.assimilators.networks.blocks.base import AnalysisNetwork, Constants
from dacycle.assimilators.networks.blocks.departures import DepartureSize, gaussian_loss
from dacycle.assimilators.networks.blocks.diffusion import DiffusionSize
from dacycle.assimilators.networks.blocks.layers import (
    Attention,
    Depthwise,
    RadialConvolution,
    SpectralMix,
    meridional_transform,
    zonal_transform,
)
from dacycle.assimilators.networks.blocks.planes import PlaneOperator
from dacycle.assimilators.networks.blocks.prior import PriorNetwork
from dacycle.assimilators.networks.convcnp import ConvCnpSize
from dacycle.assimilators.networks.fnp import FnpSize
from dacycle.assimilators.networks.latent_diffusion import LatentDiffusionSize
from dacycle.assimilators.networks.vae_var import VaeVarSize
from dacycle.forecast_adapter.grid import get_grid, great_circle_km

GRID = get_grid("5.625deg")
REACH_KM = 2500
ADAPTER = {"tokens": 8, "token_heads": 2, "token_layers": 1}
ADAPTED = ["adas-adapter", "fnp-adapter", "vae-var-adapter"]
SIZES = {
    "adas": AdasSize(width=16, heads=2, layers=1, fine=8, reach_km=REACH_KM),
    "adas-adapter": AdaptedAdasSize(width=16, heads=2, layers=1, fine=8, reach_km=REACH_KM, **ADAPTER),
    "convcnp": ConvCnpSize(width=16, fine=8, layers=1, merged=1, reach_km=REACH_KM),
    "fnp": FnpSize(joint=16, group=8, fine=8, layers=1, merged=1, modes=4, block=8, reach_km=REACH_KM),
    "fnp-adapter": AdaptedFnpSize(
        joint=16, group=8, fine=8, layers=1, merged=1, modes=4, block=8, reach_km=REACH_KM, **ADAPTER
    ),
    "diffusion": DiffusionSize(context=8, width=16, coarse=16, depth=1, steps=5, pairs=1, reach_km=REACH_KM),
    "latent-diffusion": LatentDiffusionSize(
        context=8, width=16, coarse=16, depth=1, steps=5, pairs=1, reach_km=REACH_KM, latent=16, auto=16
    ),
    "vae-var": VaeVarSize(width=16, latent=4, wide=4, broad=4, layers=1, iterations=6, reach_km=REACH_KM),
    "vae-var-adapter": AdaptedVaeVarSize(
        width=16, latent=4, wide=4, broad=4, layers=1, iterations=6, reach_km=REACH_KM, **ADAPTER
    ),
}


@pytest.fixture(scope="module", params=METHODS)
def network(request: pytest.FixtureRequest) -> AnalysisNetwork:
    """Return a method with random weights in all layers, on a planet without geography."""
    torch.manual_seed(0)
    ones, planes = np.ones(69, np.float32), np.ones(3, np.float32)
    static = np.zeros((4, *GRID.shape), np.float32)
    season, bias = np.zeros((2, 13 * GRID.shape[0] + 1), np.float32), np.zeros((5, 69, *GRID.shape), np.float32)
    constants = Constants(0 * ones, ones, ones, 0 * planes, planes, static, season, bias)
    made = METHODS[request.param].network(GRID, constants, SIZES[request.param])
    for weights in made.parameters():
        if weights.ndim > 1 and not weights.any():
            torch.nn.init.normal_(weights, std=0.1 if made.stepping is None else 0.01)
    return made.eval()


def analyse(network: AnalysisNetwork, *given: torch.Tensor, turn: int = 0) -> list[torch.Tensor]:
    """Return analysis and any spread; the noise of an iterative method is rotated by blocks of 2 x 2 cells."""

    def run(*tensors: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [part.numpy() for part in network(*map(torch.from_numpy, tensors))]

    arrays = [part.numpy() for part in given]
    if network.stepping is None:
        return [torch.from_numpy(part) for part in run(*arrays)]
    # The noise of a background that is turned is another one: here it stays that of a fixed state.
    start = network.stepping.start(np.zeros((69, *GRID.shape), np.float32))
    turned = [np.roll(part, turn * part.shape[-1] // (GRID.shape[1] // 2), -1) for part in start]
    return [torch.from_numpy(part) for part in network.stepping.run(run, arrays, turned)]


def observations(seed: int, share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a background, and values and errors with a share of them observed."""
    generator = torch.Generator().manual_seed(seed)
    background = torch.randn(1, 69, *GRID.shape, generator=generator)
    seen = torch.rand(1, 72, *GRID.shape, generator=generator) < share
    values = torch.where(seen, torch.randn(seen.shape, generator=generator), 0.0)
    return background, values, torch.where(seen, 0.3, 0.0)


def in_form(mean_error: float = 0.2, **form: str) -> AnalysisNetwork:
    """Return a ConvCNP in a form, for a model with a mean error, in a world with a mean of 3 and a deviation of 2."""
    torch.manual_seed(0)
    ones, planes = np.ones(69, np.float32), np.ones(3, np.float32)
    static, season = np.zeros((4, *GRID.shape), np.float32), np.zeros((2, 13 * GRID.shape[0] + 1), np.float32)
    bias = np.zeros((5, 69, *GRID.shape), np.float32)
    bias[0] = mean_error
    constants = Constants(3 * ones, 2 * ones, 0.5 * ones, 0 * planes, planes, static, season, bias)
    made = METHODS["convcnp"].network(GRID, constants, ConvCnpSize(width=16, fine=8, layers=1, merged=1, **form))
    torch.nn.init.normal_(made.head.weight, std=0.1)
    return made.eval()


def of_channels(seed: int, departure: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a background, and values and errors of channels alone, with this departure from it."""
    background, values, errors = observations(seed, 0.3)
    errors[:, 69:] = 0
    departures = torch.where(errors > 0, departure, 0.0)
    values = torch.cat([background, 0 * values[:, 69:]], 1) + departures
    return background, torch.where(errors > 0, values, 0.0), errors


@pytest.mark.parametrize("symmetry", ["odd", "none"])
def test_a_method_without_symmetry_sees_the_departures_once_and_as_they_are(symmetry: str) -> None:
    network = in_form(mean_error=0, symmetry=symmetry)
    with torch.no_grad():
        increments = []
        for departure in (1.0, -1.0):
            background, values, errors = of_channels(1, departure)
            state = (background - 3) / 2
            increments.append(network.estimate(state, values, errors)[0])
        once = network.estimate_one_way(state, values, errors)[0]
    odd = (increments[0] + increments[1]).abs().max() < 1e-4 * increments[0].abs().max()
    assert odd == (symmetry == "odd")
    assert torch.equal(once, increments[1]) == (symmetry == "none")


def test_a_method_that_keeps_the_mean_error_leaves_a_background_that_observations_agree_with() -> None:
    background, values, errors = of_channels(2, 0.0)
    with torch.no_grad():
        removed, kept = (in_form(bias=bias)(background, values, errors)[0] for bias in ("removed", "kept"))
    torch.testing.assert_close(kept, background)
    assert (removed - background).abs().max() > 0.1


def test_absolute_fields_go_in_and_come_out() -> None:
    network = in_form(fields="absolute", symmetry="none")
    background, values, errors = observations(3, 0.3)
    seen = errors > 0
    observe, given = network.observe, []

    def watched(departure: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given.append((departure, weight))
        return observe(departure, weight)

    network.observe = watched
    network.decode = lambda state, *_: (torch.full_like(state, 0.7), torch.zeros_like(state))
    with torch.no_grad():
        analysis = network(background, values, errors)[0]
    observed, weight = (part[:, :69] for part in given[0])
    torch.testing.assert_close(observed, torch.where(seen, (values - 3) / 2, 0.0)[:, :69])
    torch.testing.assert_close(weight, torch.where(seen, 1 / (1 + (errors / 1.0) ** 2), 0.0)[:, :69])
    gate = network.gate(given[0][1])
    torch.testing.assert_close(analysis, background + gate * (3 + 2 * 0.7 - background), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["adas", "convcnp", "fnp", "fnp-adapter"])
def test_recent_departures_are_further_inputs_and_may_be_missing(method: str) -> None:
    torch.manual_seed(0)
    ones, planes = np.ones(69, np.float32), np.ones(3, np.float32)
    static, season = np.zeros((4, *GRID.shape), np.float32), np.zeros((2, 13 * GRID.shape[0] + 1), np.float32)
    bias = np.zeros((5, 69, *GRID.shape), np.float32)
    constants = Constants(0 * ones, 2 * ones, ones, 0 * planes, planes, static, season, bias)
    network = METHODS[method].network(GRID, constants, dataclasses.replace(SIZES[method], recent=1)).eval()
    for weights in network.parameters():
        if weights.ndim > 1 and not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    background, values, errors = of_channels(4, 0.0)  # they agree with the background, as far as they go
    recent = torch.where(errors[:, :69] > 0, 1.0, 0.0)
    with torch.no_grad():
        missing = network(background, values, errors)[0]
        zeros = (torch.cat([part, 0 * recent], 1) for part in (values, errors))
        assert torch.equal(network(background, *zeros)[0], missing)
        up, down = (
            network(background, torch.cat([values, sign * recent], 1), torch.cat([errors, recent], 1))[0] - background
            for sign in (1, -1)
        )
    torch.testing.assert_close(missing, background, atol=1e-5, rtol=1e-5)
    assert up.abs().max() > 0.01
    torch.testing.assert_close(up, -down, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"fields": "absolute"}, "symmetry: absolute fields have no opposites; it must be none"),
        ({"bias": "gone"}, "bias: 'gone' is unknown; it is removed or kept"),
    ],
)
def test_a_form_that_cannot_be_is_refused(form: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepartureSize(**form)


@given(width=st.integers(2, 12), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_the_zonal_transform_with_all_modes_is_inverted(width: int, seed: int) -> None:
    width *= 2
    forward, inverse = zonal_transform(width, width // 2 + 1)
    field = np.random.default_rng(seed).standard_normal(width)
    np.testing.assert_allclose(field @ forward @ inverse, field, atol=1e-5)
    numpy = np.fft.rfft(field)
    np.testing.assert_allclose(field @ forward, np.concatenate([numpy.real, numpy.imag]), atol=1e-4)


def test_the_meridional_transform_with_all_modes_is_inverted() -> None:
    forward, inverse = meridional_transform(16, 16, 4)
    for m in range(4):
        np.testing.assert_allclose(inverse[m] @ forward[m], np.eye(16), atol=1e-5)


def test_fields_that_go_on_across_the_poles_survive_truncation() -> None:
    """Spherical harmonics are smooth across the poles; a few modes on the sphere represent them, but not on a torus."""
    layer = SpectralMix(GRID.shape, 2, 8, 2)
    identity = torch.zeros_like(layer.weights)
    identity[:, :2] = torch.eye(2)
    layer.weights.data = identity
    theta = np.deg2rad(90 - GRID.latitude)[:, None]
    phi = np.deg2rad(GRID.longitude)[None]
    odd, even = np.sin(theta) * np.cos(phi), np.sin(theta) ** 2 * np.cos(2 * phi)
    field = torch.from_numpy(np.stack([odd, even])[None].astype(np.float32))
    torch.testing.assert_close(layer(field), field, atol=1e-3, rtol=0)


@pytest.mark.parametrize("support", [1500.0, 4000.0])
def test_a_radial_convolution_is_the_sum_over_great_circles(support: float) -> None:
    field = np.random.default_rng(0).standard_normal(GRID.shape)
    sums = RadialConvolution(GRID, (support,))(torch.from_numpy(field[None, None].astype(np.float32)))[0, 0, 0]
    latitude, longitude = np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij")
    for y, x in ((0, 0), (15, 63), (31, 20)):
        distance = great_circle_km(latitude, longitude, np.array(GRID.latitude[y]), np.array(GRID.longitude[x]))
        expected = (gaspari_cohn(distance, support) * field).sum()
        assert sums[y, x] == pytest.approx(expected, abs=1e-3)


@given(kernel=st.sampled_from([1, 3, 5]), batch=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_a_depthwise_convolution_and_its_gradients_are_torchs(kernel: int, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    mine = Depthwise(4, kernel)
    theirs = torch.nn.Conv2d(4, 4, kernel, groups=4)
    theirs.load_state_dict(mine.state_dict())
    x, weight = torch.randn(batch, 4, 9, 11), torch.randn(batch, 4, 10 - kernel, 12 - kernel)
    results = []
    for layer in (mine, theirs):
        inputs = x.clone().requires_grad_()
        outputs = layer(inputs)
        (outputs * weight).sum().backward()
        results.append((outputs, inputs.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(mine(x), theirs(x))


def test_a_depthwise_convolution_has_gradients_in_mixed_precision_too() -> None:
    torch.manual_seed(0)
    layer, x = Depthwise(4, 3), torch.randn(2, 4, 9, 11, requires_grad=True)
    results = []
    for mixed in (False, True):
        layer.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            outputs = layer(x)
        outputs.float().square().sum().backward()
        results.append((x.grad, layer.weight.grad, layer.bias.grad))
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_an_operator_of_planes_learns_what_a_column_says() -> None:
    """One plane depends on the column and one does not, so the unexplained shares are near 0 and near 1."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(10, 5, 16, 32, generator=generator)
    noise = torch.randn(10, 16, 32, generator=generator)
    planes = torch.stack([torch.tanh(columns[:, 0] - columns[:, 1]), noise], 1)
    operator = PlaneOperator(5, 2)
    left = operator.fit(columns, planes, seed=1)
    assert left[0] < 0.1
    assert 0.9 < left[1] < 1.3
    assert not any(weights.requires_grad for weights in operator.parameters())


def test_without_observations_the_analysis_is_the_background(network: AnalysisNetwork) -> None:
    background, _, _ = observations(0, 0.1)
    nothing = torch.zeros(1, 72, *GRID.shape)
    analysis, *spread = analyse(network, background, nothing, nothing)
    assert torch.equal(analysis, background)
    assert all((part > 0).all() for part in spread)


@given(seed=st.integers(0, 99))
@settings(max_examples=5)
def test_what_stands_where_nothing_is_observed_changes_nothing(network: AnalysisNetwork, seed: int) -> None:
    background, values, errors = observations(seed, 0.1)
    noise = torch.where(errors > 0, values, 1e6 * torch.randn(values.shape))
    analysis, other = (analyse(network, background, v, errors)[0] for v in (values, noise))
    assert torch.equal(analysis, other)


def test_beyond_its_reach_an_observation_changes_nothing(network: AnalysisNetwork) -> None:
    background, _, _ = observations(0, 0.1)
    values, errors = torch.zeros(2, 1, 72, *GRID.shape)
    y, x = 9, 0
    values[0, 11, y, x], errors[0, 11, y, x] = background[0, 11, y, x] + 2.0, 0.3
    increment = (analyse(network, background, values, errors)[0] - background)[0].abs().amax(0).numpy()
    latitude, longitude = np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij")
    distance = great_circle_km(latitude, longitude, np.array(GRID.latitude[y]), np.array(GRID.longitude[x]))
    assert increment[distance > REACH_KM].max() == 0
    assert increment[y, x] > 0


@given(seed=st.integers(0, 99))
@settings(max_examples=5)
def test_the_increment_changes_its_sign_with_the_departures(network: AnalysisNetwork, seed: int) -> None:
    """Without a bias of the model, a background that agrees with its observations does not change."""
    background, values, errors = observations(seed, 0.1)
    values[:, 69:], errors[:, 69:] = 0, 0
    mirrored = torch.where(errors[:, :69] > 0, 2 * background - values[:, :69], 0.0)
    agreeing = torch.where(errors[:, :69] > 0, background, 0.0)
    increment, opposite, none = (
        analyse(network, background, torch.cat([v, values[:, 69:]], 1), errors)[0] - background
        for v in (values[:, :69], mirrored, agreeing)
    )
    torch.testing.assert_close(increment, -opposite, atol=1e-4, rtol=0)
    assert increment.abs().max() > 1e-2
    assert none.abs().max() < 1e-4


def test_the_models_bias_is_taken_off_where_something_is_observed(network: AnalysisNetwork) -> None:
    """Where observations agree with the background without its bias, the increment is minus the bias."""
    background, _, _ = observations(0, 0.1)
    biased = copy.deepcopy(network)
    biased.bias[0, 11] = 0.5
    truth = background.clone()
    truth[:, 11] -= 0.5
    values, errors = torch.zeros(2, 1, 72, *GRID.shape)
    values[0, :69, 8:11, :4], errors[0, :69, 8:11, :4] = truth[0, :, 8:11, :4], 0.3
    increment = (analyse(biased, background, values, errors)[0] - background)[0]
    torch.testing.assert_close(increment[11, 8:11, :4], torch.full((3, 4), -0.5), atol=1e-3, rtol=0)
    assert increment[:11].abs().max() < 1e-4
    assert (increment[11, 24:] == 0).all()


@pytest.mark.parametrize("network", sorted(METHODS.keys() - set(ADAPTED)), indirect=True)  # which know their places
@given(turn=st.integers(1, 31), seed=st.integers(0, 9))
@settings(max_examples=5)
def test_on_a_planet_without_geography_turning_it_turns_the_analysis(
    network: AnalysisNetwork, turn: int, seed: int
) -> None:
    """The rotation is by whole 2 x 2 blocks, or the largest blocks of the method; no longitude is special."""
    turn *= network.size.columns * 2 if isinstance(network, AdasNetwork) else 4 if network.stepping else 1
    inputs = observations(seed, 0.2)
    straight = analyse(network, *inputs)[0].roll(2 * turn, -1)
    turned = analyse(network, *(x.roll(2 * turn, -1) for x in inputs), turn=turn)[0]
    torch.testing.assert_close(turned, straight, atol=1e-3, rtol=0)


def base_of(network: AdaptedNetwork | AdaptedVaeVar) -> AnalysisNetwork:
    """Return the base method with the same weights."""
    if isinstance(network, AdaptedNetwork):
        return network.base
    known = {field: getattr(network, field) for field in Constants.__annotations__}
    constants = Constants(**{name: constant.numpy() for name, constant in known.items() if constant is not None})
    base = METHODS["vae-var"].network(GRID, constants, SIZES["vae-var"]).eval()
    base.load_state_dict({name: value for name, value in network.state_dict().items() if "adapter." not in name})
    return base


@pytest.mark.parametrize("network", ADAPTED, indirect=True)
def test_without_its_modalities_an_adapted_method_is_its_base(network: AdaptedNetwork | AdaptedVaeVar) -> None:
    network = copy.deepcopy(network)
    base = base_of(network)
    background, values, errors = observations(0, 0.1)
    modalities = [69 + network.planes.index(name) for name in ("tp6h", "olr")]
    without = errors.clone()
    without[:, modalities] = 0
    alike = analyse(network, background, values, without)
    for output, expected in zip(alike, analyse(base, background, values, without), strict=True):
        assert torch.equal(output, expected)
    for one in modalities:
        alone = without.clone()
        alone[:, one] = errors[:, one]
        assert not torch.equal(analyse(network, background, values, alone)[0], alike[0])
    # The base sees them in no other way.
    none = torch.zeros(1, 72, *GRID.shape)
    none[:, modalities] = errors[:, modalities]
    torch.nn.init.zeros_(network.adapter.project.weight)
    torch.nn.init.zeros_(network.adapter.project.bias)
    assert torch.equal(analyse(network, background, values, none)[0], background)


@pytest.mark.parametrize("network", ["diffusion", "vae-var"], indirect=True)
def test_a_prior_is_told_the_size_of_errors_by_exact_observations(network: PriorNetwork) -> None:
    """Many other observations have too large stated errors, which would give an error of 0 by themselves."""
    state, values, errors = torch.zeros(1, 69, *GRID.shape), *(torch.zeros(1, 72, *GRID.shape) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(1, 69, *GRID.shape, generator=generator)
    exact, rough = seen < 0.02, seen > 0.9
    departure = 2 * torch.randn(seen.shape, generator=generator)
    values[:, :69] = torch.where(exact | rough, departure, 0)
    errors[:, :69] = torch.where(exact, 0.1, torch.where(rough, 5.0, 0))
    _, _, sizes = network.departures(state, values, errors)
    assert 1.8 < sizes[0, 0].item() < 2.2
    assert (sizes[0, 1:] >= 0.8).all()
    assert (sizes[0, 1:] <= 1.25).all()


@pytest.mark.parametrize("network", [name for name, method in METHODS.items() if method.loss is None], indirect=True)
def test_a_prior_learns_what_errors_look_like(network: PriorNetwork) -> None:
    """Trained on errors of one pattern of any size and sign, its loss falls on new samples."""
    prior = copy.deepcopy(network).train()
    longitude = torch.from_numpy(np.deg2rad(GRID.longitude)).float()
    pattern = torch.cos(torch.arange(69)[:, None, None] + 2 * longitude).expand(-1, GRID.shape[0], -1)
    generator, weights = torch.Generator().manual_seed(1), torch.ones(69, *GRID.shape)

    def loss(batch: int) -> torch.Tensor:
        state = torch.randn(batch, 69, *GRID.shape, generator=generator)
        size = torch.randn(batch, 1, 1, 1, generator=generator)
        target = size * pattern
        seen = [state.new_zeros(batch, 72, *GRID.shape), state.new_zeros(batch, 72, *GRID.shape)]
        return prior.prior_loss(state, target, weights, generator, *(seen if prior.observes else []))

    optimiser = torch.optim.Adam(prior.parameters(), 5e-3)
    with torch.no_grad():
        before = loss(24)
    for _ in range(30):
        optimiser.zero_grad()
        loss(4).backward()
        optimiser.step()
    with torch.no_grad():
        assert loss(24) < 0.8 * before


def test_the_loss_is_least_at_the_true_mean_and_spread() -> None:
    noise = torch.randn((2, 10, 20, 50), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = 2.0 * noise + 1

    def gradients(mean: float, spread: float) -> tuple[float, float]:
        m, s = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (mean, spread))
        of_mean, of_spread = torch.autograd.grad(gaussian_loss(m, s.expand(target.shape), target).mean(), (m, s))
        return float(of_mean), float(of_spread)

    assert gradients(1.0, 2.0) == pytest.approx((0, 0), abs=0.05)
    assert gradients(0.5, 2.0)[0] < 0 < gradients(1.5, 2.0)[0]
    assert gradients(1.0, 1.5)[1] < 0 < gradients(1.0, 2.5)[1]


def test_in_the_loss_a_sample_counts_as_much_as_its_error_is_large() -> None:
    """Gradients of two samples whose sizes differ by 10, in units of the size, differ by 10, not by 100."""
    target = (
        torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 10.0])[:, None, None, None]
    )
    size = torch.tensor([1.0, 10.0])[:, None, None, None]
    share = torch.zeros((2, 3, 8, 8), requires_grad=True)
    (pull,) = torch.autograd.grad(gaussian_loss(share * size, size.expand(target.shape), target).sum(), share)
    torch.testing.assert_close(10 * pull[0], pull[1])


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_sees_its_window_and_nothing_beyond(shifted: bool) -> None:
    """A change in one block reaches the blocks of its windows; shifted windows cross the date line and the pole."""
    torch.manual_seed(0)
    attention = Attention(16, 2, (4, 8), shifted)
    x, y = torch.randn(2, 1, 16, 16, 32)
    other = y.clone()
    other[..., 0, 0] += torch.randn(16)
    with torch.inference_mode():
        reached = (attention(x, other) - attention(x, y)).abs().amax(1)[0] > 0
    rows, columns = np.nonzero(reached.numpy())
    if not shifted:
        assert set(rows) == set(range(4))
        assert set(columns) == set(range(8))
    else:
        # The block stands in a window beyond the pole too, half a turn away.
        here, beyond = set(range(4)) | set(range(28, 32)), set(range(12, 20))
        assert set(rows) == {0, 1}
        assert set(columns) == here | beyond


def test_in_the_unified_loss_all_channels_pull_alike() -> None:
    target = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    target = target * torch.tensor([0.1, 1.0, 10.0])[:, None, None]
    increment = torch.zeros_like(target, requires_grad=True)
    loss = unified_mae(increment, None, target)
    torch.testing.assert_close(loss.mean((0, 2, 3)), torch.ones(3))
    (pull,) = torch.autograd.grad(loss.sum(), increment)
    scaled = (pull * target).sum((0, 2, 3))  # what a share of its own error does to a channel's loss
    torch.testing.assert_close(scaled, scaled[0].expand(3))
