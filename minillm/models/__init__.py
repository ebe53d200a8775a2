"""The model families."""

from minillm.models.bigram import Bigram
from minillm.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "Bigram", "GPTConfig"]
