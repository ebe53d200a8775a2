"""layer_norm and its gradient against float64; rows by themselves; special values."""

import numpy as np
import pytest
from bounds import TINY, U, assert_within, gamma, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, lengths, rows_of, seeds

TAME = (
    "normal",
    "integers",
    "far",
    "subnormal",
)  # a sum of squares that neither over- nor underflows
lengths = lengths.filter(bool)


@st.composite
def inputs(draw):
    """x (…, n), weight (n,) or None, bias (n,) or None, eps."""
    shape = draw(rows_of(lengths))
    affine = st.none() | floats(shape[-1:], TAME)
    return (
        draw(floats(shape, TAME)),
        draw(affine),
        draw(affine),
        draw(st.sampled_from([1e-5, 1e-2])),
    )


def reference(x, weight, bias, eps):
    """((y, mean, rstd), their bounds).

    The sum of n terms and its division: |δ mean| ≤ shift = γ_n mean|x|. The deviations d from the
    computed mean satisfy Σd²/n = var + shift² exactly, so that rstd is off by a factor within
    ρ = (shift² rstd²) / 2 + γ_{n+6} (squares, sum, division, eps, root, reciprocal), and y by
    shift rstd for the mean, d rstd (ρ + 4 U) for the products, 2 U for the bias.
    """
    x, weight, bias = wide(x, weight, bias)
    weight, bias = (1.0 if weight is None else weight), (0.0 if bias is None else bias)
    n = x.shape[-1]
    mean = x.mean(-1, keepdims=True)
    d = x - mean
    rstd = 1 / np.sqrt((d * d).mean(-1, keepdims=True) + np.float32(eps))
    shift = gamma(n) * np.abs(x).mean(-1, keepdims=True) + TINY
    rho = (shift * rstd) ** 2 / 2 + gamma(n + 6)
    y = d * rstd * weight + bias
    bound_y = np.abs(weight) * rstd * (shift * (1 + rho) + np.abs(d) * (rho + 5 * U))
    bound_y += 2 * U * (np.abs(y) + np.abs(bias)) + TINY
    bounds = bound_y, (shift + U * np.abs(mean))[..., 0], (rstd * (rho + U))[..., 0]
    return (y, mean[..., 0], rstd[..., 0]), bounds


@given(inputs())
def test_layer_norm_matches_float64(layer_norm, given_inputs):
    got = layer_norm(*given_inputs)
    for result, want, bound in zip(got, *reference(*given_inputs), strict=True):
        assert_within(result, want, bound)


def test_layer_norm_of_equal_numbers_is_the_bias(layer_norm):
    for n in (1, 4, 17, 128):
        x, bias = np.full((3, n), 7.5, np.float32), np.arange(n, dtype=np.float32)
        y, mean, _ = layer_norm(x, None, bias)
        np.testing.assert_array_equal(y, np.tile(bias, (3, 1)))
        assert (mean == 7.5).all()


@given(seeds, lengths)
def test_layer_norm_row_does_not_depend_on_its_neighbours(layer_norm, seed, n):
    rng = np.random.default_rng(seed)
    x, (weight, bias) = (
        rng.standard_normal((7, n), np.float32),
        rng.standard_normal((2, n), np.float32),
    )
    alone = layer_norm(x[4:5], weight, bias)
    assert all(map(same_bits, (r[4:5] for r in layer_norm(x, weight, bias)), alone))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_layer_norm_special_value_spoils_its_row_only(layer_norm, bad):
    x = np.random.default_rng(0).standard_normal((3, 19), np.float32)
    clean, _, _ = layer_norm(x, None, None)
    x[1, 18] = bad
    with np.errstate(invalid="ignore"):
        y, _, _ = layer_norm(x, None, None)
    assert np.isnan(y[1]).all()
    assert same_bits(y[::2], clean[::2])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_layer_norm_of_no_rows_is_empty(layer_norm, layer_norm_vjp, shape):
    x = np.ones(shape, np.float32)
    y, mean, rstd = layer_norm(x, None, None)
    assert (y.shape, mean.shape, rstd.shape) == (shape, shape[:-1], shape[:-1])
    dx, dweight, dbias = layer_norm_vjp(x, x, None, mean, rstd)
    assert dx.shape == shape
    np.testing.assert_array_equal([dweight, dbias], np.zeros((2, 5)))


