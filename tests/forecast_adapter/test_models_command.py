"""`dacycle models`: the packaged files, their cards, and a file that is not the one its card describes."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.cycler.cli.model import app
from dacycle.forecast_adapter import models
from dacycle.forecast_adapter.models import ModelFileError
from dacycle.forecast_adapter.onnxfile import digest
from tests.conftest import TinyWorld


@pytest.fixture
def packaged(world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The double as the only packaged model, with a card."""
    path = tmp_path / "double.onnx"
    shutil.copy(world.model, path)
    path.with_suffix(".md").write_text(f"# The double\n\nsha256: `{digest(path)}`\n")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    return path


def test_models_are_listed_with_their_world(packaged: Path) -> None:
    result = CliRunner().invoke(app, ["models"], catch_exceptions=False)
    assert result.exit_code == 0
    for word in ("double", "5.625deg", "tiny", digest(packaged)[:12]):
        assert word in result.stdout


def test_a_card_is_shown(packaged: Path) -> None:
    result = CliRunner().invoke(app, ["models", "double"], catch_exceptions=False)
    assert "The double" in result.stdout


def test_verify_tells_a_file_that_is_not_its_cards(packaged: Path) -> None:
    assert "agrees" in CliRunner().invoke(app, ["models", "--verify"], catch_exceptions=False).stdout
    packaged.with_suffix(".md").write_text("# Another\n")
    with pytest.raises(ModelFileError, match=r"double\.onnx: its card is another file"):
        CliRunner().invoke(app, ["models", "--verify"], catch_exceptions=False)
