"""Layers, with PyTorch's names: a Module holds Parameters and other Modules."""

from minillm.nn.layers import (
    Dropout,
    Embedding,
    FeedForward,
    KeyValueCache,
    LayerNorm,
    Linear,
    MultiHeadAttention,
)
from minillm.nn.module import Module, ModuleList, Parameter, Sequential

__all__ = [
    "Dropout", "Embedding", "FeedForward", "KeyValueCache", "LayerNorm", "Linear", "Module",
    "ModuleList", "MultiHeadAttention", "Parameter", "Sequential",
]  # fmt: skip
