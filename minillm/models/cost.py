"""What a GPT costs, counted by hand from its shapes: the yardstick for what the profiler adds up.

With L = n_layer, H = n_head, C = n_embd, D = C / H, V = vocab_size, for B sequences of T tokens:

    linear layers   each multiplies every token's row by its matrix, and a product with an (N, K)
                    matrix is 2 N K FLOP a row. The matrices of a block are (3C, C), (C, C),
                    (4C, C) and (C, 4C), together 12 C²; the logits' is (V, C). Backward makes two
                    products of the same size, for the input and for the matrix.
    attention       causal: query t sees keys 0 … t, so that P = T (T + 1) / 2 scores a head are
                    computed. Each takes 2 D for q·k and 2 D for its part of p v; with H heads,
                    4 C P a sequence and a layer. Backward makes four products of this kind, for
                    dv, dp, dq and dk, and a fifth to compute the scores again, which are not kept.

Source: Kaplan et al. 2020, arXiv:2001.08361, table 1; Chowdhery et al. 2022, arXiv:2204.02311,
appendix B (MFU: the products of forward, and twice as many of backward, without the fifth).
"""

from __future__ import annotations

from minillm.models.gpt import GPTConfig

EXP = 20  # FLOP of an exponential: reduction, a polynomial of degree 6 or so, and the scaling


def parameters(config: GPTConfig) -> int:
    """Numbers that training changes; the embedding of tokens is also the matrix of the logits."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    gains = (2 * L + 1) * C
    biases = L * (3 * C + C + 4 * C + C) + gains if config.bias else 0
    return 12 * L * C * C + V * C + config.block_size * C + gains + biases


def linear_flops(config: GPTConfig, rows: int) -> int:
    """FLOP of the linear layers and the logits in a forward pass over `rows` tokens."""
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return 2 * rows * (12 * L * C * C + V * C)


def scores(config: GPTConfig, B: int, T: int, past: int = 0) -> int:
    """How many query-key pairs causal attention computes for T tokens that follow `past` others."""
    return B * config.n_layer * config.n_head * (T * (T + 1) // 2 + T * past)


def forward_flops(config: GPTConfig, B: int, T: int, past: int = 0) -> int:
    """FLOP of the products of a forward pass."""
    head_dim = config.n_embd // config.n_head
    return linear_flops(config, B * T) + 4 * head_dim * scores(config, B, T, past)


def training_flops(config: GPTConfig, B: int, T: int) -> int:
    """FLOP of the products of a training step: those of the model, nothing computed again."""
    return 3 * forward_flops(config, B, T)


def computed_flops(config: GPTConfig, B: int, T: int) -> dict[str, int]:
    """All floating-point arithmetic of a training step, by subject; its sum is what a CPU does.

    Besides the products: softmax takes one exponential and 5 more a score, forward and again in
    backward; GELU with its slope two exponentials and 5; layer norm 8 forward and 14 backward;
    the loss an exponential and 2 or 3 a logit; AdamW 14 a parameter and clipping 2.
    """
    rows, C, H = B * T, config.n_embd, config.n_head
    pairs, hidden = scores(config, B, T), 4 * rows * C * config.n_layer
    normalised = (2 * config.n_layer + 1) * rows * C
    return {
        "linear": 3 * linear_flops(config, rows),
        "attention": pairs * ((4 + 10) * C // H + 2 * (EXP + 5)),
        "gelu": hidden * (2 * EXP + 5 + 1),
        "layer_norm": normalised * (8 + 14),
        "cross_entropy": rows * config.vocab_size * (EXP + 2 + EXP + 3),
        "embedding": rows * C,
        "optimizer": parameters(config) * (14 + 2),
    }
