"""`minillm doctor`: what runs on this machine and why, what is amiss, and the remedy.

`--json` prints {"facts", "findings", "notes", "healthy"}. findings and notes are lists of {"what",
"remedy"}; the command exits with 0 if there is no finding, else with 1. facts:

    minillm, python, platform, cpu   text
    isa              the architecture and the vector instructions that it has
    cpus             {"machine", "affinity", "cgroup", "usable", "cores", "fast", "slow",
                     "slow_speed"}, see usable_cpus and cores in minillm.machine
    build            {"compiled", "why" (not), "remedy"}
    target, targets  the one that runs, and those that this CPU can run, widest first
    target_why       why that one
    threads          of the kernels, as asked for
    openmp           whether the kernels were built with it
    region_threads   how many threads a parallel region that asked for `threads` got
    openmp_runtimes  [file name] of the OpenMP libraries in the process, where the system tells
    compiler         that built the kernels
    kernels          {kernel: implementation}
    blas             NumPy's; blas_threads: how many threads it uses, or null
    subnormals       {"kernels", "numpy"}: whether numbers below 1.2e-38 are kept
    speed            {"threads", "fastest", "median" (GFLOP/s), "preemptions" (a second, or null)}
                     in 0.2 seconds of multiply-adds, or null
    environment      {variable: value}, those that matter here and are set
    packages         {package: version or null}
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from typing import Any

import minillm
from minillm import kernels, machine
from minillm.observe import diagnosis, probes
from minillm.observe.diagnosis import Finding

VARIABLES = (
    "MINILLM_KERNELS", "MINILLM_TARGET", "MINILLM_NUM_THREADS", "OMP_NUM_THREADS", "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """facts: name → what was seen; findings: to be put right; notes: good to know, all is well."""

    facts: dict[str, Any]
    findings: list[Finding]
    notes: list[Finding]


def examine() -> Report:
    """Look at the installation and the machine; takes about half a second."""
    info, cpus = kernels.info(), machine.usable_cpus() | machine.cores()
    region_threads = probes.region_threads(info["threads"])
    packages = (*diagnosis.DEPENDENCIES, *diagnosis.EXTRAS)
    facts = {
        "minillm": minillm.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": machine.cpu_name(),
        "isa": machine.isa(),
        "cpus": cpus,
        "build": {key: info[key] for key in ("compiled", "why", "remedy")},
        "target": info["target"],
        "targets": list(info["targets"]),
        "target_why": target_why(info),
        "threads": info["threads"],
        "openmp": info["openmp"],
        "region_threads": region_threads,
        "openmp_runtimes": probes.openmp_runtimes(),
        "compiler": info["compiler"],
        "kernels": dict(info["kernels"]),
        "blas": probes.numpy_blas(),
        "blas_threads": probes.blas_threads(),
        "subnormals": probes.subnormals_kept(),
        "speed": probes.speed(min(region_threads, cpus["usable"])),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "packages": {name: installed_version(name) for name in packages},
    }
    return Report(facts, diagnosis.findings(facts), diagnosis.notes(facts))


def target_why(info: dict[str, Any]) -> str:
    """Why the kernels run as this target.  info: of `kernels.info()`."""
    if not info["compiled"]:
        return "the C kernels are not there"
    if os.environ.get("MINILLM_TARGET") == info["target"]:
        return "MINILLM_TARGET asks for it"
    if info["target"] == info["targets"][0]:
        return "the widest that this CPU can run"
    return "chosen in this process"


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_text(report: Report) -> str:
    """The report for people: the facts in two columns, then findings and notes with remedies."""
    lines = [f"{name:<11} {value}" for name, value in _in_words(report.facts).items()]
    for title, found in (("to be put right", report.findings), ("good to know", report.notes)):
        if found:
            lines += ["", f"{title}:"]
            lines += [line for one in found for line in (f"  {one.what}", f"    → {one.remedy}")]
    if not report.findings:
        lines += ["", "healthy"]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return dataclasses.asdict(report) | {"healthy": not report.findings}


def _in_words(facts: dict[str, Any]) -> dict[str, str]:
    """A line for each subject."""
    cpus, blas = facts["cpus"], facts["blas_threads"]
    limit = "no limit" if cpus["cgroup"] is None else f"limit {cpus['cgroup']:g}"
    kernels_of: dict[str, list[str]] = {}
    for name, implementation in facts["kernels"].items():
        kernels_of.setdefault(implementation, []).append(name)
    lost = [name for name, kept in facts["subnormals"].items() if not kept]
    settings, packages = facts["environment"].items(), facts["packages"].items()
    return {
        **{name: facts[name] for name in ("minillm", "python", "platform", "cpu", "isa")},
        "cpus": f"{cpus['machine']}{_kinds(cpus)}; this process may use {cpus['affinity']}, its "
        f"container has {limit}",
        "target": f"{facts['target']}, {facts['target_why']}"
        + (f" ({', '.join(facts['targets'])})" if facts["targets"] else ""),
        "threads": f"{facts['threads']} (a parallel region gets {facts['region_threads']})",
        "openmp": ", ".join(["yes" if facts["openmp"] else "no", *facts["openmp_runtimes"]]),
        "compiler": facts["compiler"] or "none",
        "kernels": "; ".join(f"{one}: {' '.join(names)}" for one, names in kernels_of.items()),
        "blas": f"{facts['blas']}, {'unknown' if blas is None else blas} threads",
        "subnormals": f"lost in {' and '.join(lost)}" if lost else "kept",
        "speed": _speed(facts["speed"]),
        "environment": ", ".join(f"{name}={value}" for name, value in settings) or "not set",
        "packages": ", ".join(f"{name} {version}" for name, version in packages if version),
    }


def _kinds(cpus: dict[str, Any]) -> str:
    kinds = f" on {cpus['cores']} cores" if cpus["cores"] else ""
    return kinds + (f", {cpus['fast']} fast and {cpus['slow']} slow" if cpus["slow"] else "")


def _speed(speed: dict[str, Any] | None) -> str:
    if speed is None:
        return "not measured"
    often = speed["preemptions"]
    preempted = "" if often is None else f", {often:.0f} preemptions a second"
    return (
        f"{speed['fastest']:.0f} GFLOP/s at best, {speed['median']:.0f} in the middle of 0.2 s "
        f"(threads: {speed['threads']}){preempted}"
    )
