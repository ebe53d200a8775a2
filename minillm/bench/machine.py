"""The machine and the versions that a measurement belongs to; no name of host, user or path."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from typing import Any

import numpy as np

from minillm import kernels
from minillm.machine import cpu_name

BUSY = 0.3  # load average over the last minute above which other work disturbs


def describe() -> dict[str, Any]:
    """{"cpu", "cores" (that this process may use), "os", "load" (1, 5, 15 minutes) or None}."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def versions(torch: Any = None) -> dict[str, str | None]:
    """{"minillm", "python", "numpy", "numpy_blas", "torch" (None: not compared)}."""
    minillm = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from its sources
        minillm = importlib.metadata.version("minillm")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "minillm": minillm,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numpy_blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "torch": torch.__version__ if torch else None,
    }


def code() -> dict[str, Any]:
    """Of kernels.info(): {"compiled", "target", "compiler", "openmp", "kernels"}."""
    info = kernels.info()
    return {name: info[name] for name in ("compiled", "target", "compiler", "openmp", "kernels")}


def notes(machine: dict[str, Any], threads: int) -> list[str]:
    """What a reader of the numbers should know about how they came about."""
    found = []
    if machine["load"] and machine["load"][0] > BUSY:
        found.append(
            f"load average {machine['load'][0]} at the start: something else runs, or did a minute "
            "ago; trust the ratios more than the times, and repeat on a quiet machine"
        )
    if threads > machine["cores"]:
        found.append(f"{threads} threads share {machine['cores']} cores and wait for each other")
    try:
        importlib.metadata.version("threadpoolctl")
    except importlib.metadata.PackageNotFoundError:
        found.append(
            "NumPy's BLAS uses as many threads as it likes; to make it use as many as the kernels: "
            'pip install "minillm[bench]"'
        )
    if not kernels.info()["compiled"]:
        found.append("the C kernels are not compiled: minillm runs on NumPy (minillm doctor)")
    return found
