"""Bigram: the next token depends on the last one only. Counting is its whole training.

Source: Jurafsky and Martin, Speech and Language Processing, chapter 3 (add-k smoothing).
"""

import numpy as np


class Bigram:
    """P(b | a) = (count(a, b) + k) / (count(a) + k V).

    log_probs: (V, V) float64, natural logarithms, row a.
    """

    def __init__(self, counts: np.ndarray, k: float = 1.0):
        """counts: (V, V), how often b follows a; k > 0. Raises: ValueError for k <= 0."""
        if not k > 0:
            raise ValueError(f"Bigram: k must be positive, got {k}")
        smoothed = counts + float(k)
        self.log_probs = np.log(smoothed) - np.log(smoothed.sum(1, keepdims=True))

    @classmethod
    def fit(cls, ids: np.ndarray, vocab_size: int, k: float = 1.0) -> "Bigram":
        """Count the pairs in ids: (N,) integers below vocab_size."""
        pairs = np.asarray(ids[:-1], np.int64) * vocab_size + ids[1:]
        counts = np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
        return cls(counts, k)

    def loss(self, ids: np.ndarray) -> float:
        """-log P of each token given the one before, on average: nats a token."""
        return float(-self.log_probs[ids[:-1], ids[1:]].mean())

    def generate(
        self, prompt_ids: np.ndarray, n_tokens: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The prompt and n_tokens more, (T + n_tokens,) int64."""
        ids = list(np.ravel(prompt_ids))
        cumulative = np.exp(self.log_probs).cumsum(1)
        for _ in range(n_tokens):
            row = cumulative[ids[-1]]
            ids.append(np.searchsorted(row, rng.random() * row[-1], side="right"))
        return np.array(ids, np.int64)
