"""The doctor: what it sees, and a remedy for all that is amiss."""

import json
import re
import subprocess
import sys

import pytest

from minillm import kernels
from minillm.cli import main
from minillm.observe import diagnosis, doctor, probes

compiled = pytest.mark.skipif(not kernels.info()["compiled"], reason="needs the kernels")

CPUS = {"machine": 4, "affinity": 2, "cgroup": None, "usable": 2}
CPUS |= {"cores": 2, "fast": 2, "slow": 0, "slow_speed": 1.0}
SPEED = {"threads": 2, "fastest": 100.0, "median": 95.0, "preemptions": 20.0}
HEALTHY = {
    "cpus": CPUS,
    "build": {"compiled": True, "why": "", "remedy": ""},
    "target": "avx2",
    "targets": ["avx2", "baseline"],
    "threads": 2,
    "openmp": True,
    "region_threads": 2,
    "openmp_runtimes": ["libgomp.so.1"],
    "blas": "openblas 0.3",
    "blas_threads": 2,
    "subnormals": {"kernels": True, "numpy": True},
    "speed": SPEED,
    "packages": dict.fromkeys((*diagnosis.DEPENDENCIES, *diagnosis.EXTRAS), "1.0"),
}


def test_healthy_installation_has_neither_findings_nor_notes():
    assert diagnosis.findings(HEALTHY) == []
    assert diagnosis.notes(HEALTHY) == []


def test_what_cannot_be_known_is_no_finding():
    unknown = {"openmp_runtimes": [], "blas_threads": None, "speed": None}
    unknown["cpus"] = CPUS | {"cores": None}
    assert diagnosis.findings(HEALTHY | unknown) == []
    assert diagnosis.notes(HEALTHY | unknown) == []
    quiet = HEALTHY | {"speed": SPEED | {"preemptions": None}}
    assert diagnosis.notes(quiet) == []


NOT_BUILT = {"compiled": False, "why": "no compiler", "remedy": "get a compiler"}


def assert_one(found: list[diagnosis.Finding], what: str, remedy: str) -> None:
    (finding,) = found
    assert re.search(what, finding.what)
    assert remedy in finding.remedy
    assert "\n" not in finding.what + finding.remedy


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"build": NOT_BUILT}, r"NumPy does all the work \(no compiler\)", "get a compiler"),
        (
            {"openmp": False, "threads": 1, "region_threads": 1},
            "without OpenMP",
            "MINILLM_OPENMP=1",
        ),
        ({"threads": 3, "region_threads": 3}, "3 threads share 2 CPUs", "MINILLM_NUM_THREADS=2"),
        ({"region_threads": 1}, "asks for 2 threads gets 1", "OMP_THREAD_LIMIT"),
        (
            {"openmp_runtimes": ["libgomp-a1.so.1", "libgomp.so.1"]},
            "2 OpenMP runtimes .*: libgomp-a1.so.1, libgomp.so.1",
            "OMP_WAIT_POLICY=PASSIVE",
        ),
        ({"blas_threads": 4}, "BLAS uses 4 threads on 2 CPUs", "OPENBLAS_NUM_THREADS=2"),
        ({"blas_threads": 4, "blas": "mkl-sdl 2023"}, "BLAS", "MKL_NUM_THREADS=2"),
        ({"subnormals": {"kernels": True, "numpy": False}}, "0 in: numpy", "-ffast-math"),
        ({"subnormals": {"kernels": False, "numpy": False}}, "0 in: kernels, numpy", "without it"),
    ],
)
def test_each_finding_has_one_line_of_remedy(change, what, remedy):
    assert_one(diagnosis.findings(HEALTHY | change), what, remedy)


