"""Files of trained methods run where they fit, else the error names the differences. The double is a nudge in ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from dacycle.assimilators import base
from dacycle.assimilators.base import AssimilatorError, load_assimilator, packaged_assimilators
from dacycle.assimilators.judging.evaluation import evaluate, increment_alone, single_observation_reach
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.trained.network import TrainedAssimilator, assimilator_metadata
from dacycle.cycler.cli.models.listing import app
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.models.model import ModelFileError, load_model
from dacycle.forecast_adapter.models.onnxfile import digest, read_metadata, write_metadata
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.conftest import TinyWorld
from tests.worlds import GRID, Nudge

SOURCES = [{"source": "mask", "fraction": 0.3, "error": 0.01}]


def make_file(
    path: Path, planes: tuple[str, ...] = ("olr",), bias: float = 0.0, changes: dict[str, Any] | None = None
) -> Path:
    """Write a file with the true contract; its analysis moves half-way to the observations, its spread is their error.

    Args:
        path: the file to write.
        planes: of the observations.
        bias: added everywhere, in SI units, which no method should do.
        changes: to its metadata.
    """
    inputs = {"background": 69, "observations": 69 + len(planes), "observation_errors": 69 + len(planes)}
    constants = {
        "zero": np.array(0, np.float32), "half": np.array(0.5, np.float32), "bias": np.array(bias, np.float32),
        "first": np.array([0]), "end": np.array([69]), "axis": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["observations", "first", "end", "axis"], ["values"]),
        helper.make_node("Slice", ["observation_errors", "first", "end", "axis"], ["errors"]),
        helper.make_node("Greater", ["errors", "zero"], ["seen"]),
        helper.make_node("Sub", ["values", "background"], ["departure"]),
        helper.make_node("Mul", ["departure", "half"], ["moved"]),
        helper.make_node("Where", ["seen", "moved", "zero"], ["nudge"]),
        helper.make_node("Add", ["nudge", "bias"], ["increment"]),
        helper.make_node("Add", ["background", "increment"], ["analysis"]),
        helper.make_node("Add", ["errors", "half"], ["spread"]),
    ]
    shape = ["batch", 69, *GRID.shape]
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["batch", n, *GRID.shape]) for k, n in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("analysis", "spread")],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    about = assimilator_metadata("double", "1", GRID.name, "tiny", planes, "nudge", 500)
    write_metadata(path, {**about, **(changes or {})})
    return path


def arrays(tiny: World, planes: int = 1) -> tuple[NDArray, NDArray, NDArray]:
    background = tiny.reference.array(tiny.reference.times[0])[None]
    values = np.zeros((1, 69 + planes, *GRID.shape), np.float32)
    return background, values, values.copy()


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("grid", {}, "a text"), ("name", None, "a text"), ("reach_km", "far", "a number"), ("planes", [], "a mapping"),
     ("units", 5, "a mapping"), ("channels", "all", "a list")],
)  # fmt: skip
def test_metadata_of_another_kind_are_named(tiny: World, tmp_path: Path, key: str, value: Any, kind: str) -> None:
    path = make_file(tmp_path / "double.onnx", changes={key: value})
    with pytest.raises(AssimilatorError, match=rf"double\.onnx: its {key} is .*, but should be {kind}"):
        load_assimilator(path, tiny)


def test_a_name_that_is_no_text_is_refused(tiny: World, tmp_path: Path) -> None:
    path = make_file(tmp_path / "double.onnx")
    path.write_bytes(path.read_bytes().replace(b"Slice", b"Sl\x89ce", 1))
    with pytest.raises(AssimilatorError, match=r"double\.onnx: damaged, or not ONNX"):
        load_assimilator(path, tiny)


def test_a_graph_that_fails_is_named(tiny: World, tmp_path: Path) -> None:
    path = make_file(tmp_path / "double.onnx")
    metadata, model = read_metadata(path), onnx.load(path)
    (first,) = (weights for weights in model.graph.initializer if weights.name == "first")
    first.CopyFrom(numpy_helper.from_array(np.array([[0]]), "first"))  # Slice takes a list
    onnx.save(model, path)
    write_metadata(path, metadata)
    with pytest.raises(AssimilatorError, match="double: ONNX Runtime fails on"):
        load_assimilator(path, tiny).analyse(*arrays(tiny))


def test_a_file_runs_and_gives_analysis_and_spread(tiny: World, tmp_path: Path) -> None:
    method = load_assimilator(make_file(tmp_path / "double.onnx"), tiny)
    background, values, errors = arrays(tiny)
    values[0, 2, 5, 6], errors[0, 2, 5, 6] = background[0, 2, 5, 6] + 3, 1
    analysis = method.analyse(background, values, errors)
    assert analysis.state[0, 2, 5, 6] == pytest.approx(background[0, 2, 5, 6] + 1.5, abs=1e-3)
    assert np.count_nonzero(analysis.state != background) == 1
    assert analysis.spread is not None
    assert analysis.spread[0, 2, 5, 6] == 1.5
    assert (method.name, method.planes, method.world) == ("double", ("olr",), "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "elsewhere"}, "it was made for the world 'elsewhere', this is 'tiny'"),
        ({"grid": "1.5deg"}, r"`background` is .* must be .*69, 121, 240"),
        ({"channels": ["z500"]}, "its channels differ"),
        ({"planes": {"olr": "J m-2"}}, r"the observation plane olr in a unit that is not known here"),
        ({"planes": {"olr": "W m-2", "tp6h": "kg m-2"}}, r"`observations` is .* must be .*71"),
        ({"units": {"t850": "Celsius"}}, "its units differ in t850"),
        ({"kind": "forecast"}, "its kind is 'forecast', not 'assimilator'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_differs(
    tiny: World, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = make_file(tmp_path / "double.onnx", changes=changes)
    with pytest.raises(AssimilatorError, match=rf"double\.onnx.*{message}"):
        load_assimilator(path, tiny)


def test_a_damaged_file_is_refused(tiny: World, tmp_path: Path) -> None:
    path = make_file(tmp_path / "double.onnx")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssimilatorError, match=r"double\.onnx"):
        load_assimilator(path, tiny)


def test_a_forecast_model_is_no_assimilator(world: TinyWorld, tiny: World) -> None:
    with pytest.raises(AssimilatorError, match="its kind is 'forecast'"):
        load_assimilator(world.model, tiny)


def test_planes_that_were_not_handed_over_are_missed(tiny: World, tmp_path: Path) -> None:
    method = TrainedAssimilator(make_file(tmp_path / "double.onnx"))
    with pytest.raises(AssimilatorError, match=r"observations is \(1, 69, 32, 64\), but \(1, 70, 32, 64\)"):
        method.analyse(*arrays(tiny, planes=0))


def test_an_increment_without_observations_is_found(tiny: World, tmp_path: Path) -> None:
    state, std = tiny.reference.array(tiny.reference.times[0]), tiny.statistics.std
    honest = TrainedAssimilator(make_file(tmp_path / "honest.onnx"))
    biased = TrainedAssimilator(make_file(tmp_path / "biased.onnx", bias=1.0))
    assert increment_alone(honest, state, std) == 0
    assert increment_alone(biased, state, std) > 0.1


def test_a_single_observations_reach_is_found(tiny: World, tmp_path: Path) -> None:
    state, std = tiny.reference.array(tiny.reference.times[0]), tiny.statistics.std
    reach = single_observation_reach(TrainedAssimilator(make_file(tmp_path / "honest.onnx")), state, std, 500)
    assert reach.peak == pytest.approx(0.5, abs=0.01)
    assert reach.beyond == 0
    spilling = TrainedAssimilator(make_file(tmp_path / "spilling.onnx", bias=10.0))
    assert single_observation_reach(spilling, state, std, 500).beyond > 0.05


def test_single_analyses_are_scored_against_the_truth(world: TinyWorld, tiny: World) -> None:
    """With a third of the points observed almost exactly, half of each departure removes 3/4 of their squared error."""
    backgrounds = held_out(load_model(world.model), tiny.reference, tiny, 4, leads=(6, 24))
    scores = evaluate(Nudge("tiny"), observing_of(tiny, tiny.reference, SOURCES), backgrounds, seed=1)
    share = 0.3 * 0.9  # of the points, a tenth being left out as experiments do
    for name in HEADLINE:
        ratio = scores.rmse("analysis", name) / scores.rmse("background", name)
        assert ratio**2 == pytest.approx(1 - 0.75 * share, abs=0.05)
    assert scores.rmse("background", "z500", 24) > scores.rmse("background", "z500", 6)
    assert scores.spread_to_skill() is None


def test_every_method_meets_the_same_observations(world: TinyWorld, tiny: World) -> None:
    backgrounds = held_out(load_model(world.model), tiny.reference, tiny, 2, leads=(6,))
    observing = observing_of(tiny, tiny.reference, SOURCES)
    weak, strong = (evaluate(Nudge("tiny", weight=w), observing, backgrounds, seed=1) for w in (1e-6, 1.0))
    again = evaluate(Nudge("tiny", weight=1.0), observing, backgrounds, seed=1)
    assert (again.analysis == strong.analysis).all()
    assert (strong.analysis < weak.analysis).all()


def test_a_packaged_file_that_has_not_passed_the_gate_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "WEIGHTS", tmp_path)
    path = make_file(tmp_path / "double.onnx")
    path.with_suffix(".md").write_text(f"sha256: `{digest(path)}`\n")
    with pytest.raises(ModelFileError, match=r"double\.onnx: it has not passed the gate"):
        CliRunner().invoke(app, ["models", "--verify"], catch_exceptions=False)
    make_file(path, changes={"scores": {"passed": True}})
    path.with_suffix(".md").write_text(f"sha256: `{digest(path)}`\n")
    assert CliRunner().invoke(app, ["models", "--verify"], catch_exceptions=False).exit_code == 0


TRAINED = sorted(path for path in packaged_assimilators().values() if path.suffix == ".onnx")


@pytest.mark.parametrize("path", TRAINED, ids=[path.stem for path in TRAINED])
def test_a_packaged_file_is_what_its_card_describes(path: Path) -> None:
    """In the packaged world, single observations, single analyses and their spread are as the card says."""
    world = load_world("demonstration")
    method = TrainedAssimilator(path)
    assert method.name == path.stem
    assert method.digest in path.with_suffix(".md").read_text()
    assert method.metadata["scores"]["passed"]
    assert path.stat().st_size < 10e6
    state, std = world.reference.array(world.reference.times[40]), world.statistics.std
    reach = method.metadata["reach_km"]
    assert increment_alone(method, state, std) == 0
    single = single_observation_reach(method, state, std, reach)
    assert single.peak > 0.01
    assert single.beyond < 1e-4
    backgrounds = held_out(load_model("mini"), world.reference, world, 4)
    observing = observing_of(world, world.reference, method.metadata["training"]["observations"])
    scores = evaluate(method, observing, backgrounds, seed=1)
    for name in HEADLINE:
        assert scores.rmse("analysis", name) < scores.rmse("background", name)
    if "spread" in method.metadata["parity"]:
        assert 0.7 < scores.spread_to_skill() < 1.3
    else:
        assert scores.spread_to_skill() is None
