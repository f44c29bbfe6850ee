"""Settings from the environment, and the errors for those without meaning."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.common.settings import SettingsError, read_settings
from dacycle.cycler.cli import app


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "CACHE", "PROVIDER", "DEVICE", "GPU_MEMORY", "BATCH", "LOG", "ARCHIVE", "EXPERIMENT"):
        monkeypatch.delenv(f"DACYCLE_{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_defaults(tmp_path: Path) -> None:
    settings = read_settings()
    assert (settings.provider, settings.device, settings.batch, settings.log) == ("auto", 0, None, "human")
    assert settings.home == Path.home() / ".local/share/dacycle"
    assert settings.cache == tmp_path / "dacycle"


def test_variables_are_read_whenever_settings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACYCLE_HOME", "/somewhere")
    monkeypatch.setenv("DACYCLE_BATCH", "8")
    assert (read_settings().home, read_settings().batch) == (Path("/somewhere"), 8)
    monkeypatch.setenv("DACYCLE_BATCH", "")
    assert read_settings().batch is None


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DACYCLE_PROVIDER", "gpu", "DACYCLE_PROVIDER is 'gpu': .*'auto', 'cpu', 'cuda' or 'tensorrt'"),
        ("DACYCLE_BATCH", "0", "DACYCLE_BATCH is '0'"),
        ("DACYCLE_PROVIDR", "cpu", r"DACYCLE_PROVIDR: unknown setting; did you mean DACYCLE_PROVIDER\?"),
    ],
)
def test_a_variable_without_meaning_is_an_error_of_the_user(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=message):
        read_settings()
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 2
    assert f"error: {variable}" in result.output