@pytest.mark.parametrize(
    ("threads", "fast", "slow", "slow_speed", "is_found"),
    [
        (8, 4, 4, 0.4, True),  # eight at 0.4 are less than four at 1
        (12, 8, 4, 0.7, False),  # twelve at 0.7 are more than eight
        (4, 4, 4, 0.4, False),  # the fast ones alone
        (8, 4, 4, None, True),  # macOS does not tell
        (8, 8, 0, 1.0, False),
    ],
)
def test_slow_cores_are_a_finding_where_fewer_threads_are_faster(
    threads, fast, slow, slow_speed, is_found
):
    cpus = {"usable": 16, "cores": 16, "fast": fast, "slow": slow, "slow_speed": slow_speed}
    facts = HEALTHY | {"cpus": CPUS | cpus, "threads": threads, "region_threads": threads}
    found = diagnosis.findings(facts)
    assert bool(found) == is_found
    if is_found:
        assert_one(found, "8 threads wait for the 4 slow CPUs", "MINILLM_NUM_THREADS=4")


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"target": "baseline"}, "run as baseline, and this CPU can run avx2", "MINILLM_TARGET"),
        ({"cpus": CPUS | {"cores": 1}}, "2 threads on 1 cores", "--threads 1"),
        ({"speed": SPEED | {"preemptions": 500.0}}, "500 times a second", "close other programs"),
        ({"speed": SPEED | {"median": 80.0}}, "less than 80% of their best", "side by side"),
    ],
)
def test_choices_and_a_busy_machine_are_notes(change, what, remedy):
    assert diagnosis.findings(HEALTHY | change) == []
    assert_one(diagnosis.notes(HEALTHY | change), what, remedy)


def test_missing_dependency_is_a_finding_and_missing_extra_a_note():
    facts = HEALTHY | {"packages": HEALTHY["packages"] | {"tqdm": None, "matplotlib": None}}
    assert_one(diagnosis.findings(facts), "tqdm is not installed", "pip install tqdm")
    assert_one(diagnosis.notes(facts), "matplotlib", 'pip install "minillm[plot]"')


# What is tried.


@compiled
def test_region_gets_the_threads_that_it_asks_for(monkeypatch):
    if kernels.info()["openmp"]:
        assert probes.region_threads(3) == 3
    monkeypatch.setattr(probes, "forked", lambda: True)
    assert probes.region_threads(3) == 1


LIMITED = """
from minillm.observe import diagnosis, doctor
report = doctor.examine()
assert report.facts["region_threads"] == 1, report.facts
assert ["asks for 2 threads gets 1" in one.what for one in report.findings].count(True) == 1
"""


@pytest.mark.skipif(not kernels.info()["openmp"], reason="needs OpenMP")
def test_limit_of_openmp_is_seen(monkeypatch):
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    monkeypatch.setenv("MINILLM_NUM_THREADS", "2")
    assert subprocess.run([sys.executable, "-c", LIMITED]).returncode == 0


def test_subnormals_are_kept_and_their_loss_would_show(monkeypatch):
    assert probes.subnormals_kept() == {"kernels": True, "numpy": True}
    monkeypatch.setattr(probes.kernels, "gelu_vjp", lambda slope, dy: slope * dy * 0)
    assert probes.subnormals_kept() == {"kernels": False, "numpy": True}


@compiled
def test_speed_is_numbers_that_agree():
    speed = probes.speed(2, seconds=0.01)
    assert 0 < speed["median"] <= speed["fastest"]
    assert speed["threads"] == 2
    assert speed["preemptions"] is None or speed["preemptions"] >= 0


def test_speed_is_not_measured_without_compiled_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "info", lambda: {"compiled": False})
    assert probes.speed(1) is None


MAPS = """\
7f00-7f01 r-xp 00000000 fe:00 11  /usr/lib/libgomp.so.1.0.0
7f01-7f02 r--p 00001000 fe:00 11  /usr/lib/libgomp.so.1.0.0
7f02-7f03 r-xp 00000000 fe:00 12  /home/me/my env/torch/lib/libgomp-a34b3233.so.1
7f03-7f04 r-xp 00000000 fe:00 13  /opt/intel/libiomp5.so
7f04-7f05 r-xp 00000000 fe:00 14  /opt/llvm/libomp.so.5
7f05-7f06 r-xp 00000000 fe:00 15  /usr/lib/libgomp-plugin-nvptx.so.1
7f06-7f07 r-xp 00000000 fe:00 16  /usr/lib/libompitrace.so.40
7f07-7f08 rw-p 00000000 00:00 0   [heap]
7f08-7f09 rw-p 00000000 00:00 0
"""


