"""The model and the batch that `bench ops`, `train` and `decode` work with."""

from __future__ import annotations

import dataclasses

import numpy as np

from minillm import config as settings
from minillm.models import GPTConfig

CHARACTERS = 65  # of tinyshakespeare, whose vocabulary the character models have
LONGEST = {"gpt2-124m": 64}  # tokens in a sequence where that is not the context: as llm.c does it


@dataclasses.dataclass(frozen=True)
class Workload:
    """A preset's model without dropout and its batch: B sequences of T tokens."""

    preset: str = "char-small"
    vocab_size: int = CHARACTERS
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    C: int = 128
    bias: bool = False
    B: int = 12
    T: int = 64
    learning_rate: float = 1e-3
    beta2: float = 0.99

    @property
    def rows(self) -> int:
        return self.B * self.T

    def model(self) -> GPTConfig:
        return GPTConfig(
            self.vocab_size, self.block_size, self.n_layer, self.n_head, self.C, 0.0, self.bias
        )

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """x, y: (B, T) random ids; speed does not depend on what they say."""
        return tuple(np.random.default_rng(0).integers(0, self.vocab_size, (2, self.B, self.T)))

    def flops(self) -> int:
        """FLOP of the products in a training step, attention counted whole, backward twice."""
        C, layers = self.C, self.n_layer
        weights = 12 * layers * C * C + self.vocab_size * C
        return 3 * self.rows * (2 * weights + 4 * layers * self.T * C)


SMALL = Workload("small", vocab_size=11, block_size=8, n_layer=1, n_head=2, C=8, B=2, T=8)


def of_preset(name: str) -> Workload:
    """Raises: UserError if there is no such preset."""
    c = settings.resolve(name)
    vocab = CHARACTERS if c.tokenizer == "char" else c.vocab_size
    T = LONGEST.get(name, c.block_size)
    return Workload(
        name, vocab, c.block_size, c.n_layer, c.n_head, c.n_embd, c.bias, c.batch_size, T,
        c.learning_rate, c.beta2,
    )  # fmt: skip
