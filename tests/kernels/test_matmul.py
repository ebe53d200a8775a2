"""matmul against float64 within γ_K |A| |B|: sizes, layouts, transposition, broadcasting."""

import numpy as np
import pytest
from bounds import TINY, assert_within, gamma, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, floats, large, seeds, small

from minillm import kernels

LEADS = [
    ((), ()),
    ((2,), ()),
    ((), (3,)),
    ((3,), (3,)),
    ((2, 1), (3,)),
    ((2, 1), (1, 2)),
    ((0,), (1,)),
]
TRANSPOSED = [(False, False), (False, True), (True, False), (True, True)]


def transpose(a, yes):
    return a.swapaxes(-1, -2) if yes else a


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def products(draw):
    """(a, b, trans_a, trans_b): at most one of the three sizes is large."""
    sizes = [draw(small) for _ in range(3)]
    which = draw(st.integers(0, 5))
    if which < 3:
        sizes[which] = draw(large)
    (M, N, K), (lead_a, lead_b) = sizes, draw(st.sampled_from(LEADS))
    trans_a, trans_b = draw(st.sampled_from(TRANSPOSED))
    a = draw(floats((*lead_a, K, M) if trans_a else (*lead_a, M, K)))
    b = draw(floats((*lead_b, N, K) if trans_b else (*lead_b, K, N)))
    return a, b, trans_a, trans_b


def assert_product(c, a, b, trans_a=False, trans_b=False):
    """A sum of K products, in any order, each addition rounded once: |c - ab| ≤ γ_K |a||b|.

    A product below the normal range loses half of TINY at most; a sum there loses nothing.
    """
    a, b = wide(transpose(a, trans_a), transpose(b, trans_b))
    K = a.shape[-1]
    assert_within(c, a @ b, gamma(K) * (np.abs(a) @ np.abs(b)) + K * TINY / 2)


@given(products())
def test_matmul_matches_float64(matmul, product):
    assert_product(matmul(*product), *product)


@pytest.mark.parametrize("K", [1, 9, 383, 385, 769])
def test_matmul_at_the_edges_of_its_tiles(target, K):
    for M in range(1, 16):
        for N in (7, 8, 9, 15, 16, 17, 31, 33):
            a, b = random(M, K, seed=M), random(K, N, seed=N)
            assert_product(kernels.matmul(a, b), a, b)


FINISHES = [("add",), ("times",), ("slope",), ("add", "times"), ("add", "slope")]


