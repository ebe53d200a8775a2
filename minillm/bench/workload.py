"""The model and the batch that `bench ops`, `train`, `decode` and `profile` work with."""

from __future__ import annotations

import dataclasses

import numpy as np

from minillm import config as settings
from minillm.models import GPTConfig, cost

CHARACTERS = 65  # of tinyshakespeare, whose vocabulary the character models have
LONGEST = {"gpt2-124m": 64}  # tokens in a sequence where that is not the context: as llm.c does it


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and its batch: B sequences of T tokens."""

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
    dropout: float = 0.0

    @property
    def rows(self) -> int:
        return self.B * self.T

    def model(self) -> GPTConfig:
        return GPTConfig(
            self.vocab_size, self.block_size, self.n_layer, self.n_head, self.C, self.dropout,
            self.bias,
        )  # fmt: skip

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """x, y: (B, T) random ids; speed does not depend on what they say."""
        return tuple(np.random.default_rng(0).integers(0, self.vocab_size, (2, self.B, self.T)))

    def flops(self) -> int:
        """FLOP of the products in a training step, attention counted whole, backward twice."""
        attention = 4 * self.n_layer * self.rows * self.T * self.C
        return 3 * (cost.linear_flops(self.model(), self.rows) + attention)


SMALL = Workload("small", vocab_size=11, block_size=8, n_layer=1, n_head=2, C=8, B=2, T=8)


def of_preset(name: str) -> Workload:
    """The preset, without dropout.   Raises: UserError if there is no such preset."""
    c = settings.resolve(name)
    return dataclasses.replace(of_settings(c), T=LONGEST.get(name, c.block_size), dropout=0.0)


def of_settings(c: settings.TrainConfig) -> Workload:
    """The model and the batch of a training run with these settings."""
    return Workload(
        c.preset, CHARACTERS if c.tokenizer == "char" else c.vocab_size, c.block_size, c.n_layer,
        c.n_head, c.n_embd, c.bias, c.batch_size, c.block_size, c.learning_rate, c.beta2, c.dropout,
    )  # fmt: skip
