"""The doctor: what it sees, and a remedy for all that is amiss."""

import json
import re

import pytest

from minillm.cli import main
from minillm.observe import doctor

HEALTHY = {
    "compiled": True,
    "why": "",
    "remedy": "get one",
    "target": "avx2",
    "targets": ["baseline", "avx2"],
    "threads": 2,
    "openmp": True,
    "compiler": "gcc 12",
    "kernels": {"matmul": "parallel"},
}
CPUS = {"machine": 4, "affinity": 2, "cgroup": None, "usable": 2}
ALL = dict.fromkeys((*doctor.DEPENDENCIES, *doctor.EXTRAS), "1.0")


def test_healthy_installation_has_no_findings():
    assert doctor.findings(HEALTHY, CPUS, ALL) == []
    assert doctor.notes(ALL) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"compiled": False, "why": "no compiler"}, r"NumPy does all the work \(no compiler\)"),
        ({"openmp": False}, "without OpenMP"),
        ({"threads": 3}, "3 threads share 2 CPUs"),
    ],
)
def test_each_finding_has_one_line_of_remedy(change, what):
    (finding,) = doctor.findings(HEALTHY | change, CPUS, ALL)
    assert re.search(what, finding.what)
    assert finding.remedy
    assert "\n" not in finding.what + finding.remedy


def test_missing_dependency_is_a_finding_and_missing_extra_a_note():
    packages = ALL | {"tqdm": None, "matplotlib": None}
    (finding,) = doctor.findings(HEALTHY, CPUS, packages)
    assert finding == doctor.Finding("tqdm is not installed", "pip install tqdm")
    (note,) = doctor.notes(packages)
    assert note.remedy == 'pip install "minillm[plot]"'


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({}, None),
    ],
)
def test_limit_of_a_container_is_read(tmp_path, files, cpus):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert doctor._cgroup_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("limit", "usable"), [(0.5, 1), (1.9, 1), (None, 8), (64.0, 8)])
def test_usable_cpus_are_whole_and_within_the_limit(monkeypatch, limit, usable):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    monkeypatch.setattr(doctor, "_cgroup_cpus", lambda root: limit)
    assert doctor.usable_cpus() == {"machine": 8, "affinity": 8, "cgroup": limit, "usable": usable}


def test_usable_cpus_is_what_python_sees():
    cpus = doctor.usable_cpus()
    assert 1 <= cpus["usable"] <= cpus["affinity"] <= cpus["machine"]


def test_text_shows_facts_findings_and_remedies():
    facts = doctor.examine().facts
    finding, note = doctor.Finding("it is broken", "mend it"), doctor.Finding("no x", "get x")
    text = doctor.as_text(doctor.Report(facts, [finding], [note]))
    for part in ("minillm", facts["target"], "it is broken", "→ mend it", "optional:", "→ get x"):
        assert part in text
    assert "healthy" not in text
    assert "healthy" in doctor.as_text(doctor.Report(facts, [], [note]))


def test_command_agrees_with_its_json(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["healthy"] else 1)
    assert report["healthy"] == (report["findings"] == [])
    assert main(["doctor"]) == code
    text = capsys.readouterr().out
    assert report["facts"]["cpu"] in text
    assert report["facts"]["blas"] in text