def test_openmp_runtimes_are_told_by_their_files(tmp_path, monkeypatch):
    (tmp_path / "maps").write_text(MAPS)
    monkeypatch.setattr(probes, "MAPS", tmp_path / "maps")
    names = ["libgomp-a34b3233.so.1", "libgomp.so.1.0.0", "libiomp5.so", "libomp.so.5"]
    assert probes.openmp_runtimes() == names
    monkeypatch.setattr(probes, "MAPS", tmp_path / "nowhere")
    assert probes.openmp_runtimes() == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/maps")
@pytest.mark.skipif(not kernels.info()["openmp"], reason="needs OpenMP")
def test_own_openmp_runtime_is_among_them():
    assert probes.openmp_runtimes()


def test_blas_threads_are_those_of_threadpoolctl(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, "blas"):
        assert probes.blas_threads() in (1, None)
    pools = [{"user_api": "blas", "num_threads": 8}, {"user_api": "openmp", "num_threads": 9}]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: pools)
    assert probes.blas_threads() == 8
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert probes.blas_threads() is None


# The report.


def test_target_is_explained(monkeypatch):
    info = {"compiled": True, "target": "avx2", "targets": ["avx512", "avx2"]}
    monkeypatch.delenv("MINILLM_TARGET", raising=False)
    assert doctor.target_why(info) == "chosen in this process"
    assert doctor.target_why(info | {"target": "avx512"}) == "the widest that this CPU can run"
    monkeypatch.setenv("MINILLM_TARGET", "avx2")
    assert doctor.target_why(info) == "MINILLM_TARGET asks for it"
    assert doctor.target_why(info | {"compiled": False}) == "the C kernels are not there"


def test_facts_are_those_that_the_docstring_names():
    named = doctor.__doc__.partition("facts:\n\n")[2]
    for name in doctor.examine().facts:
        assert re.search(rf"\b{name}\b", named), name


def test_text_shows_facts_findings_and_remedies():
    facts = doctor.examine().facts
    finding, note = doctor.Finding("it is broken", "mend it"), doctor.Finding("no x", "get x")
    text = doctor.as_text(doctor.Report(facts, [finding], [note]))
    for part in ("minillm", facts["target"], "it is broken", "→ mend it", "to know:", "→ get x"):
        assert part in text
    assert "healthy" not in text
    assert "healthy" in doctor.as_text(doctor.Report(facts, [], [note]))


def test_text_words_what_is_amiss_or_unknown():
    facts = doctor.examine().facts
    facts |= {"speed": None, "blas_threads": None, "openmp": False, "openmp_runtimes": []}
    facts |= {"subnormals": {"kernels": False, "numpy": True}, "environment": {"A": "1"}}
    facts["cpus"] = CPUS | {"cgroup": 1.5, "fast": 1, "slow": 1}
    text = doctor.as_text(doctor.Report(facts, [], []))
    for line in (
        r"cpus +4 on 2 cores, 1 fast and 1 slow; .* use 2, its container has limit 1.5$",
        r"speed +not measured$",
        r"blas .* unknown threads$",
        r"openmp +no$",
        r"subnormals +lost in kernels$",
        r"environment +A=1$",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_command_agrees_with_its_json(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["healthy"] else 1)
    assert report["healthy"] == (report["findings"] == [])
    assert main(["doctor"]) == code
    text = capsys.readouterr().out
    assert report["facts"]["cpu"] in text
    assert report["facts"]["blas"] in text


def test_command_exits_with_1_where_something_is_amiss(monkeypatch):
    finding = doctor.Finding("it is broken", "mend it")
    monkeypatch.setattr(doctor, "examine", lambda: doctor.Report(HEALTHY, [finding], []))
    monkeypatch.setattr(doctor, "as_text", lambda report: "")
    assert main(["doctor"]) == 1
