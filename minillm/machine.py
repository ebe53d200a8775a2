"""What the operating system tells about this machine: CPU, caches, memory, and limits on them.

Linux tells it in files, macOS by sysctl; what a system does not tell has a stated default.
"""

import contextlib
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
# Names, as Linux and macOS spell them, of what decides which code a CPU can run and how fast.
FEATURES = (
    "sse2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "asimddp", "sve",
    "sve2", "bf16", "i8mm",
)  # fmt: skip
DEFAULT_CACHES = {"L1": (32 << 10, 1), "L2": (512 << 10, 1), "L3": (8 << 20, 4)}
NEARLY = 0.9  # CPUs of one kind differ by less, such as those with a higher turbo


def cpu_name() -> str:
    """The model, as the operating system calls it."""
    for key in ("model name", "Model"):  # x86, ARM
        if name := _cpuinfo(key):
            return name
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def isa() -> str:
    """The architecture and the features that matter here: "x86_64: sse2 avx avx2 fma"."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    flags += _sysctl("machdep.cpu.features", "machdep.cpu.leaf7_features").lower().split()
    found = " ".join(name for name in FEATURES if name in flags)
    return f"{platform.machine()}: {found}" if found else platform.machine()


def usable_cpus() -> dict[str, float | None]:
    """How many CPUs the machine has, this process may run on, and its container is given.

    Returns: {"machine", "affinity", "cgroup" (None: no limit), "usable" (the least, whole)}
    """
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    cgroup = _cgroup_cpus(CGROUP)
    usable = min(affinity, max(1, math.floor(cgroup))) if cgroup else affinity
    return {"machine": machine, "affinity": affinity, "cgroup": cgroup, "usable": usable}


def cores(root: Path = CPUS) -> dict[str, float | None]:
    """What kind of cores the CPUs are that this process may use.

    Returns: {"cores": how many, where hyperthreads of one core are two CPUs (None: unknown),
    "fast", "slow": CPUs by kind, "slow_speed": of the slowest, the fastest being 1 (None: unknown)}
    """
    if hasattr(os, "sched_getaffinity"):
        folders = [root / f"cpu{i}" for i in sorted(os.sched_getaffinity(0))]
        siblings = {_text(folder / "topology/thread_siblings_list") for folder in folders}
        speeds = [
            float(
                _text(folder / "cpu_capacity") or _text(folder / "cpufreq/cpuinfo_max_freq") or "1"
            )
            for folder in folders
        ]
        fast = sum(speed >= NEARLY * max(speeds) for speed in speeds)
        number = None if "" in siblings else len(siblings)
        slow, slow_speed = len(speeds) - fast, min(speeds) / max(speeds)
    else:
        number = int(_sysctl("hw.physicalcpu") or 0) or None
        fast = int(_sysctl("hw.perflevel0.logicalcpu") or os.cpu_count() or 1)
        slow = int(_sysctl("hw.perflevel1.logicalcpu") or 0)
        slow_speed = None if slow else 1.0
    return {"cores": number, "fast": fast, "slow": slow, "slow_speed": slow_speed}


def caches(root: Path = CPUS) -> dict[str, tuple[int, int]]:
    """{"L1", "L2", "L3": (bytes of one such data cache, CPUs that share it)}; a CPU may have fewer.

    What the first CPU has; DEFAULT_CACHES where the system does not tell.
    """
    found = {}
    for folder in sorted((root / "cpu0/cache").glob("index*")):
        size, kind = _text(folder / "size"), _text(folder / "type")
        if kind != "Instruction" and size.endswith("K"):
            shared = _count(_text(folder / "shared_cpu_list"))
            found[f"L{_text(folder / 'level')}"] = (int(size[:-1]) << 10, shared)
    if not found:
        cluster = int(_sysctl("hw.perflevel0.cpusperl2") or 1)
        shared = {"L1": 1, "L2": cluster, "L3": os.cpu_count() or 1}
        for level, name in (("L1", "l1dcachesize"), ("L2", "l2cachesize"), ("L3", "l3cachesize")):
            if size := int(_sysctl(f"hw.perflevel0.{name}") or _sysctl(f"hw.{name}") or 0):
                found[level] = (size, shared[level])
    return {level: found[level] for level in ("L1", "L2", "L3") if level in found} or DEFAULT_CACHES


def available_memory() -> int | None:
    """Bytes that can be had without pushing anything out; None: the system does not tell."""
    available = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available.append(1024 * int(line.split()[1]))
    limit, used = _text(CGROUP / "memory.max"), _text(CGROUP / "memory.current")
    if limit.isdigit() and used.isdigit():
        available.append(max(0, int(limit) - int(used)))
    return min(available, default=None)


def _cgroup_cpus(root: Path) -> float | None:
    """The CPUs that the container is given, from cgroup v2 (cpu.max) or v1; None: no limit."""
    v2, quota, period = (
        root / name for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    )
    limit = _text(v2).split() or [_text(quota), _text(period)]
    return int(limit[0]) / int(limit[1]) if all(map(str.isdigit, limit)) else None


def _text(path: Path) -> str:
    """What a small file of the system says; '' where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    """The first value of the key in /proc/cpuinfo; '' without one."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _sysctl(*names: str) -> str:
    """What macOS says to these names, on one line; '' where it knows none, and elsewhere."""
    if sys.platform != "darwin":
        return ""
    run = subprocess.run(["sysctl", "-n", *names], capture_output=True, text=True)
    return " ".join(run.stdout.split())


def _count(cpus: str) -> int:
    """How many CPUs a list such as "0-3,8" names; 1 where it names none."""
    ranges = [part.split("-") for part in cpus.split(",") if part]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges) or 1
