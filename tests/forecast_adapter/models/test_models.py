"""Forecast models with FengWu's contract, from files: their forecasts, and errors for other files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, NAMES, index
from dacycle.forecast_adapter.models.model import (
    ForecastError,
    ForecastModel,
    ModelFileError,
    OnnxForecastModel,
    forecast_metadata,
    load_model,
    model_files,
)
from dacycle.forecast_adapter.models.onnxfile import write_metadata
from dacycle.forecast_adapter.worlds.world import load_world

SHAPE = (32, 64)
Make = Callable[..., Path]


def leapfrog(
    path: Path, shape: tuple[int, int] = SHAPE, undefined: float = np.nan, names: str = "input output"
) -> Path:
    """Write a graph whose first output half is 2 x(t) - x(t-6h), and whose second half is `undefined`."""
    source, result = names.split()
    constants = {
        "zero": np.array([0]),
        "first": np.array([69]),
        "end": np.array([138]),
        "axis": np.array([1]),
        "two": np.array(2, np.float32),
        "none": np.array(0, np.float32),
        "undefined": np.array(undefined, np.float32),
    }
    nodes = [
        helper.make_node("Slice", [source, "zero", "first", "axis"], ["previous"]),
        helper.make_node("Slice", [source, "first", "end", "axis"], ["current"]),
        helper.make_node("Mul", ["current", "two"], ["twice"]),
        helper.make_node("Sub", ["twice", "previous"], ["next"]),
        helper.make_node("Mul", ["next", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "undefined"], ["rest"]),
        helper.make_node("Concat", ["next", "rest"], [result], axis=1),
    ]
    dims = ["batch", 138, *shape]
    graph = helper.make_graph(
        nodes,
        "leapfrog",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, dims)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(about: dict[str, Any] | None = None, **graph: Any) -> Path:
        path = leapfrog(tmp_path / "leapfrog.onnx", **graph)
        write_metadata(path, {**forecast_metadata("leapfrog", "1", "5.625deg", "tiny"), **(about or {})})
        return path

    return build


def frames(batch: int = 2, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    previous, current = rng.standard_normal((2, batch, 69, *SHAPE)).astype(np.float32)
    return previous, current


def test_states_follow_one_another(make: Make) -> None:
    """Each step starts from the two states before it: a leapfrog continues along the line of its first two."""
    previous, current = frames()
    states = list(load_model(make()).forecast(previous, current, 5))
    assert len(states) == 5
    for step, state in enumerate(states, 1):
        assert state.shape == current.shape
        assert state.dtype == np.float32
        np.testing.assert_allclose(state, current + step * (current - previous), atol=1e-3)


@pytest.mark.parametrize("undefined", [np.nan, np.inf, 1e30, 7.0])
def test_what_stands_in_the_undefined_channels_changes_nothing(make: Make, undefined: float) -> None:
    previous, current = frames()
    wanted = [current + step * (current - previous) for step in (1, 2, 3)]
    states = list(OnnxForecastModel(make(undefined=undefined)).forecast(previous, current, 3))
    np.testing.assert_allclose(states, wanted, atol=1e-3)


def test_a_batch_is_the_same_as_its_members(make: Make) -> None:
    model = load_model(make())
    previous, current = frames(batch=3)
    together = list(model.forecast(previous, current, 2))
    for k in range(3):
        alone = list(model.forecast(previous[k : k + 1], current[k : k + 1], 2))
        np.testing.assert_array_equal([state[k] for state in together], [state[0] for state in alone])


def test_no_state_that_a_caller_holds_is_ever_overwritten(make: Make) -> None:
    previous, current = frames()
    model = load_model(make())
    held, copies = [], []
    for state in model.forecast(previous, current, 12):
        held.append(state if len(held) % 2 else state[1:, ::3])  # whole, or only a view of it
        copies.append(held[-1].copy())
        del state
    for state, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(state, copy)
    again = list(model.forecast(previous, current, 12))
    assert not any(np.shares_memory(one, other) for k, one in enumerate(again) for other in again[:k])
    np.testing.assert_array_equal(again[1::2], held[1::2])


def test_a_caller_may_change_what_it_was_given(make: Make) -> None:
    previous, current = frames()
    untouched = [state.copy() for state in load_model(make()).forecast(previous, current, 3)]
    spoiled = []
    for state in load_model(make()).forecast(previous, current, 3):
        spoiled.append(state.copy())
        state[:] = 0
    np.testing.assert_array_equal(untouched, spoiled)


def test_a_model_says_what_it_is(make: Make) -> None:
    model = load_model(make({"version": "3"}))
    assert isinstance(model, ForecastModel)
    assert (model.name, model.world, model.grid.name) == ("leapfrog", "tiny", "5.625deg")
    assert len(model.digest) == 64


def test_frames_that_are_not_finite_name_channel_and_time(make: Make) -> None:
    previous, current = frames()
    current[0, index("q700"), 3, 4] = np.nan
    with pytest.raises(ForecastError, match=r"leapfrog: x\(t\) .* q700"):
        list(load_model(make()).forecast(previous, current, 1))


def test_a_forecast_that_is_not_finite_names_channel_and_step(make: Make) -> None:
    previous, current = frames()
    previous[0, index("t850")], current[0, index("t850")] = 0, 3e38 / 3
    forecast = load_model(make()).forecast(previous, current, 9)
    assert np.isfinite(next(forecast)).all()
    with pytest.raises(ForecastError, match=r"x\(t\+\d+h\), step [2-9] has .* t850"):
        list(forecast)


@pytest.mark.parametrize("wrong", [(69, *SHAPE), (2, 68, *SHAPE), (2, 69, 121, 240), (1, 69, *SHAPE)])
def test_frames_of_another_shape_are_refused(make: Make, wrong: tuple[int, ...]) -> None:
    previous, _ = frames()
    with pytest.raises(ForecastError, match="69, 32, 64"):
        list(load_model(make()).forecast(previous, np.zeros(wrong, np.float32), 1))


def test_a_file_without_metadata_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    """FengWu's published file has no metadata."""
    with pytest.raises(ModelFileError, match="lack kind, name, version, grid, world, channels, step_hours"):
        load_model(leapfrog(tmp_path / "plain.onnx"))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"kind": "assimilator"}, "kind is 'assimilator', not 'forecast'"),
        ({"channels": list(reversed(NAMES))}, "channels"),
        ({"step_hours": 24}, "step_hours is 24"),
        ({"grid": "7deg"}, "7deg"),
        ({"grid": "1.5deg"}, "grid 1.5deg needs"),
    ],
)
def test_metadata_that_do_not_fit_are_named(make: Make, about: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(make(about))


def test_a_graph_on_another_grid_than_its_metadata_say_is_refused(make: Make) -> None:
    with pytest.raises(ModelFileError, match=r"5\.625deg needs"):
        load_model(make(shape=(121, 240)))


@pytest.mark.parametrize("names", ["x output", "input y"])
def test_tensors_of_other_names_are_refused(make: Make, names: str) -> None:
    with pytest.raises(ModelFileError, match="must be one tensor called"):
        load_model(make(names=names))


def test_a_damaged_file_is_refused(make: Make) -> None:
    path = make()
    whole = bytearray(path.read_bytes())
    whole[200] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ModelFileError, match=r"leapfrog\.onnx"):
        load_model(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelFileError, match="no model 'fengwoo'"):
        load_model("fengwoo")


