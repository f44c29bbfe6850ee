"""`dacycle dataset`: the bounds that it takes, what it says, and what it refuses."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

from dacycle.common.pieces import Each, PieceError
from dacycle.cycler.cli import app
from dacycle.forecast_adapter.worlds.reference import Reference
from tests.forecast_adapter.worlds.test_dataset import TIMES, in_the_wild


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("wild") / "era5.zarr"
    in_the_wild(TIMES).to_zarr(path, zarr_format=2)
    return str(path)


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["dataset", *arguments, "--workers", "1"])
    return result.exit_code, " ".join(result.output.split())


def test_a_dataset_grows_and_is_checked(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "era5"
    code, said = call(store, str(folder), "--from", "2024-01-30T12", "--to", "2024-01-31", "--without", "2024-01-31T06")
    assert code == 0, said
    assert "5 states on 5.625deg, 2024-01-30T12 to 2024-01-31T18" in said
    assert "brought from a 41 x 80 grid" in said
    code, said = call(store, str(folder), "--from", "2024-01-30T12", "--every", "12h")
    assert code == 0, said
    expected = [*TIMES[[2, 3, 4, 6, 7]], *TIMES[8::2]]
    assert_array_equal(Reference(folder).times, np.array(expected))
    code, said = call("--verify", str(folder))
    assert code == 0
    assert "every file is the one that was written" in said
    (folder / "2024/2024-01-30T12.nc").unlink()
    code, said = call("--verify", str(folder))
    assert code == 2
    assert "2024-01-30T12.nc: missing" in said


@pytest.mark.parametrize(
    ("options", "number"),
    [([], 4), (["--workers", "3"], 3), (["--dask", "local"], None), (["--dask", "local", "--workers", "3"], 3)],
)
def test_a_cluster_has_the_workers_of_its_file_unless_an_option_says_otherwise(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], number: int | None
) -> None:
    asked = []

    def spread(workers: int | None, dask: Path | None, home: Path) -> AbstractContextManager[Each]:
        asked.append(workers)
        raise PieceError("enough")

    monkeypatch.setattr("dacycle.cycler.cli.files.dataset.spread", spread)
    ended = CliRunner().invoke(app, ["dataset", store, str(tmp_path / "era5"), *options])
    assert (ended.exit_code, asked) == (1, [number]), ended.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--every", "5h"], "does not divide a day"),
        (["--from", "tomorrow?"], "tomorrow?"),
        (["--from", "2024-02-03", "--to", "2024-02-01"], "no time from"),
        (["--grid", "3deg"], "unknown grid '3deg'"),
        (["--from", "2031-01-01", "--to", "2031-01-02"], "it has 2024-01-30T00 to 2024-02-01T18"),
    ],
)
def test_refusals(store: str, tmp_path: Path, arguments: list[str], words: str) -> None:
    code, said = call(store, str(tmp_path / "era5"), *arguments)
    assert code == 2
    assert words in said.replace("│ ", "").replace(" │", "")


def test_a_product_that_is_not_there(tmp_path: Path) -> None:
    code, said = call(str(tmp_path / "nothing.zarr"), str(tmp_path / "era5"))
    assert code == 2
    assert "nothing.zarr" in said
    assert call(str(tmp_path / "nothing.zarr"))[0] == 2
