"""The commands for networks: their help, scores of single analyses, and what they refuse."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.assimilators.exceptions import DataError, RecipeError
from dacycle.cycler.cli.models.training import app
from dacycle.cycler.cli.models.world import app as world_app
from dacycle.forecast_adapter.channels import HEADLINE, readable
from dacycle.forecast_adapter.models.onnxfile import read_metadata, write_metadata
from dacycle.forecast_adapter.worlds.world import WorldError
from tests.conftest import TinyWorld
from tests.learned import make_operator
from tests.worlds import register_doubles

ROOT = Path(__file__).parents[3]


@pytest.fixture
def data(world: TinyWorld, tmp_path: Path) -> Path:
    """Return a folder of years that holds the tiny world's reference as 2024."""
    (tmp_path / "nature").mkdir()
    (tmp_path / "nature/2024").symlink_to(world.folder / "reference")
    return tmp_path / "nature"


@pytest.mark.parametrize("command", ["backgrounds", "train", "export", "gate", "evaluate"])
def test_help_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"})
    assert f"Example: dacycle {command} " in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--relaxation", "{tropics: 8d}"], "give --cycling"),
        (["--both"], "give --cycling"),
        (["--cycling", "adas", "--relaxation", "{tropics: 3h}"], "give at least 6h"),
        (["--cycling", "adas", "--relaxation", "8d"], "a relaxation is a mapping"),
    ],
)
def test_backgrounds_refuses_a_relaxation_that_says_nothing(options: list[str], message: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = ["backgrounds", "nature", str(store), "--years", "2020", *options]
    refused = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert message in refused.output
    assert not store.exists()


def test_evaluate_shows_both_methods_by_lead(world: TinyWorld, data: Path) -> None:
    register_doubles()
    arguments = [
        "evaluate", "nudge", "--data", str(data), "--year", "2024", "--against", "none", "--starts", "2",
        "--world", str(world.folder), "--model", str(world.model),
    ]  # fmt: skip
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "120"}).stdout
    rows = [line.split("│") for line in shown.splitlines() if "│" in line]
    assert len(rows) == 6 * 4  # six channels, three leads and all of them together
    t2m = next(k for k, row in enumerate(rows) if "t2m (K)" in row[1])
    background, nudge, none = (float(cell) for cell in rows[t2m + 3][3:6])
    assert nudge < none == background
    assert "nudge: " in shown
    assert "ms an analysis" in shown


def test_evaluate_scores_an_observation_operator_beside_climatology(data: Path, tmp_path: Path) -> None:
    """The double makes OLR and precipitation exactly as the tiny world does."""
    path = make_operator(tmp_path / "double.onnx")
    write_metadata(path, read_metadata(path) | {"training": {"years": [2024]}})
    arguments = ["evaluate", str(path), "--data", str(data), "--year", "2024"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "120"}).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert list(found) == [(p, m) for p in ("tp6h (kg m-2)", "olr (W m-2)") for m in ("double", "climatology")]
    assert float(found["olr (W m-2)", "double"][0]) < 0.01 < 5 < float(found["olr (W m-2)", "climatology"][0])
    assert float(found["tp6h (kg m-2)", "double"][2]) == pytest.approx(1)


def test_sizes_of_an_observation_operator_are_what_they_are(data: Path) -> None:
    arguments = ["evaluate", "olr-tp", "--data", str(data), "--year", "2024", "--set", "steps=2"]
    with pytest.raises(RecipeError, match=r"--set steps=2: olr-tp is no run's folder"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_year_that_is_too_short_is_named(world: TinyWorld, data: Path) -> None:
    arguments = ["evaluate", "none", "--data", str(data), "--year", "2024", "--against", "none", "--starts", "99"]
    arguments += ["--world", str(world.folder), "--model", str(world.model)]
    with pytest.raises(DataError, match="29 times, too few for 99 starts"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_pairs_of_a_nature_run_are_of_one_year(tmp_path: Path) -> None:
    pytest.importorskip("jcm", reason="the extra `nature` is not installed")
    arguments = ["nature-run", str(tmp_path), "--years", "2020,2021", "--pairs", "2"]
    with pytest.raises(WorldError, match="pairs are of one year, not of 2"):
        CliRunner().invoke(world_app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("card", sorted(ROOT.glob("*/weights/*.md")), ids=lambda path: path.stem)
def test_cards_have_the_units_of_every_other_table(card: Path) -> None:
    for channel, unit in re.findall(r"^\| (\w+) \((.+?)\) \|", card.read_text(), re.MULTILINE):
        if channel in HEADLINE:
            assert unit == readable(channel)[1]
