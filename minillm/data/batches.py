"""Token ids → batches of windows (x, y), where y is x one token later."""

from collections.abc import Iterator

import numpy as np

from minillm.errors import UserError

Batch = tuple[np.ndarray, np.ndarray]


def train_val_split(ids: np.ndarray, fraction: float = 0.9) -> Batch:
    """The first int(fraction · N) tokens to train on, the rest to validate on.  ids: (N,), views.

    Raises: ValueError where fraction is outside [0, 1].
    Source: nanoGPT, data/shakespeare_char/prepare.py.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"train_val_split: fraction must be in [0, 1], got {fraction}")
    n_train = int(fraction * len(ids))
    return ids[:n_train], ids[n_train:]


def sample_batch(
    ids: np.ndarray, batch_size: int, block_size: int, rng: np.random.Generator
) -> Batch:
    """B windows at offsets drawn uniformly from [0, N − T).  ids: (N,) → x, y: (B, T) int64.

    Raises: UserError where N <= T, so that not one window and its next token fit.
    Source: nanoGPT, train.py, get_batch.
    """
    if len(ids) <= block_size:
        raise UserError(
            f"a context of {block_size} tokens needs a text of at least {block_size + 1}, got "
            f"{len(ids)}: use a smaller --block-size or more text"
        )
    offsets = rng.integers(len(ids) - block_size, size=batch_size)
    return _windows(ids, offsets, block_size)


def fixed_batches(
    ids: np.ndarray, batch_size: int, block_size: int, n: int, seed: int
) -> list[Batch]:
    """n sampled batches, the same for the same seed: losses measured on them can be compared."""
    rng = np.random.default_rng(seed)
    return [sample_batch(ids, batch_size, block_size, rng) for _ in range(n)]


def sequential_windows(ids: np.ndarray, block_size: int, batch_size: int) -> Iterator[Batch]:
    """Every token but the first as a target once, in order.  ids: (N,) → x, y: (≤ B, T) int64.

    The windows do not overlap. Where T does not divide N − 1, the rest comes last as (1, < T).

    Raises: UserError where N < 2, so that there is nothing to predict.
    """
    if len(ids) < 2:
        raise UserError(f"evaluation needs at least 2 tokens of text, got {len(ids)}")
    n_targets = len(ids) - 1
    starts = np.arange(0, n_targets - block_size + 1, block_size)
    for i in range(0, len(starts), batch_size):
        yield _windows(ids, starts[i : i + batch_size], block_size)
    rest = n_targets % block_size
    if rest:
        yield _windows(ids, np.array([n_targets - rest]), rest)


def _windows(ids: np.ndarray, offsets: np.ndarray, block_size: int) -> Batch:
    positions = offsets[:, None] + np.arange(block_size)  # (B, T)
    x, y = ids[positions], ids[positions + 1]
    return x.astype(np.int64, copy=False), y.astype(np.int64, copy=False)
