"""FengWu's contract with networks that a user brings: what is added, refused, and computed.

FengWu's weights cannot be had here. In their place stand its double, which has the true tensors, and a leapfrog, which
makes the older frame and the normalisation matter.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dacycle.common.settings import SettingsError
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models import runtime
from dacycle.forecast_adapter.models.double import KEEP, add_double, shift_of, write_double
from dacycle.forecast_adapter.models.fengwu import published_statistics
from dacycle.forecast_adapter.models.graphs import make_roll
from dacycle.forecast_adapter.models.half import add_half
from dacycle.forecast_adapter.models.model import ForecastError, ModelFileError, OnnxForecastModel, load_model
from dacycle.forecast_adapter.models.onnxfile import open_session
from dacycle.forecast_adapter.models.registry import add, read_npy_statistics, registered
from dacycle.forecast_adapter.models.rollout import ROLL, DeviceChain, HostChain, start_pair
from dacycle.forecast_adapter.models.runtime import ProviderWarning
from dacycle.forecast_adapter.statistics import Statistics
from tests.forecast_adapter.models.test_models import leapfrog

GRID = get_grid("5.625deg")
Frames = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up a machine without registered models."""
    monkeypatch.setenv("DACYCLE_HOME", str(tmp_path / "home"))
    for name in ("PROVIDER", "DEVICE", "BATCH", "GPU_MEMORY"):
        monkeypatch.delenv(f"DACYCLE_{name}", raising=False)
    return tmp_path / "home"


def frames(batch: int, seed: int = 0) -> Frames:
    """Return two states (batch, 69, 32, 64), SI, within a few of FengWu's standard deviations."""
    statistics = published_statistics()
    mean, std = statistics.mean[:, None, None], statistics.std[:, None, None]
    previous, current = mean + std * np.random.default_rng(seed).standard_normal((2, batch, 69, *GRID.shape))
    return previous.astype(np.float32), current.astype(np.float32)


def close(found: NDArray, wanted: NDArray) -> None:
    """Check that states agree to 1e-5 of a standard deviation and float32's rounding of the value."""
    std = published_statistics().std[:, None, None]
    assert (np.abs(found - wanted) <= 2e-5 * std + 4e-7 * np.abs(wanted)).all()


@pytest.fixture
def brought(tmp_path: Path) -> Callable[..., str]:
    """Add a leapfrog of normalised frames as `leapfrog`."""

    def bring(**graph: object) -> str:
        add("leapfrog", leapfrog(tmp_path / "leapfrog.onnx", **graph), world="era5")
        return "leapfrog"

    return bring


def test_states_are_physical_and_what_is_rolled_is_normalised() -> None:
    """The result is compared with the double's definition, in float64."""
    add_double("5.625deg", "era5")
    previous, current = frames(2)
    mean = published_statistics().mean.astype(float)[:, None, None]
    wanted = current.astype(float)
    for state in load_model("double-5.625deg").forecast(previous, current, 4):
        wanted = mean + KEEP * np.roll(wanted - mean, shift_of(GRID), axis=-1)
        assert state.dtype == np.float32
        close(state, wanted)


def test_both_frames_are_used_and_rolled(brought: Callable[..., str]) -> None:
    previous, current = frames(2)
    for step, state in enumerate(load_model(brought()).forecast(previous, current, 4), 1):
        close(state, current + step * (current.astype(float) - previous))


def test_what_the_caller_gave_is_not_changed_and_what_it_got_is_its_own(brought: Callable[..., str]) -> None:
    given = frames(1)
    kept = [frame.copy() for frame in given]
    states = []
    for state in load_model(brought()).forecast(*given, 3):
        states.append(state.copy())
        state[:] = np.nan
    np.testing.assert_array_equal(given, kept)
    np.testing.assert_array_equal(states, list(load_model("leapfrog").forecast(*given, 3)))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_limit_changes_calls_not_forecasts(
    brought: Callable[..., str], monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    given = frames(5)
    whole = list(load_model(brought()).forecast(*given, 2))
    monkeypatch.setenv("DACYCLE_BATCH", str(batch))
    model = load_model("leapfrog")
    assert f"{batch} state" in model.running or (batch == 1 and "one state" in model.running)
    np.testing.assert_array_equal(list(model.forecast(*given, 2)), whole)


def test_a_network_of_one_state_a_call_forecasts_several(tmp_path: Path) -> None:
    path = leapfrog(tmp_path / "leapfrog.onnx")
    model = onnx.load(path)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    assert add("single", path, world="era5").batch == 1
    previous, current = frames(3)
    (state,) = load_model("single").forecast(previous, current, 1)
    close(state, 2 * current.astype(float) - previous)


def test_a_chain_on_a_device_is_the_chain_on_the_host(brought: Callable[..., str]) -> None:
    """The device is the CPU here; binding and rolling are the same as on a GPU."""
    model = load_model(brought())
    pair = start_pair(*frames(2), model.scaling)
    host = HostChain(model.session, pair.copy(), model.scaling)
    device = DeviceChain(model.session, open_session(ROLL), pair, model.scaling, "cpu")
    states = np.empty((2, 2, 69, *GRID.shape), np.float32)
    for _ in range(3):
        for chain, out in zip((host, device), states, strict=True):
            assert chain.step(out)
        close(states[1], states[0])


def test_threads_share_the_rolling_and_change_nothing(brought: Callable[..., str]) -> None:
    model = load_model(brought())
    pair = start_pair(*frames(2), model.scaling)
    chains = [HostChain(model.session, pair.copy(), model.scaling, threads) for threads in (1, 2, 5)]
    states = np.empty((3, 2, 69, *GRID.shape), np.float32)
    for _ in range(3):
        for chain, out in zip(chains, states, strict=True):
            assert chain.step(out)
        np.testing.assert_array_equal(states[1:], states[:1].repeat(2, 0))


def test_the_packaged_roll_graph_is_the_one_that_is_made() -> None:
    assert onnx.load(ROLL) == make_roll.roll()


def test_the_packaged_statistics_are_the_published_ones(full_samples: Path) -> None:
    files = [full_samples / f"stats/fengwu_data_{name}.npy" for name in ("mean", "std")]
    found = read_npy_statistics(*files)
    np.testing.assert_array_equal(found.mean, published_statistics().mean)
    np.testing.assert_array_equal(found.std, published_statistics().std)


def test_a_release_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelFileError, match=r"not on this machine.*no commercial use.*dacycle models add"):
        load_model("fengwu-v1")


