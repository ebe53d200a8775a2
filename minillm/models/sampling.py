"""How the next token is drawn from the logits.

Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (top-p).
"""

import numpy as np

from minillm.autograd import observed


@observed("sample")
def choose(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | None = None,
) -> int:
    """Draw from softmax(logits / temperature), cut to the top_k likeliest and to top_p of the mass.

    logits: (V,). temperature 0 takes the likeliest. top_p keeps the fewest likeliest tokens whose
    probabilities reach it. Raises: ValueError for parameters out of range, TypeError without rng.
    """
    if not temperature >= 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"sample: temperature {temperature} or top_k {top_k} is out of range")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"sample: top_p must be in (0, 1], got {top_p}")
    likeliest = logits.argmax()
    if temperature == 0:
        return int(likeliest)
    if rng is None:
        raise TypeError("sample: temperature > 0 needs rng=numpy.random.default_rng(seed)")
    # Below 1e-200 all but the likeliest have e^-huge = 0 anyway, and nothing overflows.
    p = np.exp((logits.astype(np.float64) - logits.item(likeliest)) / max(temperature, 1e-200))
    if top_k is not None and top_k < p.size:
        ordered = logits.copy()
        ordered.partition(-top_k)
        p[logits < ordered[-top_k]] = 0
    if top_p is not None and top_p < 1:
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]  # the mass of the likelier ones
        p[order[before >= top_p]] = 0
    cumulative = np.add.accumulate(p)  # as cumsum, which is slower for a few dozen
    return int(cumulative.searchsorted(rng.random() * cumulative[-1], side="right"))