def test_layer_norm_of_empty_rows_reads_nothing(layer_norm):
    """The mean of nothing is NaN, as in PyTorch, and not whatever the memory held."""
    np.full(3, 7, np.float32)  # so that fresh memory is not NaN by luck
    with np.errstate(invalid="ignore"):
        if layer_norm.implementation == "numpy":
            with pytest.warns(RuntimeWarning):
                y, mean, rstd = layer_norm(np.empty((3, 0), np.float32), None, None)
        else:
            y, mean, rstd = layer_norm(np.empty((3, 0), np.float32), None, None)
    assert y.shape == (3, 0)
    assert np.isnan(mean).all()
    assert np.isnan(rstd).all()


@st.composite
def gradients(draw):
    """dy, x, weight or None, and the mean and rstd that layer_norm gives in float64."""
    shape = draw(rows_of(lengths))
    dy, x = draw(floats(shape)), draw(floats(shape, TAME))
    weight = draw(st.none() | floats(shape[-1:], TAME))
    (_, mean, rstd), _ = reference(x, None, None, 1e-5)
    return dy, x, weight, mean.astype(np.float32), rstd.astype(np.float32)


@given(gradients())
def test_layer_norm_vjp_matches_float64(layer_norm_vjp, arguments):
    """With g = dy weight and x̂: two roundings for x̂, one for g; a mean of n terms, γ_{n+4} of the

    sizes of its terms; three more roundings for dx. dweight and dbias sum over the rows.
    """
    got = layer_norm_vjp(*arguments)
    dy, x, weight, mean, rstd = wide(*arguments)
    weight, n, rstd = (1.0 if weight is None else weight), x.shape[-1], rstd[..., None]
    axes, rows = tuple(range(x.ndim - 1)), x[..., 0].size
    xhat = (x - mean[..., None]) * rstd
    g = dy * weight
    dot, size = ((f(g * xhat)).mean(-1, keepdims=True) for f in (np.asarray, np.abs))
    dx = rstd * (g - g.mean(-1, keepdims=True) - xhat * dot)
    parts = np.abs(g) + np.abs(g).mean(-1, keepdims=True) + np.abs(xhat) * size
    scale = (1 + np.abs(part).max(initial=0) for part in (dy, weight, rstd, xhat))
    tiny = TINY * (n + rows + 2) * np.prod(list(scale))  # what each underflow is multiplied with
    assert_within(got[0], dx, gamma(n + 9) * rstd * parts + tiny)
    assert_within(
        got[1], (dy * xhat).sum(axes), gamma(rows + 4) * np.abs(dy * xhat).sum(axes) + tiny
    )
    assert_within(got[2], dy.sum(axes), gamma(rows) * np.abs(dy).sum(axes))


@given(gradients().flatmap(lambda a: st.tuples(st.just(a), floats(a[0].shape))))
def test_layer_norm_vjp_adds_in_the_same_pass(layer_norm_vjp, given_inputs):
    """One rounding of the sum, and one of dx, which a multiply-add may leave out."""
    arguments, add = given_inputs
    before = add.copy()
    dx, *gains = layer_norm_vjp(*arguments)
    got, *others = layer_norm_vjp(*arguments, add)
    assert_within(got, sum(wide(dx, add)), 2 * U * sum(map(np.abs, wide(dx, add))) + 2 * TINY)
    assert same_bits(add, before)
    assert all(map(same_bits, gains, others))
    with pytest.raises(ValueError, match="layer_norm_vjp: add must be"):
        layer_norm_vjp(*arguments, add[None])


@pytest.mark.parametrize("rows", [63, 64, 65, 129])
def test_layer_norm_vjp_sums_all_chunks_of_rows(layer_norm_vjp, rows):
    """Small integers sum exactly in any order."""
    rng = np.random.default_rng(rows)
    dy, x = rng.integers(-3, 4, (2, rows, 5)).astype(np.float32)
    _, dweight, dbias = layer_norm_vjp(dy, x, None, np.zeros(rows, "f4"), np.ones(rows, "f4"))
    np.testing.assert_array_equal(dweight, (dy * x).sum(0))
    np.testing.assert_array_equal(dbias, dy.sum(0))