def test_a_bare_file_says_how_to_add_it(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="dacycle models add fengwu-v1"):
        load_model(leapfrog(tmp_path / "fengwu_v1.onnx"))


def network(path: Path, shape: list, kind: int = TensorProto.FLOAT, names: str = "input output") -> Path:
    """Write an identity with these tensors."""
    source, result = (helper.make_tensor_value_info(name, kind, shape) for name in names.split())
    graph = helper.make_graph([helper.make_node("Identity", [source.name], [result.name])], "n", [source], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"shape": ["b", 69, 32, 64]}, {}, r"must be \(batch, 138, rows, columns\)"),
        ({"shape": ["b", 189, 32, 64]}, {}, "two frames of 69 channels"),
        ({"shape": ["b", 138, 32, 64], "names": "x output"}, {}, "input must be one tensor called `input`, not x"),
        ({"shape": ["b", 138, 32, 64], "names": "input y"}, {}, "output must be one tensor called `output`, not y"),
        ({"shape": ["b", 138, 32, 64], "kind": TensorProto.FLOAT16}, {}, "must be float32; export it with float32"),
        ({"shape": [4, 138, 32, 64]}, {}, "fixed batch of 4"),
        ({"shape": ["b", 138, 32, 64]}, {"grid": "0.25deg"}, "32 x 64 points, but 0.25deg has 721 x 1440"),
        ({"shape": ["b", 138, "h", "w"]}, {}, "say on which with `--grid`"),
        ({"shape": ["b", 138, 32, 64]}, {"world": None}, "say what states it was made for"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_remedy(
    tmp_path: Path, home: Path, tensors: dict, options: dict, message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        add("own", network(tmp_path / "own.onnx", **tensors), **({"world": "era5"} | options))
    assert not (home / "models/own").exists()


def test_a_release_has_its_own_grid_and_its_own_kind_of_states(tmp_path: Path) -> None:
    small = network(tmp_path / "small.onnx", ["b", 138, 32, 64])
    with pytest.raises(ModelFileError, match=r"32 x 64 points, but 0\.25deg has 721 x 1440"):
        add("fengwu-v1", small)
    with pytest.raises(ModelFileError, match="fengwu-v2 was made for operational, not for era5"):
        add("fengwu-v2", small, world="era5")
    write_double(tmp_path / "double.onnx", get_grid("0.25deg"))
    with pytest.raises(ModelFileError, match="is a double without skill, not fengwu-v1"):
        add("fengwu-v1", tmp_path / "double.onnx")


def test_a_release_is_run_on_the_grid_that_is_assumed_for_it(tmp_path: Path) -> None:
    made = add("fengwu-128x256", network(tmp_path / "FengWu.onnx", ["b", 138, 128, 256]))
    assert (made.grid, made.world) == ("1.40625deg", "era5")
    assert "assumed" in made.card.read_text()
    assert load_model("fengwu-128x256").grid.latitude[0] == 89.296875


def test_other_statistics_than_a_releases_are_refused(tmp_path: Path) -> None:
    published = published_statistics()
    mean = published.mean.copy()
    mean[7] *= 1.01
    other = Statistics(mean, published.std, "", "mean.npy, std.npy")
    file = network(tmp_path / "FengWu.onnx", ["b", 138, 128, 256])
    with pytest.raises(ModelFileError, match=f"not the published ones in {NAMES[7]}"):
        add("fengwu-128x256", file, other)
    assert add("own", file, other, world="era5").statistics.mean[7] == mean[7]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(68), "68"),
        (np.ones((69, 2)), "69, 2"),
        (np.ones(69, int), "int"),
        (np.r_[np.ones(68), np.nan], "t1000"),
        (np.r_[0.0, np.ones(68)], "u10"),
        (np.array(["x"] * 69, object), "cannot be read"),
    ],
)
def test_statistics_that_cannot_be_right_are_refused(tmp_path: Path, values: NDArray, message: str) -> None:
    mean, std = tmp_path / "mean.npy", tmp_path / "std.npy"
    np.save(mean, np.ones(69))
    np.save(std, values, allow_pickle=True)
    with pytest.raises(ModelFileError, match=message):
        read_npy_statistics(mean, std)


