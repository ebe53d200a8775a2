"""The benchmarks at toy sizes: every field of the JSON, the table, the mistakes; no speed."""

import functools
import importlib.util
import json
import sys
import time

import numpy as np
import pytest

from minillm import bench, kernels
from minillm.bench import machine, memory, models, ops, products, table, timing, twin, workload
from minillm.cli import main
from minillm.models import GPT

FIELDS = {
    "schema", "benchmark", "command", "date", "turns", "preset", "machine", "versions", "code",
    "notes", "cases", "summary", "memory",
}  # fmt: skip


def small(benchmark, **options):
    return bench.run(bench.Options(benchmark, **{"turns": 2, "small": True} | options))


@pytest.fixture
def toy_sizes(monkeypatch):
    """The command line at toy sizes."""
    monkeypatch.setattr(bench, "Options", functools.partial(bench.Options, small=True))


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def check_schema(result):
    """What the docstring of minillm.bench promises."""
    assert set(result) == FIELDS
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["machine"].keys() == {"cpu", "cores", "os", "load"}
    assert result["versions"].keys() == {"minillm", "python", "numpy", "numpy_blas", "torch"}
    assert result["code"].keys() == {"compiled", "target", "compiler", "openmp", "kernels"}
    assert result["cases"]
    for case in result["cases"]:
        assert case.keys() == {"name", "group", "threads", "work", "contestants", "ratios"}
        first, *rivals = case["contestants"]
        assert list(case["ratios"]) == rivals
        for name, c in case["contestants"].items():
            assert c.keys() == {"seconds", "turns", "calls", "rates", "held"}
            assert len(c["turns"]) == result["turns"]
            assert 0 < c["seconds"]["q1"] <= c["seconds"]["median"] <= c["seconds"]["q3"]
            assert c["seconds"]["median"] == pytest.approx(np.median(c["turns"]))
            assert c["rates"].keys() == case["work"].keys()
            if name != first:
                own = case["contestants"][first]["turns"]
                ratio = np.median(np.divide(c["turns"], own))
                assert case["ratios"][name]["median"] == pytest.approx(ratio)
    assert sum(group["cases"] for group in result["summary"]) == len(result["cases"])


@pytest.mark.parametrize("benchmark", bench.BENCHMARKS)
def test_benchmark_gives_the_documented_object_and_a_table(benchmark):
    result = small(benchmark)
    check_schema(result)
    assert all(next(iter(case["contestants"])) == "minillm" for case in result["cases"])
    if benchmark in ("matmul", "softmax", "ops"):
        assert all("numpy" in case["ratios"] for case in result["cases"])
    text = table.as_text(result)
    assert result["machine"]["cpu"] in text
    assert all(case["name"] in text for case in result["cases"])


def test_matmul_runs_on_one_thread_and_on_all_unless_told():
    kernels.set_num_threads(2)
    assert {case["threads"] for case in small("matmul", turns=1)["cases"]} == {1, 2}
    assert {case["threads"] for case in small("matmul", turns=1, threads=3)["cases"]} == {3}
    assert kernels.get_num_threads() == 2


@pytest.mark.parametrize("module", [None, "torch"])
def test_contestants_of_a_product_do_the_same_work(module):
    """Each leaves the product in the one output that they share."""
    torch = module and pytest.importorskip(module)
    for case in products.matmul_cases([""], [1], True, torch):
        a, b, out = (np.asarray(cell) for cell in arrays_of(case.contestants[1].call))
        assert [x.mT.flags.c_contiguous for x in (a, b)] == [x == "T" for x in case.name[:2]]
        for contestant in case.contestants:
            out.fill(np.nan)
            contestant.call()
            np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-5, err_msg=case.name)


def arrays_of(call):
    """What NumPy's call multiplies, and where to."""
    cells = dict(zip(call.__code__.co_freevars, call.__closure__, strict=True))
    return [cells[name].cell_contents for name in ("a_view", "b_view", "c")]


def test_every_kernel_has_arguments_that_it_takes():
    assert set(ops.ARGUMENTS) == set(kernels.ALL)
    assert ops.missing() == []
    assert [case.name for case in ops.cases(workload.SMALL, [""], 1)] == list(kernels.ALL)


def test_one_contestant_for_each_choice_of_kernels():
    before = kernels.info()["kernels"]
    result = small("softmax", kernels=("auto", "softmax=numpy"))
    check_schema(result)
    names = list(result["cases"][0]["contestants"])
    assert names == ["minillm auto", "minillm softmax=numpy", "numpy"]
    assert kernels.info()["kernels"] == before


def test_contestant_runs_under_its_kernels_in_turn():
    seen = []

    def call():
        seen.append(kernels.info()["kernels"]["softmax"])
        time.sleep(1e-4)

    contestants = [timing.Contestant(str(i), call, spec) for i, spec in enumerate(("", "numpy"))]
    chosen = kernels.info()["kernels"]["softmax"]
    times = timing.measure(timing.Case("", 1, {}, contestants), 3, 1e-5)
    assert seen[-6:] == [chosen, "numpy"] * 3
    assert all(t.calls == 1 and len(t.seconds) == 3 for t in times.values())
    assert all(1e-4 <= s < 1 for t in times.values() for s in t.seconds)