@pytest.mark.parametrize("finish", FINISHES, ids="+".join)
@pytest.mark.parametrize(
    ("M", "N", "K"), [(1, 1, 1), (17, 33, 5), (90, 70, 400), (9, 600, 384), (0, 3, 2), (3, 4, 0)]
)
def test_matmul_finishes_as_separate_passes_would(matmul, M, N, K, finish):
    a, b = random(M, K), random(K, N, seed=1)
    arrays = {"add": random(M, N, seed=2), "times": random(M, N, seed=3)}
    arrays = {name: arrays[name] for name in finish if name != "slope"}
    if "slope" in finish:
        arrays["slope"] = np.full((M, N), np.nan, np.float32)
    c = matmul(a, b, **arrays)
    wide_arrays = {name: wide(x)[0] for name, x in arrays.items()}
    exact = kernels.matmul.specification(*wide(a, b), **wide_arrays)
    np.testing.assert_allclose(c, exact, rtol=1e-5, atol=1e-4)
    if "slope" in finish:
        np.testing.assert_allclose(arrays["slope"], wide_arrays["slope"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_matmul_finishes_with_the_bits_of_gelu(target, approximate):
    """The tile that is still in the cache goes through the same code."""
    a, b, bias = random(40, 31), random(31, 77, seed=1), random(77, seed=2)
    slope = np.empty((40, 77), np.float32)
    y = kernels.matmul(a, b, add=bias, slope=slope, approximate=approximate)
    want, want_slope = kernels.gelu(kernels.matmul(a, b) + bias, approximate)
    assert same_bits(y, want)
    assert same_bits(slope, want_slope)


def test_matmul_finishes_any_layout(matmul):
    a, b, add = random(2, 9, 5), random(5, 7, seed=1), random(2, 7, 9, seed=2).swapaxes(1, 2)
    times, slope = random(7, 9, 2, seed=3).T, np.empty((9, 7, 2), np.float32).transpose(2, 0, 1)
    c = matmul(a, b, add=add, times=times, slope=slope)
    y, want = kernels.gelu.specification((a @ b + add) * times)
    np.testing.assert_allclose(c, y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, want, rtol=1e-5, atol=1e-5)
    out = add[0].copy(order="F")
    matmul(a[0], b, out=out, add=out)
    np.testing.assert_allclose(out, a[0] @ b + add[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["add", "times", "slope"])
def test_matmul_misfit_of_a_finish_is_named(matmul, name):
    with pytest.raises(ValueError, match=rf"matmul: {name} .*\(2, 4\).*\(2, 3\)"):
        matmul(random(2, 3), random(3, 4), **{name: random(2, 3)})


# With 32 products a task is wide enough (8 panels) for A to be packed as well.
@pytest.mark.parametrize(("trans_a", "trans_b"), TRANSPOSED)
@pytest.mark.parametrize("N", [64, 65, 127, 129, 255, 257])
def test_matmul_with_packed_operands(target, N, trans_a, trans_b):
    for M, K in [(1, 9), (5, 2), (6, 13), (7, 8), (14, 5), (15, 17), (29, 3)]:
        a = random(*((32, K, M) if trans_a else (32, M, K)), seed=M)
        b = random(*((32, N, K) if trans_b else (32, K, N)), seed=K)
        assert_product(kernels.matmul(a, b, trans_a, trans_b), a, b, trans_a, trans_b)


@pytest.mark.parametrize(("M", "N", "K"), [(383, 17, 5), (385, 33, 3), (769, 1, 7), (30, 8200, 3)])
def test_matmul_cut_into_tasks(matmul, M, N, K):
    a, b = random(M, K), random(K, N)
    assert_product(matmul(a, b), a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_matmul_takes_any_layout(matmul, layout):
    a, b = LAYOUTS[layout](random(2, 9, 20)), LAYOUTS[layout](random(2, 20, 35))
    assert_product(matmul(a, b), a, b)
    assert_product(matmul(b, a, True, True), b, a, True, True)
    assert_product(matmul(a, b[0]), a, b[0])


@given(seeds, st.sampled_from([(2, 3), (3, 1), (1, 3)]))
def test_matmul_broadcasts_leading_axes_as_single_products(matmul, seed, lead):
    a, b = random(*lead, 7, 18, seed=seed), random(3, 18, 33, seed=seed + 1)
    c = matmul(a, b)
    for i, j in np.ndindex(c.shape[:2]):
        one = matmul(a[i, j if lead[1] > 1 else 0], b[j])
        np.testing.assert_allclose(c[i, j], one, rtol=0, atol=1e-4)
        assert same_bits(c[i, j], one) or matmul.implementation == "numpy"


@given(seeds, st.integers(1, 40), st.sampled_from([1, 17, 400]))
def test_matmul_row_does_not_depend_on_its_neighbours(matmul, seed, M, K):
    """Bit for bit; numpy's BLAS promises less, and gets the bound of the whole product twice."""
    a, b = random(M, K, seed=seed), random(K, 35, seed=seed + 1)
    c, i = matmul(a, b), seed % M
    alone = matmul(a[i : i + 1], b)
    assert same_bits(c[i : i + 1], alone) or matmul.implementation == "numpy"
    assert_within(alone, *wide(c[i : i + 1]), 2 * gamma(K) * np.abs(a[i]) @ np.abs(b))


@pytest.mark.parametrize(("M", "K", "N"), [(3, 0, 4), (0, 5, 4), (3, 5, 0), (0, 0, 0)])
@pytest.mark.parametrize(("lead_a", "lead_b"), LEADS)
def test_matmul_of_zero_size(matmul, M, K, N, lead_a, lead_b):
    for trans_a, trans_b in TRANSPOSED:
        a = np.ones((*lead_a, K, M) if trans_a else (*lead_a, M, K), np.float32)
        b = np.ones((*lead_b, N, K) if trans_b else (*lead_b, K, N), np.float32)
        c = matmul(a, b, trans_a, trans_b)
        assert c.shape == (*np.broadcast_shapes(lead_a, lead_b), M, N)
        assert not c.any()


@pytest.mark.parametrize("K", [0, 3, 500])
def test_matmul_never_reads_out(matmul, K):
    a, b, out = random(5, K), random(K, 19), np.full((5, 19), np.nan, np.float32)
    assert matmul(a, b, out=out) is out
    assert_product(out, a, b)


@pytest.mark.parametrize(
    "layout", ["fortran", "padded", "offset", "stepped", "reversed", "misaligned"]
)
def test_matmul_writes_into_any_out(matmul, layout):
    a, b, out = (
        random(2, 5, 9),
        random(9, 19),
        LAYOUTS[layout](np.full((2, 5, 19), np.nan, np.float32)),
    )
    assert matmul(a, b, out=out) is out
    assert_product(out, a, b)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
def test_matmul_writes_into_another_float_type(matmul, dtype):
    a, b, out = random(5, 9), random(9, 19), np.full((5, 19), np.nan, dtype)
    assert matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, matmul(a, b).astype(dtype))


@pytest.mark.parametrize("which", ["a", "b", "both", "shifted"])
def test_matmul_out_may_overlap_its_inputs(matmul, which):
    memory = random(400)
    a, b = memory[:289].reshape(17, 17), random(17, 17)
    out = memory[5:294].reshape(17, 17) if which == "shifted" else a
    if which in ("b", "both"):
        a, b = (b, a) if which == "b" else (a, a)
    want_a, want_b = a.copy(), b.copy()
    assert_product(matmul(a, b, out=out), want_a, want_b)


def test_matmul_refuses_an_out_that_it_cannot_write(matmul):
    a, b = random(3, 4), random(4, 5)
    with pytest.raises(ValueError, match=r"\(3, 5\).*\(5, 3\)"):
        matmul(a, b, out=np.empty((5, 3), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        matmul(a, b, out=LAYOUTS["read-only"](np.empty((3, 5), np.float32)))
    with pytest.raises(TypeError, match="int32"):
        matmul(a, b, out=np.empty((3, 5), np.int32))


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [((3, 4), (3, 4)), ((4,), (4, 2)), ((2, 3, 4), (3, 4, 5)), ((2, 4), (4,)), ((2, 0), (1, 2))],
)
def test_matmul_names_shapes_that_do_not_fit(matmul, shape_a, shape_b):
    with pytest.raises(ValueError, match="matmul: ") as error:
        matmul(np.ones(shape_a, np.float32), np.ones(shape_b, np.float32))
    assert str(shape_a) in str(error.value)
    assert str(shape_b) in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("K", [4, 390])
def test_matmul_special_value_spoils_its_row_or_column_only(matmul, bad, K):
    a, b = random(20, K), random(K, 37)
    clean = matmul(a, b)
    a[4, K - 2], b[1, 33] = bad, bad
    with np.errstate(invalid="ignore"):
        c, want = matmul(a, b), a.astype(np.float64) @ b
    spoilt = np.zeros(c.shape, bool)
    spoilt[4], spoilt[:, 33] = True, True
    np.testing.assert_array_equal(c[spoilt], want[spoilt].astype(np.float32))
    np.testing.assert_allclose(c[~spoilt], clean[~spoilt], rtol=1e-5, atol=1e-4)
    assert not np.isfinite(c[spoilt]).any()


def test_matmul_keeps_subnormals(matmul):
    a = (np.arange(1, 201).reshape(10, 20) * 2.0**-149).astype(np.float32)
    np.testing.assert_array_equal(matmul(a, np.eye(20, 35, dtype=np.float32))[:, :20], a)
    np.testing.assert_array_equal(matmul(np.eye(30, 10, dtype=np.float32), a)[:10], a)


def test_matmul_overflow_is_infinite(matmul):
    with np.errstate(over="ignore"):
        c = matmul(np.full((2, 3), 3e38, np.float32), np.full((3, 40), -2, np.float32))
    assert (c == -np.inf).all()
