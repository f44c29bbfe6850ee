"""`dacycle models`: the packaged files, their cards, and a file that its card does not describe."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.cycler.cli.models.listing import app
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models import model as models
from dacycle.forecast_adapter.models.double import write_double
from dacycle.forecast_adapter.models.model import ModelFileError, load_model
from dacycle.forecast_adapter.models.onnxfile import digest
from dacycle.forecast_adapter.state import StateError, make_state, to_dataset
from dacycle.forecast_adapter.worlds.reference import write_times
from dacycle.forecast_adapter.worlds.world import World
from tests.conftest import TinyWorld
from tests.worlds import START


@pytest.fixture
def packaged(world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the double the only packaged model, with a card."""
    path = tmp_path / "stand-in.onnx"
    shutil.copy(world.model, path)
    path.with_suffix(".md").write_text(f"# The double\n\nsha256: `{digest(path)}`\n")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setenv("DACYCLE_HOME", str(tmp_path / "home"))
    return path


def test_models_are_listed_with_their_world(packaged: Path) -> None:
    result = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert result.exit_code == 0
    for word in ("stand-in", "vae-var-adapter", "5.625deg", "tiny", digest(packaged)[:12]):
        assert word in result.stdout


def test_a_card_is_shown(packaged: Path) -> None:
    result = CliRunner().invoke(app, ["models", "stand-in"], catch_exceptions=False)
    assert "The double" in result.stdout


def test_verify_tells_a_file_that_is_not_its_cards(packaged: Path) -> None:
    assert "agrees" in CliRunner().invoke(app, ["models", "--verify"], catch_exceptions=False).stdout
    packaged.with_suffix(".md").write_text("# Another\n")
    with pytest.raises(ModelFileError, match=r"stand-in\.onnx: its card is another file"):
        CliRunner().invoke(app, ["models", "--verify"], catch_exceptions=False)


def test_help_has_examples() -> None:
    for command in ([], ["add"], ["show"], ["double"], ["half"]):
        shown = CliRunner().invoke(app, ["models", *command, "--help"], env={"COLUMNS": "120"}).stdout
        assert "Example: dacycle models" in shown


def test_a_model_that_is_not_here_says_how_to_get_it(packaged: Path) -> None:
    assert "fengwu-v1" in CliRunner().invoke(app, ["models"], catch_exceptions=False).stdout
    with pytest.raises(ModelFileError, match=r"not on this machine.*CC BY-NC-SA.*dacycle models add fengwu-v2"):
        CliRunner().invoke(app, ["models", "fengwu-v2"], catch_exceptions=False)


def test_an_added_network_is_listed_shown_and_verified(packaged: Path, tmp_path: Path) -> None:
    network = tmp_path / "brought/own.onnx"
    write_double(network, get_grid("5.625deg"))
    run = CliRunner()
    added = run.invoke(app, ["models", "add", "own", str(network), "--for", "era5"], catch_exceptions=False)
    assert "added" in added.stdout
    listed = run.invoke(app, ["models", "--verify"], catch_exceptions=False, env={"COLUMNS": "120"}).stdout
    (row,) = (line for line in listed.splitlines() if "own" in line)
    assert all(word in row for word in ("double", "5.625deg", "era5", "agrees"))
    assert "no skill" in run.invoke(app, ["models", "own"], catch_exceptions=False).stdout
    network.write_bytes(network.read_bytes() + b" ")
    with pytest.raises(ModelFileError, match=r"own\.onnx is not the file that was added"):
        run.invoke(app, ["models", "--verify"], catch_exceptions=False)


def test_the_increment_test_is_printed_and_kept_for_an_added_model(packaged: Path, tiny: World) -> None:
    """The double takes 0.3 of what it moves from the older frame, and loses that share of an increment."""
    states = str(tiny.folder / "reference")
    shown = CliRunner().invoke(app, ["models", "stand-in", "--increment-test", states], catch_exceptions=False).stdout
    assert "frames: both" in " ".join(shown.split())
    network = packaged.parent / "brought/own.onnx"
    write_double(network, get_grid("5.625deg"))
    run = CliRunner()
    run.invoke(app, ["models", "add", "own", str(network), "--for", "tiny"], catch_exceptions=False)
    assert load_model("own").increments is None
    run.invoke(app, ["models", "own", "--increment-test", states], catch_exceptions=False)
    assert load_model("own").increments["frames"] in ("newest", "both")


def test_the_increment_test_needs_two_states(packaged: Path, tiny: World, tmp_path: Path) -> None:
    write_times(to_dataset(make_state(tiny.reference.array(START), tiny.grid, START)), tmp_path / "one/2024-01-01.nc")
    with pytest.raises(StateError, match="no two whole states that are 6 h apart"):
        CliRunner().invoke(
            app, ["models", "stand-in", "--increment-test", str(tmp_path / "one")], catch_exceptions=False
        )


def test_a_packaged_name_is_not_given_away(packaged: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="stand-in is the name of a packaged network"):
        CliRunner().invoke(app, ["models", "add", "stand-in", str(packaged)], catch_exceptions=False)