def test_time_is_per_call_whatever_the_block():
    contestant = timing.Contestant("sleep", lambda: time.sleep(1e-3))
    times = timing.measure(timing.Case("", 1, {}, [contestant]), 1, 0.02)["sleep"]
    assert times.calls > 1
    assert 1e-3 <= times.seconds[0] < 0.02


def test_ratios_are_taken_turn_by_turn():
    """A machine that halves its speed between two turns changes no ratio."""
    times = {"a": timing.Times(1, [1.0, 2.0]), "b": timing.Times(1, [3.0, 6.0])}
    assert timing.ratios(times) == {"b": {"median": 3.0, "q1": 3.0, "q3": 3.0}}
    assert timing.geometric_mean([2, 8]) == pytest.approx(4)


def test_training_flop_are_those_of_the_targets():
    assert workload.of_preset("char-small").flops() == pytest.approx(3.96e9, rel=2e-3)


def test_train_measures_memory_in_a_process_of_its_own():
    found = memory.of_contestants(workload.SMALL, {"minillm": "numpy"}, 1)["minillm"]
    assert 10e6 < found["peak_resident"] < 1e9
    assert found["step"] > 0


def test_memory_of_a_step_is_what_it_holds_at_its_height():
    kept, warm_up = [], [900_000] * (memory.STEPS + 1)

    def step():
        kept[:] = [np.zeros(1000, np.uint8)]  # from step to step: no part of it
        np.zeros(warm_up.pop() if warm_up else 300_000, np.uint8)

    assert memory.measure(step, traced=True)["step"] == pytest.approx(300_000, rel=0.05)
    assert memory.measure(step, traced=False)["step"] is None


def test_busy_machine_is_noted():
    quiet = {"load": [0.1, 2, 2], "cores": 2}
    busy = {"load": [1.5, 0, 0], "cores": 2}
    assert not any("load" in note for note in machine.notes(quiet, 2))
    assert any("load average 1.5" in note for note in machine.notes(busy, 2))
    assert any("4 threads share 2" in note for note in machine.notes(quiet, 4))


# The command line.


def test_command_line_prints_a_table_and_keeps_the_json(toy_sizes, tmp_path, capsys):
    path = tmp_path / "softmax.json"
    assert main(["bench", "softmax", "--turns", "1", "--threads", "1", "--json", str(path)]) == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    check_schema(result)
    assert result["command"] == "minillm bench softmax --turns 1 --threads 1"
    assert capsys.readouterr().out == table.as_text(result) + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "invalid choice"),
        (["softmax", "--turns", "0"], "--turns must be at least 1"),
        (["softmax", "--threads", "0"], "--threads must be at least 1"),
        (["softmax", "--preset", "char-small"], "--preset goes with ops, train, decode"),
        (["softmax", "--kernels", "softmax=fast"], "no implementation 'fast'"),
        (["softmax", "--kernels", "auto", "--kernels", "auto"], "given twice"),
        (["softmax", "--json", "no/such/place.json"], "there is no such directory"),
        (["ops", "--against", "torch"], "leave --against out"),
    ],
)
def test_mistake_is_one_line(toy_sizes, arguments, message, capsys):
    try:
        code = main(["bench", *arguments])
    except SystemExit as exit:  # argparse's
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("benchmark", ["matmul", "softmax", "train", "decode"])
def test_missing_torch_is_one_line_with_the_remedy(toy_sizes, no_torch, benchmark, capsys):
    assert main(["bench", benchmark, "--against", "torch"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "minillm[bench]"' in error
    assert error.count("\n") == 1


# Against PyTorch.


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


@needs_torch
@pytest.mark.parametrize("benchmark", ["matmul", "softmax", "train", "decode"])
def test_torch_is_a_contestant(benchmark):
    result = small(benchmark, against="torch", turns=1)
    check_schema(result)
    assert all("torch" in case["ratios"] for case in result["cases"])
    assert result["versions"]["torch"]


@needs_torch
@pytest.mark.parametrize("bias", [False, True])
def test_twin_does_the_same_training_steps(bias):
    import torch

    w = workload.Workload("", 11, 8, 2, 2, 8, bias, B=2, T=8)
    ours, theirs = models.step(w), twin.step(torch, GPT(w.model()), w)
    a, b = [ours() for _ in range(5)], [theirs() for _ in range(5)]
    assert a[-1] < a[0]
    np.testing.assert_allclose(a, b, rtol=1e-4)


@needs_torch
def test_twin_writes_the_same_text():
    import torch

    model = GPT(workload.SMALL.model())
    assert twin.generate(torch, model, 8, None)()[1:] == list(model.stream([0], 8, 0.0))
