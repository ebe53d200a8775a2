"""What the operating system tells about the machine, from files that look like its own."""

import os
import sys
from pathlib import Path

import pytest

from minillm import machine

MB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


@pytest.fixture
def no_sysctl(monkeypatch):
    monkeypatch.setattr(machine, "_sysctl", lambda *names: "")


@pytest.fixture
def four_cpus(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: range(4), raising=False)


@pytest.fixture
def mac(monkeypatch):
    """Answers of an Apple M1; assign to it to change them."""
    answers = {
        "hw.physicalcpu": "8",
        "hw.perflevel0.logicalcpu": "4",
        "hw.perflevel1.logicalcpu": "4",
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.perflevel0.l2cachesize": "12582912",
        "hw.perflevel0.cpusperl2": "4",
        "machdep.cpu.brand_string": "Apple M1",
    }
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(
        machine, "_sysctl", lambda *names: " ".join(answers[n] for n in names if n in answers)
    )
    return answers


@pytest.mark.parametrize(
    ("cpuinfo", "name", "isa"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu sse2 avx2 fma\n", "Some CPU", ": sse2 avx2 fma"),
        ("Features : fp asimd sve\n\nModel : Raspberry Pi 4\n", "Raspberry Pi 4", ": asimd sve"),
    ],
)
@pytest.mark.usefixtures("no_sysctl")
def test_cpu_is_read_from_cpuinfo(tmp_path, monkeypatch, cpuinfo, name, isa):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert machine.cpu_name() == name
    assert machine.isa().endswith(isa)


def test_cpu_is_asked_of_macos(tmp_path, monkeypatch, mac):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nowhere")
    assert machine.cpu_name() == "Apple M1"
    mac["machdep.cpu.features"], mac["machdep.cpu.leaf7_features"] = "FPU FMA", "AVX2 SMEP"
    assert machine.isa().endswith(": avx2 fma")


@pytest.mark.usefixtures("no_sysctl")
def test_cpu_that_nobody_names_has_its_architecture(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nowhere")
    assert machine.cpu_name()
    assert machine.isa() == machine.platform.machine()


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000"}, None),
        ({}, None),
    ],
)
def test_limit_of_a_container_is_read(tmp_path, files, cpus):
    assert machine._cgroup_cpus(write(tmp_path, files)) == cpus


@pytest.mark.parametrize(("limit", "usable"), [(0.5, 1), (1.9, 1), (None, 8), (64.0, 8)])
def test_usable_cpus_are_whole_and_within_the_limit(monkeypatch, limit, usable):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    monkeypatch.setattr(machine, "_cgroup_cpus", lambda root: limit)
    assert machine.usable_cpus() == {
        "machine": 8,
        "affinity": 8,
        "cgroup": limit,
        "usable": usable,
    }


def test_usable_cpus_is_what_python_sees():
    cpus = machine.usable_cpus()
    assert 1 <= cpus["usable"] <= cpus["affinity"] <= cpus["machine"]


def cpu_files(name: str, values: list) -> dict[str, str]:
    return {f"cpu{i}/{name}": str(value) for i, value in enumerate(values)}


SIBLINGS = cpu_files("topology/thread_siblings_list", ["0-1", "0-1", "2", "3"])
FREQUENCY, CAPACITY = "cpufreq/cpuinfo_max_freq", "cpu_capacity"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {"cores": None, "fast": 4, "slow": 0, "slow_speed": 1.0}),
        (SIBLINGS, {"cores": 3, "fast": 4, "slow": 0, "slow_speed": 1.0}),
        (  # two fast hyperthreads and two small cores
            SIBLINGS | cpu_files(FREQUENCY, [5_000_000, 5_000_000, 4_000_000, 3_000_000]),
            {"cores": 3, "fast": 2, "slow": 2, "slow_speed": 0.6},
        ),
        (  # favoured cores with a higher turbo are of one kind with the others
            cpu_files(FREQUENCY, [5_200_000, 5_200_000, 5_000_000, 4_900_000]),
            {"cores": None, "fast": 4, "slow": 0, "slow_speed": 4.9 / 5.2},
        ),
        (  # the capacity knows more than the frequency
            cpu_files(FREQUENCY, [2, 2, 2, 2]) | cpu_files(CAPACITY, [1024, 512, 512, 512]),
            {"cores": None, "fast": 1, "slow": 3, "slow_speed": 0.5},
        ),
    ],
)
@pytest.mark.usefixtures("four_cpus")
def test_kinds_of_cores_are_told_apart(tmp_path, files, expected):
    found = machine.cores(write(tmp_path, files))
    assert found == {**expected, "slow_speed": pytest.approx(expected["slow_speed"])}


def test_kinds_of_cores_are_asked_of_macos(mac):
    assert machine.cores() == {"cores": 8, "fast": 4, "slow": 4, "slow_speed": None}
    del mac["hw.perflevel0.logicalcpu"], mac["hw.perflevel1.logicalcpu"]  # an older one
    assert machine.cores() == {"cores": 8, "fast": 8, "slow": 0, "slow_speed": 1.0}


def test_caches_are_read_with_their_sharers(tmp_path):
    levels = [("1", "Data", "48K", "0"), ("1", "Instruction", "32K", "0")]
    levels += [("2", "Unified", "2048K", "0,4"), ("3", "Unified", "107520K", "0-7,16-23")]
    files = {}
    for i, values in enumerate(levels):
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            files[f"cpu0/cache/index{i}/{name}"] = value
    expected = {"L1": (48 << 10, 1), "L2": (2 * MB, 2), "L3": (105 * MB, 16)}
    assert machine.caches(write(tmp_path, files)) == expected


def test_caches_are_asked_of_macos(tmp_path, mac):
    assert machine.caches(tmp_path) == {"L1": (128 << 10, 1), "L2": (12 * MB, 4)}
    for level in ("l1d", "l2"):
        del mac[f"hw.perflevel0.{level}cachesize"]
    del mac["hw.perflevel0.cpusperl2"]
    mac |= {"hw.l1dcachesize": "32768", "hw.l2cachesize": "262144", "hw.l3cachesize": "8388608"}
    assert machine.caches(tmp_path) == {"L1": (32768, 1), "L2": (262144, 1), "L3": (8 * MB, 8)}


@pytest.mark.usefixtures("no_sysctl")
def test_caches_that_nobody_names_have_a_default(tmp_path):
    assert machine.caches(tmp_path) == machine.DEFAULT_CACHES


def test_available_memory_is_within_the_limit_of_the_container(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    free = machine.available_memory()
    write(tmp_path, {"memory.max": "max", "memory.current": "7"})
    assert (machine.available_memory() is None) == (free is None)
    write(tmp_path, {"memory.max": str(9 * MB), "memory.current": str(2 * MB)})
    assert machine.available_memory() == 7 * MB
    write(tmp_path, {"memory.max": str(1 * MB)})
    assert machine.available_memory() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/meminfo")
def test_available_memory_is_less_than_all():
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < machine.available_memory() < everything
