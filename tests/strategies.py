"""Hypothesis strategies for arrays: sizes at the edges of the kernels' blocks, layouts, values.

An array is drawn as a seed, a kind of values and a layout, which stays quick at any size; a failure
prints all three.
"""

import numpy as np
from hypothesis import strategies as st


def _around(*sizes: int) -> list[int]:
    return sorted({max(n + d, 0) for n in sizes for d in (-1, 0, 1)})


LANES, MR, NR = (4, 8, 16), (6, 14), (8, 16, 32)  # of the targets; csrc/targets
TILES, BLOCKS = (64, 128), (384,)  # TILE_K, TILE_N and QUERIES; KC and MC
EDGES = _around(1, *LANES, *MR, *NR)
small = st.sampled_from(EDGES)
large = st.sampled_from(_around(*TILES, *BLOCKS))
lengths = small | large  # of a row
seeds = st.integers(0, 2**32 - 1)


def rows_of(n: st.SearchStrategy[int] = lengths) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of one to three axes, the last of length n."""
    lead = st.lists(st.sampled_from((0, 1, 2, 3, 5)), max_size=2)
    return st.builds(lambda lead, n: (*lead, n), lead, n)


# ---- values: (rng, shape) → float64, rounded to float32 afterwards -------------------------------

VALUES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "integers": lambda rng, shape: rng.integers(-3, 4, shape),
    "far": lambda rng, shape: 1000 + rng.standard_normal(shape),
    "mixed": lambda rng, shape: rng.standard_normal(shape) * 10 ** rng.uniform(-6, 6, shape),
    "subnormal": lambda rng, shape: rng.integers(-99, 99, shape) * 2.0**-149,
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 2.0**-126,
}
SPECIALS = np.array(
    [np.nan, np.inf, -np.inf, 0, -0.0, 2**-149, -(2.0**-126), 3.4028235e38, -3.4028235e38, 1],
    np.float32,
)


def special(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Ordinary numbers with about every third one of SPECIALS."""
    x = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIALS, shape), x)


# ---- layouts: the same numbers in other memory (a broadcast repeats the first of them) -----------


def _padded(a: np.ndarray) -> np.ndarray:
    """Rows apart from each other, NaN between them."""
    around = np.full((*a.shape[:-1], a.shape[-1] + 3), np.nan, a.dtype)
    around[..., : a.shape[-1]] = a
    return around[..., : a.shape[-1]]


def _offset(a: np.ndarray) -> np.ndarray:
    around = np.full(a.size + 6, np.nan, a.dtype)
    view = around[3 : 3 + a.size].reshape(a.shape)
    view[...] = a
    return view


def _stepped(a: np.ndarray) -> np.ndarray:
    around = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = around[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    view[...] = a
    return view


def _reversed(a: np.ndarray) -> np.ndarray:
    return np.flip(np.flip(a).copy())


def _misaligned(a: np.ndarray) -> np.ndarray:
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _columns(a: np.ndarray) -> np.ndarray:
    """The last two axes exchanged in memory."""
    return a.swapaxes(-1, -2).copy().swapaxes(-1, -2) if a.ndim > 1 else a


LAYOUTS = {
    "C": lambda a: a,
    "fortran": np.asfortranarray,
    "columns": _columns,
    "padded": _padded,
    "offset": _offset,
    "stepped": _stepped,
    "reversed": _reversed,
    "misaligned": _misaligned,
    "read-only": _read_only,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "one row": lambda a: np.broadcast_to(a[..., :1, :], a.shape) if a.ndim > 1 and a.size else a,
    "one column": lambda a: np.broadcast_to(a[..., :1], a.shape) if a.size else a,
}


def floats(
    shape: tuple[int, ...], kinds: tuple[str, ...] = tuple(VALUES), layouts=tuple(LAYOUTS)
) -> st.SearchStrategy[np.ndarray]:
    """float32 arrays of one shape: any kind of values in any layout."""

    def build(seed, kind, layout):
        values = VALUES[kind](np.random.default_rng(seed), shape)
        return LAYOUTS[layout](values.astype(np.float32))

    return st.builds(build, seeds, st.sampled_from(kinds), st.sampled_from(layouts))


def same_shape(count: int, n=lengths, **how) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """`count` arrays of one shape (…, n)."""
    return rows_of(n).flatmap(lambda shape: st.tuples(*[floats(shape, **how)] * count))
