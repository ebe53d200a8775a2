"""GPT: a decoder-only transformer with pre-norm blocks and a tied embedding.

Source: Radford et al. 2019 (GPT-2); the parameter names are those of its published weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

from minillm import functional as F
from minillm import kernels, nn
from minillm.autograd import Tensor, no_grad
from minillm.models.sampling import choose


@dataclass(frozen=True)
class GPTConfig:
    """The shape of the model; the defaults are char-small with tinyshakespeare's 65 characters."""

    vocab_size: int = 65
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = False


class Block(nn.Module):
    """x + attention(norm(x)), then + feed-forward(norm(x)).   x: (B, T, C) → (B, T, C)."""

    def __init__(self, config: GPTConfig, rng: np.random.Generator):
        C, dropout, bias = config.n_embd, config.dropout, config.bias
        proj_std = nn.layers.INIT_STD / sqrt(2 * config.n_layer)  # 2 n_layer terms add up to var 1
        self.ln_1 = nn.LayerNorm(C, bias=bias)
        self.attn = nn.MultiHeadAttention(C, config.n_head, dropout, bias, True, rng, proj_std)
        self.ln_2 = nn.LayerNorm(C, bias=bias)
        self.mlp = nn.FeedForward(C, dropout, bias, rng, proj_std)

    def forward(self, x: Tensor, cache: nn.KeyValueCache | None = None) -> Tensor:
        x = self.attn(self.ln_1(x), cache, residual=x)
        return self.mlp(self.ln_2(x), residual=x)


def _arrays(layer: nn.Linear | nn.LayerNorm) -> tuple[np.ndarray, np.ndarray | None]:
    return layer.weight.data, None if layer.bias is None else layer.bias.data


class GPT(nn.Module):
    """Token and position embeddings, n_layer blocks, a norm, and the logits by the same embedding.

    rng draws the weights and then the dropout masks; np.random.default_rng(0) unless given.
    """

    def __init__(self, config: GPTConfig, rng: np.random.Generator | None = None):
        self.config = config
        self.rng = rng = np.random.default_rng(0) if rng is None else rng
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, rng)
        self.wpe = nn.Embedding(config.block_size, config.n_embd, rng)
        self.drop = nn.Dropout(config.dropout, rng)
        self.h = nn.ModuleList(Block(config, rng) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)

    def forward(
        self,
        ids: np.ndarray,
        targets: np.ndarray | None = None,
        caches: list[nn.KeyValueCache] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """ids, targets: (B, T) → logits (B, T, V), and with targets the mean loss in nats a token.

        caches (one a block): ids continue the tokens that these hold.
        Raises: ValueError if there are more tokens than block_size.
        """
        start = caches[0].length if caches else 0
        T = ids.shape[-1]
        if start + T > self.config.block_size:
            raise ValueError(
                f"GPT: {start + T} tokens do not fit block_size {self.config.block_size}"
            )
        x = self.drop(self.wte(ids) + self.wpe(np.arange(start, start + T)))  # (B, T, C)
        for i, block in enumerate(self.h):
            x = block(x, caches[i] if caches else None)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # (B, T, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), np.reshape(targets, -1))
        return logits, loss

    def decoder(self) -> kernels.Decoder:
        """The weights as they are now, as `decode` wants them."""
        blocks = []
        for b in self.h:
            layers = (b.ln_1, b.attn.c_attn, b.attn.c_proj, b.ln_2, b.mlp.c_fc, b.mlp.c_proj)
            blocks.append(tuple(array for layer in layers for array in _arrays(layer)))
        last = (*_arrays(self.ln_f), self.wte.weight.data)
        return kernels.Decoder(blocks, last, self.config.n_head)

    def stream(
        self,
        prompt_ids: np.ndarray,
        n_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> Iterator[int]:
        """Yield n_tokens new ids one by one, each sampled given the block_size ids before it.

        Within the context each token costs one position, thanks to the cached keys and values. Past
        it the window slides: every position changes, so each token costs a whole forward.
        Raises: ValueError for an empty prompt or parameters out of range (see sampling.choose).
        """
        ids = [int(i) for i in np.ravel(prompt_ids)]
        if not ids:
            raise ValueError("generate: the prompt must have at least one token")
        rng = np.random.default_rng(0) if rng is None else rng
        size = self.config.block_size
        decoder, caches, training = self.decoder(), [], self.training
        wte, wpe = self.wte.weight.data, self.wpe.weight.data
        if len(ids) == 1:  # no token before it, so it costs one position as well
            shape = 2, 1, self.config.n_head, size, wte.shape[1] // self.config.n_head
            caches = [tuple(np.empty(shape, wte.dtype)) for _ in self.h]
        self.eval()
        try:
            for _ in range(n_tokens):
                if caches and len(ids) <= size:
                    x = wte[ids[-1]] + wpe[len(ids) - 1]  # (C,)
                    logits = kernels.decode(x[None], decoder, caches, len(ids) - 1)
                else:
                    logits, caches = self._prefill(np.array([ids[-size:]]))
                ids.append(choose(logits[0], temperature, top_k, top_p, rng))
                yield ids[-1]
        finally:
            self.train(training)

    def _prefill(self, ids: np.ndarray) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """ids: (B, T) → the logits of the last token (B, V), the keys and values of each block."""
        caches = [nn.KeyValueCache(self.config.block_size) for _ in self.h]
        with no_grad():
            logits, _ = self(ids, caches=caches)
        return logits.data[:, -1], [(cache.keys, cache.values) for cache in caches]

    def generate(
        self,
        prompt_ids: np.ndarray,
        n_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """The prompt and n_tokens more, (T + n_tokens,) int64; with a (1, T) prompt, (1, …)."""
        stream = self.stream(prompt_ids, n_tokens, temperature, top_k, top_p, rng)
        new = np.fromiter(stream, np.int64)
        prompt = np.asarray(prompt_ids, np.int64)
        return np.concatenate([prompt, new.reshape((1,) * (prompt.ndim - 1) + (-1,))], axis=-1)
