"""Text from a trained model, character by character as it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from minillm import checkpoint, data
from minillm.errors import UserError
from minillm.models import GPT
from minillm.run import build_model


def load(run: str | Path) -> tuple[GPT, data.Tokenizer]:
    """The model of a run, ready to generate, and its tokenizer.

    Raises: UserError if `run` is no run directory or one of its files is missing or damaged.
    """
    config = checkpoint.load_config(run)
    tokenizer = checkpoint.load_tokenizer(run)
    parameters = checkpoint.load_model(run)
    model = build_model(config, tokenizer.vocab_size, np.random.default_rng(0))
    try:
        model.load_state_dict(parameters)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{run}: {checkpoint.MODEL} does not fit {checkpoint.CONFIG}: {error}"
        ) from None
    model.eval()
    return model, tokenizer


def stream(
    model: GPT,
    tokenizer: data.Tokenizer,
    prompt: np.ndarray,
    n_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Continue the prompt by n_tokens, yielding text as soon as its characters are whole.

    prompt: (N,) token ids, N ≥ 1; temperature: 0 takes the likeliest token each time;
    top_k, top_p: sample from the k likeliest, or from the fewest that hold probability p;
    seed: None: another text each time
    Raises: UserError, naming the flag, if a value is out of bounds.
    """
    if n_tokens < 0:
        raise UserError(f"--tokens must be at least 0, got {n_tokens}")
    if not 0 <= temperature < math.inf:
        raise UserError(f"--temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"--top-k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"--top-p must be above 0 and at most 1, got {top_p}")
    rng = np.random.default_rng(seed)
    return _decode(tokenizer, model.stream(prompt, n_tokens, temperature, top_k, top_p, rng))


def default_prompt(tokenizer: data.Tokenizer) -> np.ndarray:
    """A new line, or the first token of a vocabulary that has none.  Returns: (1,) token ids."""
    try:
        return tokenizer.encode("\n")[-1:]
    except UserError:
        return np.zeros(1, dtype=np.int64)


def _decode(tokenizer: data.Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    text = tokenizer.stream()
    for token in tokens:
        yield text(token)
    yield text.flush()
