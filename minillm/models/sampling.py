"""How the next token is drawn from the logits.

Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (top-p).
"""

import numpy as np

from minillm import kernels
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
    if temperature == 0:
        return int(logits.argmax())
    if rng is None:
        raise TypeError("sample: temperature > 0 needs rng=numpy.random.default_rng(seed)")
    # Below 1e-200 all but the likeliest have e^-huge = 0 anyway, and nothing overflows.
    temperature, all_of_them = max(temperature, 1e-200), logits.size
    return kernels.draw(logits, temperature, top_k or all_of_them, top_p or 1.0, rng.random())