def test_a_file_that_has_changed_or_gone_is_refused(brought: Callable[..., str], tmp_path: Path) -> None:
    name, path = brought(), tmp_path / "leapfrog.onnx"
    os.utime(path, (1, 1))
    load_model(name)  # touched, not changed
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is not the file that was added"):
        load_model(name)
    path.unlink()
    with pytest.raises(ModelFileError, match="is not there; put it back"):
        load_model(name)


def test_weights_in_a_file_of_their_own_belong_to_the_model(tmp_path: Path) -> None:
    path = network(tmp_path / "large.onnx", ["b", 138, 32, 64])
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((69, 100), np.float32), "w"))
    model.graph.node.append(helper.make_node("Identity", ["w"], ["unused"]))
    onnx.save(model, path, save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    (tmp_path / "another.onnx.data").write_bytes(b"not its own")
    before = add("large", path, world="era5", copy=True)
    assert set(before.files) == {"large.onnx", "large.onnx.data"}
    assert load_model("large").digest == before.digest
    (before.network.parent / "large.onnx.data").write_bytes(np.ones((69, 100), np.float32).tobytes())
    with pytest.raises(ModelFileError, match=r"large\.onnx\.data is not the file that was added"):
        load_model("large")


def test_the_digest_depends_on_the_statistics(tmp_path: Path) -> None:
    file, published = network(tmp_path / "own.onnx", ["b", 138, 32, 64]), published_statistics()
    first = add("own", file, world="era5").digest
    other = Statistics(published.mean, 2 * published.std, "", "doubled")
    assert add("own", file, other, world="era5").digest != first


def test_a_gpu_that_cannot_be_used_is_never_passed_over_in_silence(
    brought: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime.gpu_present():
        pytest.skip("this machine has a GPU")
    name = brought()
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    with pytest.warns(ProviderWarning, match="runs on the CPU although there is a GPU"):
        model = load_model(name)
    assert "CPU" in model.running
    monkeypatch.setenv("DACYCLE_PROVIDER", "cuda")
    with pytest.raises(ModelFileError, match="asked for CUDAExecutionProvider"):
        load_model(name)


@pytest.mark.parametrize(
    ("variable", "value"), [("PROVIDER", "gpu"), ("DEVICE", "a"), ("BATCH", "0"), ("GPU_MEMORY", "x")]
)
def test_a_setting_without_meaning_is_refused(
    brought: Callable[..., str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    name = brought()
    monkeypatch.setenv(f"DACYCLE_{variable}", value)
    with pytest.raises(SettingsError, match=f"DACYCLE_{variable} is '{value}'"):
        load_model(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("grid:", "gird:", r"model\.yaml:\d: gird: unknown key; did you mean grid\?"),
        ("batch:", "# batch:", r"model\.yaml:1: batch: this key is required"),
        ("bytes:", "byte:", r"model\.yaml:\d+: files\..*byte: unknown key; did you mean bytes\?"),
    ],
)
def test_a_mistake_in_a_description_is_named_with_file_line_and_key(
    brought: Callable[..., str], old: str, new: str, message: str
) -> None:
    path = registered(brought()).folder / "model.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ModelFileError, match=message):
        load_model("leapfrog")


def test_a_failing_network_is_a_forecast_error_with_what_to_try(tmp_path: Path) -> None:
    """A graph whose output has another shape than it declares fails only when it is run."""
    graph = helper.make_graph(
        [helper.make_node("Concat", ["input", "input"], ["output"], axis=3)],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 138, 32, "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["b", 138, 32, "v"])],
    )
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    add("wide", path, world="era5", grid="5.625deg")
    with pytest.raises(ForecastError, match=r"(?s)wide, step 1: ONNX Runtime failed.*DACYCLE_BATCH"):
        list(load_model("wide").forecast(*frames(1), 1))


def test_a_network_of_physical_states_has_no_half() -> None:
    with pytest.raises(ModelFileError, match="mini takes states in SI"):
        add_half("mini", 1)


def test_half_precision_stays_close_and_says_how_close() -> None:
    add_double("5.625deg", "era5")
    made, apart = add_half("double-5.625deg", 4)
    assert made.double
    assert list(apart) == [1, 4]
    assert 0 < apart[1][0] < 1e-3
    assert apart[1][0] < apart[4][0] < 1e-2
    half, whole = (OnnxForecastModel(registered(name)) for name in ("double-5.625deg-fp16", "double-5.625deg"))
    given = frames(1)
    (a,), (b,) = (list(model.forecast(*given, 1)) for model in (half, whole))
    assert 0 < (np.abs(a - b)[0] / published_statistics().std[:, None, None]).max() < 5e-3
