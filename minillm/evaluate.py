"""How well a model predicts text: its mean loss, beside yardsticks that know less than it does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from minillm.autograd import no_grad
from minillm.models import Bigram
from minillm.nn import Module

Batch = tuple[np.ndarray, np.ndarray]
LARGEST_BIGRAM = 8192  # tokens in the vocabulary: the counts of all pairs take 8 V² bytes


def mean_loss(model: Module, batches: Iterable[Batch]) -> float:
    """Mean of −ln p(next token) over every token of the batches, in nats; dropout is off.

    batches: of x, y: (B, T) token ids; B and T may differ from batch to batch
    """
    total, tokens = 0.0, 0
    model.eval()
    with no_grad():
        for x, y in batches:
            _, loss = model(x, y)
            total += float(loss.data) * y.size
            tokens += y.size
    model.train()
    return total / tokens


def yardsticks(
    train_ids: np.ndarray, texts: Sequence[np.ndarray], vocab_size: int
) -> dict[str, float]:
    """The losses of models that know less: a bigram counted on train_ids, and a guess among V.

    texts: token ids, each text of N ≥ 2 tokens has N - 1 to predict
    """
    losses = {}
    if vocab_size <= LARGEST_BIGRAM:
        bigram = Bigram.fit(train_ids, vocab_size)
        total = sum(bigram.loss(text) * (len(text) - 1) for text in texts)
        losses["bigram"] = total / sum(len(text) - 1 for text in texts)
    return losses | {"uniform": math.log(vocab_size)}


def windows(batches: Iterable[Batch]) -> list[np.ndarray]:
    """The text behind each row of the batches: x with the last target after it, (T + 1,) ids."""
    return [
        np.append(x_row, y_row[-1]) for x, y in batches for x_row, y_row in zip(x, y, strict=True)
    ]


def table(losses: Mapping[str, float], tokens_per_character: float) -> str:
    """Losses in nats per token, aligned, with perplexity = e^loss and bits per character."""
    width = max(map(len, losses))
    lines = [f"{'':{width}}  {'loss':>8}  {'perplexity':>11}  {'bits per character':>18}"]
    for name, loss in losses.items():
        perplexity = math.exp(loss) if loss < 700 else math.inf
        bits = loss / math.log(2) * tokens_per_character
        lines.append(f"{name:{width}}  {loss:8.4f}  {perplexity:11.2f}  {bits:18.4f}")
    return "\n".join(lines)
