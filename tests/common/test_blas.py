"""The number of threads that BLAS gets."""

import os

import pytest

from dacycle.common.blas import limit_blas

NAMES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", *NAMES):
        monkeypatch.setenv(name, "")  # so that what the function sets is taken back
        monkeypatch.delenv(name)


def environment() -> list[str | None]:
    return [os.environ.get(name) for name in NAMES]


def test_blas_gets_one_thread() -> None:
    limit_blas()
    assert environment() == ["1", "1"]


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    limit_blas()
    assert environment() == ["2", "1"]


def test_threads_set_for_all_libraries_hold_for_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_blas()
    assert environment() == [None, None]
