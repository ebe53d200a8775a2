"""What holds for every kernel, and how one is chosen. A new kernel needs one line in EXAMPLES."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bounds import same_bits
from strategies import LAYOUTS

import minillm
from minillm import KernelError, kernels

COMPILED = kernels.info()["compiled"]
needs_c = pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")


@dataclass(frozen=True)
class Example:
    """Arguments large enough for several threads; the indices say what they are."""

    make: Callable[[np.random.Generator], tuple]
    writes: tuple[int, ...] = ()  # arguments updated in place
    rows: tuple[int, ...] = ()  # arguments cut along axis 0 …
    row_results: tuple[int, ...] = ()  # … and the results that are cut with them
    misfit: Callable[[tuple], tuple] | None = None  # arguments that do not fit each other

    def arguments(self) -> tuple:
        return self.make(np.random.default_rng(0))


def f32(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def layer_norm_vjp(rng):
    x, weight = f32(rng, 300, 65), f32(rng, 65)
    _, mean, rstd = kernels.layer_norm.specification(x, weight, None)
    return f32(rng, 300, 65), x, weight, mean, rstd, f32(rng, 300, 65)


def attention(rng):
    return f32(rng, 3, 2, 70, 16), f32(rng, 3, 2, 70, 16), f32(rng, 3, 2, 70, 16), True, 0.25


def attention_vjp(rng):
    q, k, v, causal, scale = attention(rng)
    o, lse = kernels.attention.specification(q, k, v, causal, scale)
    return q, k, v, o, f32(rng, *o.shape), lse, causal, scale


def cross_entropy(rng):
    targets = np.where(rng.random(300) < 0.1, -100, rng.integers(0, 65, 300))
    return f32(rng, 300, 65), targets, -100, 0.1


def cross_entropy_vjp(rng):
    x, targets, ignored, smoothing = cross_entropy(rng)
    _, lse = kernels.cross_entropy.specification(x, targets, ignored, smoothing)
    return x, lse, f32(rng, 300), targets, ignored, smoothing


def adamw(rng):
    """Several tensors: some of a few chunks, some smaller than one, one empty."""
    shapes = [(20000,), (3, 5), (0, 4), (100, 170), (1,)]
    params, grads, ms, vs = ([f32(rng, *shape) for shape in shapes] for _ in range(4))
    vs = [v * v for v in vs]
    return params, grads, ms, vs, 1e-2, 0.9, 0.999, 1e-8, [0.1, 0.0, 0.1, 0.2, 0.0], 3


def decode(rng):
    C, V, H, size = 32, 21, 128, 9
    shapes = [
        (C,),
        None,
        (3 * C, C),
        (3 * C,),
        (C, C),
        None,
        (C,),
        (C,),
        (H, C),
        (H,),
        (C, H),
        (C,),
    ]
    blocks = [tuple(None if s is None else f32(rng, *s) for s in shapes) for _ in range(2)]
    caches = [(f32(rng, 3, 4, size, 8), f32(rng, 3, 4, size, 8)) for _ in range(2)]
    last = f32(rng, C), None, f32(rng, V, C)
    return f32(rng, 3, C), kernels.Decoder(blocks, last, n_head=4), caches, 5


def falling(rng):
    """Chunks of such different sizes that the order of their sum shows."""
    x = (f32(rng, 1_200_000) * np.logspace(0, -12, 1_200_000)).astype(np.float32)
    return (np.split(x, [5, 700_000]),)


def replaced(i: int, value: Callable) -> Callable[[tuple], tuple]:
    """The arguments with number i exchanged for value(it)."""
    return lambda args: (*args[:i], value(args[i]), *args[i + 1 :])


first_shorter = replaced(0, lambda a: a[:-1])
shorter = replaced(1, lambda a: a[:-1])  # a view, so that a kernel that reads on finds memory
EXAMPLES = {
    "matmul": Example(lambda r: (f32(r, 140, 65), f32(r, 65, 90)), (), (0,), (0,), shorter),
    "softmax": Example(lambda r: (f32(r, 300, 65),), (), (0,), (0,)),
    "softmax_vjp": Example(lambda r: (f32(r, 300, 65), f32(r, 300, 65)), (), (0, 1), (0,), shorter),
    "layer_norm": Example(
        lambda r: (f32(r, 300, 65), f32(r, 65), f32(r, 65)), (), (0,), (0, 1, 2), shorter
    ),
    "layer_norm_vjp": Example(layer_norm_vjp, (), (0, 1, 3, 4, 5), (0,), shorter),
    "gelu": Example(lambda r: (f32(r, 300, 65), "tanh"), (), (0,), (0, 1)),
    "gelu_vjp": Example(lambda r: (f32(r, 300, 65), f32(r, 300, 65)), (), (0, 1), (0,), shorter),
    "attention": Example(attention, (), (0, 1, 2), (0, 1), replaced(1, lambda k: k[..., :-1])),
    "attention_vjp": Example(
        attention_vjp, (), (0, 1, 2, 3, 4, 5), (0, 1, 2), replaced(4, lambda do: do[:-1])
    ),
    "cross_entropy": Example(cross_entropy, (), (0, 1), (0, 1), shorter),
    "cross_entropy_vjp": Example(cross_entropy_vjp, (), (0, 1, 2, 3), (0,), shorter),
    "embedding_vjp": Example(
        lambda r: (f32(r, 200, 130), r.integers(0, 50, 200), 50), misfit=first_shorter
    ),
    "adamw": Example(adamw, (0, 2, 3), misfit=shorter),
    "sum_squares": Example(falling),
    "decode": Example(decode, misfit=replaced(2, lambda caches: caches[:1])),
    "draw": Example(lambda r: (f32(r, 65), 0.8, 40, 1.0, r.random())),
    "scale_all": Example(lambda r: ([f32(r, 20000), f32(r, 3, 5)], 0.3), (0,)),
}  # fmt: skip


def results(call: Callable, args: tuple, writes: tuple[int, ...] = ()) -> tuple:
    """Everything that a call gives: its results, then the arguments that it updated."""
    args = tuple(each_array(np.copy, a) if i in writes else a for i, a in enumerate(args))
    result = call(*args)
    result = result if isinstance(result, tuple) else () if result is None else (result,)
    return tuple(np.asarray(r) for r in (*result, *arrays_in(args[i] for i in writes)))


def each_array(function: Callable, a):
    """function(a) for an array, and for each one in a list of arrays; anything else stays."""
    if isinstance(a, list):
        return [each_array(function, one) for one in a]
    return function(a) if isinstance(a, np.ndarray) else a


def each_float_array(function: Callable, a):
    return each_array(lambda one: function(one) if one.dtype.kind == "f" else one, a)


def arrays_in(args) -> list[np.ndarray]:
    lists = (a if isinstance(a, list) else [a] for a in args)
    return [a for each in lists for a in each if isinstance(a, np.ndarray)]


def test_every_kernel_has_an_example():
    assert set(EXAMPLES) == set(kernels.ALL)


def test_kernel_agrees_with_its_specification(choice):
    """Loosely, at one size; the file of each kernel holds it to its bound."""
    example = EXAMPLES[choice.kernel.name]
    args = example.arguments()
    exact = tuple(each_float_array(lambda a: a.astype(np.float64), a) for a in args)
    want = results(choice.kernel.specification, exact, example.writes)
    got = results(choice, args, example.writes)
    for g, w in zip(got, want, strict=True):
        assert w.dtype in (np.float64, np.int64)  # draw gives an index
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * np.abs(w).max(initial=0))


@pytest.fixture
def all_threads(monkeypatch):
    """As many threads as asked for, also on a machine that is busy with something else."""
    monkeypatch.setattr("minillm.kernels.threads.waited_for_cores", lambda: 0.0)
    monkeypatch.setattr("minillm.kernels.threads._alone_until", 0.0)


@needs_c
@pytest.mark.parametrize("name", kernels.ALL)
def test_kernel_gives_the_same_bits_at_any_number_of_threads(target, name, all_threads):
    example, kernel = EXAMPLES[name], kernels.ALL[name]
    args, seen = example.arguments(), []
    for threads in (1, 2, 3, 8):
        kernels.set_num_threads(threads)
        for _ in range(3 if threads > 1 else 1):
            seen.append(results(kernel, args, example.writes))
    with kernels.using(**{name: "simd"}):
        seen.append(results(kernel, args, example.writes))
    for other in seen[1:]:
        assert all(same_bits(a, b) for a, b in zip(seen[0], other, strict=True))


def test_kernel_leaves_its_inputs_alone(choice):
    example = EXAMPLES[choice.kernel.name]
    args = example.arguments()
    read = arrays_in(a for i, a in enumerate(args) if i not in example.writes)
    before = [a.copy() for a in read]
    choice(*args)
    assert all(map(same_bits, read, before))


def test_kernel_rows_do_not_depend_on_their_neighbours(choice):
    example = EXAMPLES[choice.kernel.name]
    args = example.arguments()
    whole = results(choice, args, example.writes)
    for i in (0, 1, -1) if example.rows else ():
        i %= len(args[example.rows[0]])
        cut = tuple(a[i : i + 1] if at in example.rows else a for at, a in enumerate(args))
        alone = results(choice, cut, example.writes)
        for r in example.row_results:
            np.testing.assert_allclose(whole[r][i : i + 1], alone[r], rtol=1e-4, atol=1e-5)
            assert choice.implementation == "numpy" or same_bits(whole[r][i : i + 1], alone[r])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("one ")])
def test_kernel_takes_any_layout(choice, layout):
    example = EXAMPLES[choice.kernel.name]
    args = example.arguments()
    laid = tuple(
        a if i in example.writes else each_float_array(LAYOUTS[layout], a)
        for i, a in enumerate(args)
    )
    got, want = (results(choice, a, example.writes) for a in (laid, args))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * np.abs(w).max(initial=0))
        assert g.dtype == w.dtype


def test_kernel_never_reads_fresh_memory(choice):
    """Twice the same bits, whatever the memory held that the results are written to."""
    example = EXAMPLES[choice.kernel.name]
    args = example.arguments()
    first = results(choice, args, example.writes)
    rubbish = [np.full(r.shape, np.nan, np.float32) for r in first for _ in range(3)]
    del rubbish
    again = results(choice, args, example.writes)
    assert all(map(same_bits, first, again))


@needs_c
def test_arrays_for_results_start_at_a_cache_line():
    for i in range(1, 40):
        blocks = [kernels.empty((i, 3), dtype) for dtype in (np.float32, np.float64)]
        assert blocks[0].ctypes.data % 64 == 0
        assert blocks[0].flags.carray
        assert [b.shape for b in blocks] == [(i, 3)] * 2
        assert [b.dtype for b in blocks] == [np.float32, np.float64]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name].misfit])
def test_kernel_refuses_arguments_that_do_not_fit(name):
    """An error, in Python, before C would read past an array."""
    args = EXAMPLES[name].misfit(EXAMPLES[name].arguments())
    with pytest.raises(ValueError, match=name):
        kernels.ALL[name](*args)


@pytest.mark.parametrize("bad", [65, -1, 10**12])
def test_kernel_refuses_an_index_out_of_range(bad):
    """In a process of its own: C would write past its memory."""
    for call in (
        f"k.cross_entropy(x, np.array([0, {bad}]))",
        f"k.cross_entropy_vjp(x, x[:, 0], x[:, 0], np.array([0, {bad}]))",
        f"k.embedding_vjp(x, np.array([0, {bad}]), 65)",
    ):
        code = (
            f"x = np.ones((2, 65), 'f4')\ntry: {call}\nexcept (ValueError, IndexError): print('ok')"
        )
        ran = python(code)
        assert ran.stdout == "ok\n", f"{call}: returned {ran.returncode} {ran.stderr}"


@pytest.mark.parametrize("name", kernels.ALL)
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_kernel_other_floats_go_to_the_specification(name, dtype):
    example, kernel = EXAMPLES[name], kernels.ALL[name]
    args = tuple(each_float_array(lambda a: a.astype(dtype), a) for a in example.arguments())
    with np.errstate(all="ignore"):
        got = results(kernel, args, example.writes)
        want = results(kernel.specification, args, example.writes)
    assert all(map(same_bits, got, want))
    if name not in ("sum_squares", "decode", "draw"):  # a Python number; float32 weights
        assert {r.dtype for r in got} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", kernels.ALL)
def test_kernel_refuses_what_is_not_float(name):
    first, *rest = EXAMPLES[name].arguments()
    with pytest.raises(TypeError, match=f"{name}: expected float arrays, got int32"):
        kernels.ALL[name](each_array(lambda a: a.astype(np.int32), first), *rest)
    with pytest.raises(TypeError, match="complex64"):
        kernels.ALL[name](each_array(lambda a: a.astype(np.complex64), first), *rest)


def test_kernel_takes_lists_and_subclasses():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(kernels.softmax(x.tolist()), kernels.softmax(x), rtol=1e-6)
    assert type(kernels.softmax(x.view(np.matrix))) is np.ndarray


@pytest.mark.parametrize("name", [name for name in kernels.ALL if kernels.ALL[name].lists])
def test_kernel_of_lists_refuses_what_is_no_list_of_arrays(name):
    """Not even a generator: looking at what is in it would use it up."""
    first, *rest = EXAMPLES[name].arguments()
    with pytest.raises(TypeError, match=f"{name}: expected lists of arrays, got ndarray"):
        kernels.ALL[name](first[0], *rest)
    with pytest.raises(TypeError, match=f"{name}: expected lists of arrays, got generator"):
        kernels.ALL[name]((a for a in first), *rest)
    with pytest.raises(TypeError, match=f"{name}: expected arrays in its lists, got float"):
        kernels.ALL[name]([*first, 1.0], *rest)


def test_kernel_of_lists_takes_none_and_subclasses(tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3,))
    x[:] = 1, 2, 3
    assert kernels.sum_squares([x]) == kernels.sum_squares((x,)) == 14
    kernels.scale_all([x], 2)
    np.testing.assert_array_equal(x, [2, 4, 6])
    assert kernels.sum_squares([]) == 0
    kernels.scale_all([], 2)
    kernels.adamw([], [], [], [], 1e-2, 0.9, 0.999, 1e-8, [], 1)


def test_kernel_by_keyword_is_the_same():
    a, b = np.ones((2, 3)), np.ones((3, 2))
    np.testing.assert_array_equal(kernels.matmul(a=a, b=b), kernels.matmul(a, b))
    np.testing.assert_array_equal(kernels.softmax(x=a), kernels.softmax(a))


@needs_c
def test_kernel_runs_compiled_whatever_object_its_dtype_is():
    """float32 is float32 also after pickle, which makes a dtype object of its own."""
    import pickle

    x = pickle.loads(pickle.dumps(np.ones((4, 5), np.float32)))
    with kernels.using(softmax="simd"):
        assert same_bits(kernels.softmax(x), kernels.softmax(np.ones((4, 5), np.float32)))
        called = []
        kernels.softmax.run = lambda *args: called.append(args)
        kernels.softmax(x)
    assert called, "went to the specification"


@pytest.mark.parametrize("name", kernels.ALL)
def test_kernel_costs_are_counted_from_its_arguments(name):
    kernel, args = kernels.ALL[name], EXAMPLES[name].arguments()
    assert kernel.flops(*args) > 0
    floats = [a for a in arrays_in(args) if a.dtype.kind == "f"]
    assert kernel.bytes(*args) >= sum(a.nbytes for a in floats) / 2
    assert isinstance(kernel.flops(*args), int)
    assert isinstance(kernel.bytes(*args), int)


def test_kernel_matmul_costs():
    a, b = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    assert kernels.matmul.flops(a, b) == 2 * 2 * 3 * 4 * 5
    assert kernels.matmul.bytes(a, b) == 4 * (24 + 20 + 30)


@pytest.mark.parametrize("name", kernels.ALL)
def test_observers_see_each_call_once(name):
    args, seen = EXAMPLES[name].arguments(), []
    kernels.observers.append(lambda *event: seen.append(event))
    kernels.ALL[name](*args)
    ((kernel, got, kwargs, seconds),) = seen
    assert kernel is kernels.ALL[name]
    assert all(a is b for a, b in zip(got, args, strict=True))
    assert kwargs == {}
    assert seconds > 0


def test_observers_see_lists_once():
    seen = []
    kernels.observers.append(lambda *event: seen.append(event))
    kernels.softmax([1.0, 2.0])
    assert len(seen) == 1


# ---- choosing ------------------------------------------------------------------------------------


def test_available_lists_every_kernel_with_numpy_last():
    available = kernels.available()
    assert list(available) == list(kernels.ALL)
    assert all(names[-1] == "numpy" for names in available.values())
    if COMPILED:
        assert available["matmul"] == ["naive", "reordered", "tiled", "simd", "parallel", "numpy"]
        assert available.pop("draw") == ["simd", "numpy"]
        assert all(names[-2] == "parallel" for names in available.values())


def test_use_numpy_and_auto_choose_for_every_kernel():
    kernels.use("numpy")
    assert set(kernels.info()["kernels"].values()) == {"numpy"}
    kernels.use("auto")
    chosen = kernels.info()["kernels"]
    assert chosen.pop("draw") == ("simd" if COMPILED else "numpy")  # one row: nothing to share
    assert set(chosen.values()) == {"parallel" if COMPILED else "numpy"}


@needs_c
def test_use_takes_a_list_and_keywords():
    kernels.use("numpy, matmul=tiled", softmax="naive")
    chosen = kernels.info()["kernels"]
    assert (chosen["matmul"], chosen["softmax"], chosen["gelu"]) == ("tiled", "naive", "numpy")


@needs_c
def test_use_by_keyword_leaves_the_other_kernels_alone():
    kernels.use(matmul="naive")
    kernels.use(softmax="numpy")
    assert kernels.matmul.chosen == "naive"


@needs_c
def test_using_restores_what_ran_before_also_after_an_error():
    kernels.use("matmul=tiled")
    with kernels.using("numpy", softmax="naive"), kernels.using(matmul="naive"):
        assert (kernels.matmul.chosen, kernels.softmax.chosen) == ("naive", "naive")
        assert kernels.gelu.chosen == "numpy"
    assert (kernels.matmul.chosen, kernels.gelu.chosen) == ("tiled", "parallel")
    with pytest.raises(ZeroDivisionError), kernels.using("numpy"):
        raise ZeroDivisionError
    assert (kernels.matmul.chosen, kernels.gelu.chosen) == ("tiled", "parallel")


@pytest.mark.parametrize(
    ("spec", "valid"),
    [
        ("matmul=fast", "numpy"),
        ("matmull=numpy", "softmax, softmax_vjp"),
        ("fastest", "auto, numpy"),
    ],
)
def test_use_of_an_unknown_name_lists_the_valid_ones_and_changes_nothing(spec, valid):
    before = kernels.info()["kernels"]
    with pytest.raises(KernelError, match=valid):
        kernels.use(f"numpy,{spec}")
    with pytest.raises(KernelError, match=valid), kernels.using(spec):
        raise AssertionError("not reached")
    assert kernels.info()["kernels"] == before


@needs_c
def test_set_target_of_an_unknown_name_lists_the_valid_ones(target):
    with pytest.raises(KernelError, match=r"no target 'sse9'.*baseline"):
        kernels.set_target("sse9")
    assert kernels.info()["target"] == target


@pytest.mark.parametrize("count", [0, -1])
def test_set_num_threads_refuses_what_is_not_a_count(count):
    with pytest.raises(ValueError, match=f"1 or more, got {count}"):
        kernels.set_num_threads(count)


def test_info_says_what_runs():
    info = kernels.info()
    assert info["compiled"] == bool(info["compiler"]) == (not info["why"]) == (not info["remedy"])
    assert info["kernels"].keys() == kernels.ALL.keys()
    if COMPILED:
        assert info["target"] in info["targets"]
        assert info["targets"][-1] == "baseline"
        kernels.set_num_threads(3)
        assert kernels.info()["threads"] == (3 if info["openmp"] else 1)


# ---- in a process of its own ---------------------------------------------------------------------


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code with numpy as np and minillm.kernels as k."""
    dropped = ("MINILLM_KERNELS", "MINILLM_TARGET", "MINILLM_NUM_THREADS", "OMP_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env["PYTHONPATH"] = str(Path(minillm.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import numpy as np, minillm.kernels as k\n{code}"],
        env={**env, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@needs_c
def test_environment_chooses_kernels_target_and_threads():
    ran = python(
        "i = k.info(); print(i['kernels']['matmul'], i['kernels']['gelu'], i['target'],"
        " k.get_num_threads())",
        MINILLM_KERNELS="numpy,matmul=tiled", MINILLM_TARGET="baseline", MINILLM_NUM_THREADS="5",
        OMP_NUM_THREADS="7",
    )  # fmt: skip
    assert ran.stdout.split() == ["tiled", "numpy", "baseline", "5"], ran.stderr
    assert python("print(k.get_num_threads())", OMP_NUM_THREADS="3").stdout == "3\n"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MINILLM_KERNELS", "matmul=fast", "there are: "),
        ("MINILLM_TARGET", "sse9", "baseline" if COMPILED else "not compiled"),
        ("MINILLM_NUM_THREADS", "many", "a number of threads, 1 or more"),
        ("MINILLM_NUM_THREADS", "0", "a number of threads, 1 or more"),
    ],
)
def test_environment_with_a_wrong_value_is_an_error_that_says_what_is_valid(variable, value, says):
    ran = python("", **{variable: value})
    assert ran.returncode != 0
    assert "KernelError" in ran.stderr
    assert says in ran.stderr


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads running
k.set_num_threads(4)
a = np.ones((300, 300), "f4")
k.matmul(a, a)
child = os.fork()
if child == 0:
    {child}
    os._exit(0 if (k.matmul(a, a) == 300).all() and (k.softmax(a) > 0).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_c
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("child", ["pass", "k.set_num_threads(2)"])
def test_fork_after_a_parallel_region_does_not_hang(child):
    code = "import signal; signal.alarm(20)\n" + FORK.format(child=child)
    code = code.replace("if child == 0:\n", "if child == 0:\n    signal.alarm(10)\n")
    assert python(code).returncode == 0


def test_import_is_silent():
    ran = python("")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@needs_c
def test_kernels_from_several_python_threads_agree():
    """cffi lets go of the GIL: two calls may be inside at once."""
    from concurrent.futures import ThreadPoolExecutor

    a, b = EXAMPLES["matmul"].arguments()
    want = kernels.matmul(a, b)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: kernels.matmul(a, b), range(40)):
            assert same_bits(got, want)
