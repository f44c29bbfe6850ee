"""Threads of the library that multiplies matrices (BLAS), which numpy and scipy bring along."""

import os

__all__ = ["limit_blas"]

_NAMES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_blas() -> None:
    """Give BLAS one thread, unless the environment says otherwise; call it before numpy is imported.

    The matrices of a cycle are small. More threads wait for each other longer than they compute, take the cores from
    other processes, and round differently. Networks have threads of their own (`--threads`).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        for name in _NAMES:
            os.environ.setdefault(name, "1")
