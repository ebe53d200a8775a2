"""The loops behind the roofs do the work that they claim, on every target and number of threads."""

import numpy as np
import pytest
from bounds import gamma
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from minillm import kernels
from minillm.errors import KernelError
from minillm.kernels import _cffi, roof

threads = st.sampled_from([1, 2, 3, 8])
lengths = st.integers(0, 70) | st.sampled_from([255, 256, 257, 1023, 4096, 10001])
passes = st.integers(1, 5)


def rows(rng: np.random.Generator, threads: int, n: int) -> np.ndarray:
    """(threads, n), the rows apart and not at the beginning of a cache line."""
    return rng.standard_normal((threads, n + 9)).astype(np.float32)[:, 3 : 3 + n]


@pytest.mark.usefixtures("target")
@given(st.integers(0, 1000), threads)
def test_multiply_add_does_the_flop_that_it_claims(rounds, threads):
    """With x = c = 1 each multiply-add raises the sum by one, and it is exact below 2^24."""
    _, before = roof.multiply_add(0, threads, x=1.0, c=1.0)
    flop, after = roof.multiply_add(rounds, threads, x=1.0, c=1.0)
    assert flop == 2 * int((after - before).sum())
    assert (flop > 0) == (rounds > 0)


@pytest.mark.usefixtures("target")
def test_multiply_add_converges_to_a_plain_number():
    """Every a tends to c / (1 - x): nothing overflows or gets subnormal, however long it runs."""
    flop, sums = roof.multiply_add(10_000, 2)
    one_round, _ = roof.multiply_add(1, 1)
    assert sums.tolist() == [2.0 * one_round / 2] * 2
    assert flop == 2 * 10_000 * one_round


@pytest.mark.usefixtures("target")
@given(seeds, threads, lengths, passes)
def test_read_sums_every_element_in_every_pass(seed, threads, n, passes):
    x = rows(np.random.default_rng(seed), threads, n)
    wide = x.astype(np.float64)
    error = np.abs(roof.read(x, passes) - passes * wide.sum(axis=1))
    assert (error <= gamma(passes * n + 16) * passes * np.abs(wide).sum(axis=1)).all()


@pytest.mark.usefixtures("target")
@given(seeds, threads, lengths, passes)
def test_copy_copies_its_rows_and_nothing_else(seed, threads, n, passes):
    x, whole = rows(np.random.default_rng(seed), threads, n), np.zeros((threads, n + 7), np.float32)
    want = whole.copy()
    want[:, 5 : 5 + n] = x
    roof.copy(x, whole[:, 5 : 5 + n], passes)
    np.testing.assert_array_equal(whole, want)


@pytest.mark.skipif(not kernels.info()["compiled"], reason="needs the compiled kernels")
def test_arguments_that_would_go_astray_are_refused():
    x, frozen = np.ones((2, 8), np.float32), np.ones((2, 8), np.float32)
    frozen.flags.writeable = False
    for y in (np.ones((2, 9), np.float32), frozen):
        with pytest.raises(ValueError, match=r"copy: expected a writeable y of shape \(2, 8\)"):
            roof.copy(x, y)
    with pytest.raises(ValueError, match="adjacent"):
        roof.read(x[:, ::2])
    with pytest.raises(TypeError, match="float32"):
        roof.read(x.astype(np.float64))
    with pytest.raises(ValueError, match="1 thread or more, got 0"):
        roof.multiply_add(1, 0)


@pytest.mark.skipif(not kernels.info()["compiled"], reason="needs the compiled kernels")
def test_forked_process_is_refused_instead_of_hanging(monkeypatch):
    monkeypatch.setattr(roof, "forked", lambda: True)
    assert roof.multiply_add(1, 1)[0] > 0
    with pytest.raises(KernelError, match="forked"):
        roof.multiply_add(1, 2)


def test_without_compiled_kernels_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(_cffi, "lib", None)
    with pytest.raises(KernelError, match="install a C compiler"):
        roof.multiply_add(1)
