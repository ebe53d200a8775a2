"""What only shows when it is tried: threads, subnormals, speed; and which libraries are loaded."""

from __future__ import annotations

import re
from pathlib import Path
from time import perf_counter

import numpy as np

from minillm import kernels
from minillm.kernels import _cffi, roof
from minillm.kernels.threads import forked

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows has no count of involuntary context switches
    getrusage = None

MAPS = Path("/proc/self/maps")
RUNTIME = re.compile(r"lib(gomp|omp|iomp5)(-[0-9a-f]+)?\.")  # a wheel's copy has a hash in its name
TINY = 71362  # the bits of float32 1e-40, which is subnormal


def region_threads(threads: int) -> int:
    """How many threads a parallel region that asks for `threads` gets; 1 in a forked child."""
    return _cffi.count_threads(1 if forked() else threads)


def subnormals_kept() -> dict[str, bool]:
    """{"kernels", "numpy"}: whether 1e-40 · 1 is 1e-40 there.

    A library that was linked with -ffast-math makes its process flush such numbers to zero. The
    kernels' product is large enough for all their threads.
    """
    x = np.full(1 << 20, TINY, np.int32).view(np.float32)  # by its bits: no conversion may flush it
    products = {"kernels": kernels.gelu_vjp(x, np.ones_like(x)), "numpy": x * np.ones_like(x)}
    return {name: bool((y.view(np.int32) == TINY).all()) for name, y in products.items()}


def speed(threads: int, seconds: float = 0.2) -> dict[str, float | None] | None:
    """How steadily the same half millisecond of multiply-adds runs; None without compiled kernels.

    Returns: {"threads", "fastest", "median" (GFLOP/s), "preemptions" (a second, of all threads
    together; None: the system does not count them)}
    """
    if not kernels.info()["compiled"]:
        return None
    rounds = round(10_000 * 5e-4 / min(_multiply_add(10_000, threads)[1] for _ in range(5)))
    before, start, rates = _preemptions(), perf_counter(), []
    while perf_counter() - start < seconds:
        flop, took = _multiply_add(rounds, threads)
        rates.append(flop / took / 1e9)
    preempted = None if before is None else (_preemptions() - before) / (perf_counter() - start)
    return {
        "threads": threads,
        "fastest": max(rates),
        "median": float(np.median(rates)),
        "preemptions": preempted,
    }


def openmp_runtimes() -> list[str]:
    """The files of the OpenMP runtimes in this process; empty where the system does not tell."""
    try:
        lines = MAPS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    files = {Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line}
    return sorted(file.name for file in files if RUNTIME.match(file.name))


def numpy_blas() -> str:
    """The BLAS library behind NumPy's matmul, which the kernel choice `numpy` runs on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def blas_threads() -> int | None:
    """How many threads BLAS uses; None: threadpoolctl is not installed, or does not know it."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=None)


def _multiply_add(rounds: int, threads: int) -> tuple[int, float]:
    """(FLOP, seconds)."""
    start = perf_counter()
    flop, _ = roof.multiply_add(rounds, threads)
    return flop, perf_counter() - start


def _preemptions() -> int | None:
    return getrusage(RUSAGE_SELF).ru_nivcsw if getrusage else None