@pytest.mark.parametrize("name", sorted(model_files()))
def test_the_packaged_models_are_what_their_cards_describe(name: str) -> None:
    model = OnnxForecastModel(model_files()[name])
    card = model_files()[name].with_suffix(".md").read_text()
    assert model.name == name
    assert model.digest in card


@pytest.mark.parametrize("name", sorted(model_files()))
def test_undefined_channels_are_marked_and_humidity_stays_positive(name: str) -> None:
    from dacycle.forecast_adapter.models.onnxfile import open_session

    path = model_files()[name]
    dry = np.zeros((1, 138, *SHAPE), np.float32)
    (output,) = open_session(path).run(["output"], {"input": dry})
    assert np.isnan(output[:, 69:]).all()
    assert np.isfinite(output[:, :69]).all()
    humidity = [i for i, channel in enumerate(NAMES) if channel.startswith("q")]
    assert output[:, humidity].min() >= 0


@pytest.mark.parametrize("packaged", sorted(model_files()))
def test_an_increment_of_the_newer_frame_is_carried_on_without_enlarging_it(packaged: str) -> None:
    """An analysis moves one frame of the pair; a model that takes that for a tendency cannot be cycled."""
    world, model = load_world("demonstration"), load_model(packaged)
    previous, current, other = (world.reference.array(world.reference.times[k])[None] for k in (0, 1, 60))
    moved = current + np.float32(0.2) * (other - current)
    unmoved_end, moved_end = (list(model.forecast(previous, frame, 4))[-1] for frame in (current, moved))
    for name in HEADLINE:
        before, after = (np.abs(a - b)[0, index(name)].mean() for a, b in ((moved, current), (moved_end, unmoved_end)))
        assert after < 1.3 * before, name


@pytest.mark.parametrize("packaged", sorted(model_files()))
def test_a_forecast_finds_its_way_back_from_winds_that_no_model_has_seen(packaged: str) -> None:
    """Winds of three times their strength: what they carry must not run away."""
    world, model = load_world("demonstration"), load_model(packaged)
    frames = [world.statistics.normalise(world.reference.array(world.reference.times[k])) for k in (0, 1)]
    for frame in frames:
        frame[GROUPS["u"]] *= 3
        frame[GROUPS["v"]] *= 3
    strongest = np.abs(frames[1]).max()
    previous, current = (world.statistics.denormalise(frame)[None] for frame in frames)
    largest = [np.abs(world.statistics.normalise(state)).max() for state in model.forecast(previous, current, 20)]
    assert max(largest) < 1.1 * strongest
    assert largest[-1] < 0.5 * strongest
