"""The machine's roofs: what is measured, with which working sets, and the cache. No timings."""

import dataclasses
import json
import math
import mmap
from pathlib import Path

import numpy as np
import pytest

from minillm import kernels
from minillm.cli import main
from minillm.errors import KernelError, UserError
from minillm.observe import roofs

pytestmark = pytest.mark.skipif(not kernels.info()["compiled"], reason="needs the kernels")

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
LAPTOP = {"L1": (32 * KB, 2), "L2": (1 * MB, 2), "L3": (16 * MB, 8)}  # 4 cores, 8 hyperthreads
SERVER = {"L1": (48 * KB, 1), "L2": (2 * MB, 1), "L3": (105 * MB, 64)}
PI = {"L1": (32 * KB, 1), "L2": (1 * MB, 4)}


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A measurement of milliseconds, and an empty cache."""
    monkeypatch.setattr(roofs, "SECONDS", 0.0)
    monkeypatch.setattr(roofs, "BLOCK", 1e-5)
    monkeypatch.setattr(roofs.machine, "caches", lambda: {"L1": (32 * KB, 1), "L2": (256 * KB, 1)})
    monkeypatch.setattr(roofs.machine, "available_memory", lambda: 16 * MB)
    monkeypatch.setattr(roofs.cache, "directory", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.usefixtures("small")
def test_measure_fills_every_place_with_a_number():
    found = roofs.measure(3)
    assert (found.target, found.threads, found.cached) == (kernels.info()["target"], 3, False)
    assert found.levels.keys() == {"L1", "L2", "DRAM"}
    assert list(found.gflops) == list(found.read) == list(found.copy) == [1, 2, 3]
    for rates in (found.gflops, *found.read.values(), *found.copy.values()):
        assert all(0 < rate < math.inf for rate in rates.values())
    for rates in (*found.read.values(), *found.copy.values()):
        assert rates.keys() == found.levels.keys()


@pytest.mark.usefixtures("small")
def test_measure_uses_as_many_threads_as_the_kernels_and_tells_its_progress():
    seen = []

    def progress(sweeps):
        for sweep in sweeps:
            seen.append(sweep)
            yield sweep

    kernels.set_num_threads(1)
    assert list(roofs.measure(progress=progress).gflops) == [1]
    assert seen == [1]


def test_rate_is_the_best_of_the_sweeps(monkeypatch):
    """Three sweeps at 1, 0.5 and 2 s for a work of 10⁹ each: 2 GFLOP/s."""
    seconds = iter([1.0, 1.0, 1.0, 0.5, 2.0])  # the first two calibrate
    monkeypatch.setattr(roofs, "_seconds", lambda quantity, times: next(seconds))
    quantity = roofs._Quantity(1, 1e9, lambda times: None)
    assert roofs._best_rates({"a": quantity}, lambda sweeps: range(3)) == {"a": 2.0}


def test_pieces_are_taken_in_turn_and_go_on_where_they_stopped():
    """So that no piece of DRAM's working set is still in a cache when its turn comes again."""
    seen = []
    pieces = [roofs._Quantity(2, 5.0, lambda times, i=i: seen.append((i, times))) for i in range(3)]
    turns = roofs._in_turn(pieces)
    turns.run(2)
    turns.run(2)
    assert seen == [(0, 1), (1, 1), (2, 1), (0, 1)]
    assert (turns.threads, turns.work) == (2, 5.0)
    assert roofs._in_turn(pieces[:1]) is pieces[0]  # repeats by itself, inside C


@pytest.mark.parametrize(
    ("caches", "threads", "n", "level", "size"),
    [
        (LAPTOP, 8, 1, "L1", 16 * KB),  # half of one
        (LAPTOP, 8, 8, "L1", 8 * 8 * KB),  # half of the four there are
        (LAPTOP, 8, 2, "L2", 512 * KB),
        (LAPTOP, 8, 1, "L3", 4 * MB),  # √(1 · 16)
        (LAPTOP, 8, 8, "L3", 8 * MB),  # √(4 · 16)
        (LAPTOP, 8, 1, "DRAM", 256 * MB),
        (SERVER, 2, 2, "L1", 48 * KB),
        (SERVER, 2, 2, "DRAM", 840 * MB),
        (SERVER, 128, 128, "DRAM", 1 * GB),
        (PI, 4, 4, "L2", 512 * KB),
        (PI, 4, 4, "DRAM", 256 * MB),
    ],
)
def test_working_set_lies_within_its_level(caches, threads, n, level, size):
    assert roofs.working_set(level, n, threads, caches, 64 * GB) == size


def test_working_set_leaves_most_of_the_memory_alone():
    assert roofs.working_set("DRAM", 2, 2, SERVER, 1 * GB) == 256 * MB
    assert roofs.working_set("DRAM", 2, 2, SERVER, None) == 256 * MB
    assert roofs.working_set("DRAM", 2, 2, SERVER, 0) > 0


