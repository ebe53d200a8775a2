"""The gradient of a table look-up: rows that were read several times gather several gradients.

C side: csrc/embedding.c
"""

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, check_indices, rungs


def vjp_specification(
    dy: np.ndarray, ids: np.ndarray, rows: int, into: np.ndarray | None = None
) -> np.ndarray:
    """dweight[ids[i], :] += dy[i, :].   dy: (…, N), ids: (…) → dweight (rows, N).

    into: the dweight to add to; zeros unless given.
    """
    _check(dy, ids, rows, into)
    new = into is None
    dweight = np.zeros((rows, dy.shape[-1]), dy.dtype.newbyteorder("=")) if new else into
    np.add.at(dweight, ids.reshape(-1), dy.reshape(ids.size, dy.shape[-1]))
    return dweight


def _check(dy, ids, rows, into) -> None:
    if dy.shape[:-1] != ids.shape:
        raise ValueError(f"embedding_vjp: dy {dy.shape} does not fit ids {ids.shape}")
    if into is not None and into.shape != (rows, dy.shape[-1]):
        raise ValueError(f"embedding_vjp: into must be {(rows, dy.shape[-1])}, got {into.shape}")
    check_indices("embedding_vjp", ids, rows)


def _compiled_vjp(threads, dy, ids, rows, into=None):
    if into is not None and not _cffi.is_target(into):
        return vjp_specification(dy, ids, rows, into)
    _check(dy, ids, rows, into)
    n = dy.shape[-1]
    dweight = np.zeros((rows, n), np.float32) if into is None else into
    _cffi.lib.ml_embedding_vjp(
        ids.size, n, _cffi.ids(ids), _cffi.source(dy), _cffi.target(dweight), threads()
    )
    return dweight


embedding_vjp = Kernel(
    "embedding_vjp",
    vjp_specification,
    rungs(_compiled_vjp),
    flops=lambda dy, *rest: dy.size,
    bytes=lambda dy, ids, rows, into=None: (
        3 * dy.nbytes + (dy.itemsize * rows * dy.shape[-1] if into is None else 0)
    ),
)
