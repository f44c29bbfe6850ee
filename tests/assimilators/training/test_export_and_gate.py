"""What becomes of a run: its file, with parity, and the gate with its card."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")


from dacycle.assimilators.base import AssimilatorError, load_assimilator
from dacycle.assimilators.judging.evaluation import evaluate
from dacycle.assimilators.judging.gate import Check, Verdict, judge_assimilator, register_assimilator
from dacycle.assimilators.sampling.backgrounds import (
    held_out,
)
from dacycle.assimilators.sampling.cycles import CycledModel, cycled_errors
from dacycle.assimilators.sampling.observing import Observing
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.errors.model import KIND
from tests.assimilators.trained.test_trained import make_file
from tests.assimilators.training.small import export_soon
from tests.conftest import TinyWorld
from tests.worlds import register_doubles

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_soon(run, tmp_path_factory.mktemp("exported") / "small.onnx")


def test_the_exported_file_is_the_network(exported: Path, tiny: World) -> None:
    method = load_assimilator(exported, tiny)
    assert method.planes == ("tp6h", "olr", "q2m")  # as the network takes them: no other order gives its analyses
    parity = method.metadata["parity"]
    assert parity["analysis"]["largest"] < 1e-4
    assert parity["cycled"]["rms_difference"] < parity["cycled"]["rms_error"] / 10
    assert method.metadata["training"]["rounds"][0]["round"] == "0"
    assert exported.stat().st_size < 1.5 * 2 * method.metadata["training"]["weights"] + 2e6


def test_the_spread_is_as_much_too_large_in_single_analyses_as_it_is_too_small_in_cycles(
    exported: Path, world: TinyWorld, tiny: World, observing: Observing
) -> None:
    method, model = load_assimilator(exported, tiny), load_model(world.model)
    single = evaluate(method, observing, held_out(model, tiny.reference, tiny, 2), seed=3)
    cycled = cycled_errors(method, CycledModel(model), observing, seed=3, days=4)
    assert single.spread_ratio is not None
    assert cycled.spread_ratio is not None
    np.testing.assert_allclose(single.spread_ratio * cycled.spread_ratio, 1, rtol=0.01)


def test_the_gate_writes_the_card_of_the_file(exported: Path, entries: dict[str, Any], data: Path) -> None:
    """The network had few updates: its checks of single observations pass by construction, its scores may be poor."""
    register_doubles()
    verdict = judge_assimilator(exported, data, [2024], entries["world"], "nudge", starts=2, days=4)
    met = {check.name: check.passed for check in verdict.checks}
    assert met["increment without observations"]
    assert met["largest difference from torch"]
    card = exported.with_suffix(".md").read_text()
    judged = load_assimilator(exported, load_world(entries["world"]))
    assert judged.digest in card
    assert f"observation errors in training: {KIND}" in card
    assert ("not passed" in card) == (not verdict.passed)
    assert judged.metadata["scores"]["passed"] == verdict.passed


@pytest.mark.parametrize("passed", [True, False])
def test_only_what_has_passed_is_registered(exported: Path, tmp_path: Path, passed: bool) -> None:
    exported.with_suffix(".md").touch()
    verdict = Verdict([Check("reach", "9 %", "5 %", passed)], {}, {})
    if passed:
        assert register_assimilator(exported, verdict, tmp_path).read_bytes() == exported.read_bytes()
        return
    with pytest.raises(AssimilatorError, match="has not passed: reach is 9 %, allowed is 5 %"):
        register_assimilator(exported, verdict, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_not_exported_here_cannot_be_judged(world: TinyWorld, data: Path, tmp_path: Path) -> None:
    path = make_file(tmp_path / "double.onnx")
    with pytest.raises(AssimilatorError, match=r"double\.onnx: its metadata lack training, parity, rounding"):
        judge_assimilator(path, data, [2024], str(world.folder), "nudge")


def test_the_gate_refuses_years_of_the_training(exported: Path, entries: dict[str, Any], data: Path) -> None:
    with pytest.raises(AssimilatorError, match="was trained on 2023"):
        judge_assimilator(exported, data, [2023], entries["world"], "nudge")