def test_counts_of_threads_thin_out_upwards():
    assert roofs._counts(1) == [1]
    assert roofs._counts(6) == [1, 2, 3, 4, 5, 6]
    assert roofs._counts(48) == [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 48]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_buffer_is_memory_of_its_own_not_one_page_of_zeros():
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * mmap.PAGESIZE

    before = resident()
    buffer = roofs._buffer(64 * MB, 2)
    assert resident() - before > 60 * MB
    assert buffer.nbytes == 64 * MB
    assert not buffer.any()
    del buffer
    assert resident() - before < 30 * MB


def test_rows_begin_at_pages_and_hold_the_working_sets():
    rows = roofs._rows(np.zeros(7 * 1024 + 100, np.float32), 3)
    assert rows.shape == (3, 2048)
    assert rows.strides == (8192, 4)


def test_load_measures_once_and_reads_it_afterwards(small):
    first = roofs.load(2)
    assert not first.cached
    assert roofs.load(2) == dataclasses.replace(first, cached=True)
    assert len(list(small.iterdir())) == 1
    assert not roofs.load(1).cached  # another number of threads
    assert not roofs.load(2, again=True).cached
    assert len(list(small.iterdir())) == 2


@pytest.mark.usefixtures("small")
def test_cache_is_kept_apart_by_target_threads_cpu_and_version(monkeypatch):
    names = {roofs.cache_file(1), roofs.cache_file(2)}
    for target in kernels.info()["targets"]:
        kernels.set_target(target)
        names.add(roofs.cache_file(1))
    assert len(names) == 1 + len(kernels.info()["targets"])
    monkeypatch.setattr(roofs.machine, "cpu_name", lambda: "Zuse Z3 (R) 5 Hz/μ")
    names.add(roofs.cache_file(1))
    monkeypatch.setattr("minillm.__version__", "9.9")
    names.add(roofs.cache_file(1))
    assert len(names) == 3 + len(kernels.info()["targets"])
    assert roofs.cache_file(1).name.startswith("roofs-zuse-z3-r-5-hz-")


def damage(change):
    return lambda text: json.dumps(change(json.loads(text)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "\ud800",
        damage(lambda kept: kept | {"gflops": {"1": 5.0}}),
        damage(lambda kept: kept | {"gflops": {"1": 5.0, "2": 0}}),
        damage(lambda kept: kept | {"gflops": {"1": 5.0, "2": "fast"}}),
        damage(lambda kept: kept | {"gflops": {"1": 5.0, "2": math.nan}}),
        damage(lambda kept: kept | {"levels": ["L1"]}),
        damage(lambda kept: kept | {"copy": {}}),
        damage(lambda kept: kept | {"more": 1}),
        damage(lambda kept: {name: kept[name] for name in kept if name != "date"}),
    ],
)
def test_damaged_cache_is_measured_again(small, spoil):
    roofs.load(2)
    (path,) = small.iterdir()
    path.write_bytes(spoil(path.read_text()).encode(errors="surrogatepass"))
    assert not roofs.load(2).cached
    assert roofs.load(2).cached


def test_cache_that_cannot_be_written_is_done_without(small):
    small.write_text("a file where the directory should be")
    assert not roofs.load(1).cached
    assert not roofs.load(1).cached


def test_without_compiled_kernels_the_remedy_is_named(monkeypatch):
    info = kernels.info() | {"compiled": False, "remedy": "get a compiler"}
    monkeypatch.setattr(kernels, "info", lambda: info)
    for call in (roofs.load, roofs.measure):
        with pytest.raises(KernelError, match="get a compiler"):
            call()


@pytest.mark.usefixtures("small")
def test_less_than_one_thread_is_a_mistake(capsys):
    with pytest.raises(UserError, match="--threads must be at least 1, got 0"):
        roofs.measure(0)
    assert main(["roofs", "--threads", "0"]) == 2
    assert capsys.readouterr().err == "minillm: error: --threads must be at least 1, got 0\n"


@pytest.mark.usefixtures("small")
def test_command_prints_a_table_and_its_json(capsys):
    assert main(["roofs", "--threads", "2"]) == 0
    new = capsys.readouterr().out
    assert main(["roofs", "--threads", "2", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert main(["roofs", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "(new)" in new
    assert kept["cached"]
    assert text == new.replace("(new)", "(cached; --again measures anew)")
    assert kept["date"] in text
    lines = text.splitlines()
    assert [line[:21].strip() for line in lines[2:]] == [
        "",
        "multiply-add, GFLOP/s",
        *(f"{kind}, GB/s, {level}" for kind in ("read", "copy") for level in kept["levels"]),
    ]
    assert float(lines[3].split()[-1].replace(",", "")) == pytest.approx(
        kept["gflops"]["2"], abs=0.051
    )
    assert main(["roofs", "--threads", "2", "--again"]) == 0
    assert "(new)" in capsys.readouterr().out
