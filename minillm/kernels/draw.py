"""The next token, drawn from the logits.   C side: csrc/draw.c"""

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel


def specification(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, u: float
) -> int:
    """The first token at which the cumulated e^((logits - max) / temperature) exceed u of all.

    logits: (V,); u: in [0, 1). Only the top_k likeliest count, and of these the fewest whose
    probabilities reach top_p.
    """
    p = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    if top_k < p.size:
        p[logits < np.partition(logits, -top_k)[-top_k]] = 0
    if top_p < 1:
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]  # the mass of the likelier ones
        p[order[before >= top_p]] = 0
    cumulative = np.cumsum(p)
    return int(cumulative.searchsorted(u * cumulative[-1], side="right"))


def _compiled(logits, temperature, top_k, top_p, u):
    if top_p < 1:  # it must sort them, and NumPy does that well
        return specification(logits, temperature, top_k, top_p, u)
    return _cffi.lib.ml_draw(logits.size, _cffi.source(logits), temperature, top_k, u)


draw = Kernel(
    "draw",
    specification,
    {"simd": _compiled},
    flops=lambda logits, *rest: 25 * logits.size,  # e^x counts as 20, as in softmax
    bytes=lambda logits, *rest: logits.nbytes,
)
