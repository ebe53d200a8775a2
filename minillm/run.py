"""A training run: made from settings and a text, or from its checkpoint; saved as a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from minillm import checkpoint, data, optim
from minillm import config as settings
from minillm.config import TrainConfig
from minillm.errors import UserError
from minillm.models import GPT, GPTConfig


@dataclasses.dataclass
class Run:
    """A run in progress: what it learns from, what it learns, and where it is."""

    config: TrainConfig
    tokenizer: data.Tokenizer
    train_ids: np.ndarray  # (N,) int64
    val_ids: np.ndarray
    model: GPT
    optimizer: optim.AdamW
    batch_rng: np.random.Generator
    directory: Path = Path()
    iteration: int = 0  # updates done
    evaluated: bool = False  # whether the log has the evaluation of this iteration


def start(config: TrainConfig, out: str | Path | None = None) -> Run:
    """A new run in the directory `out`, before its first update.

    out: None: the first free one of runs/CORPUS-PRESET, runs/CORPUS-PRESET-2, …
    Raises: UserError if the corpus cannot be read or is too short, or `out` holds a run.
    """
    corpus = _load_corpus(config)
    if config.tokenizer == "bpe":
        tokenizer = data.BPETokenizer.train(corpus.text, config.vocab_size, progress=True)
    else:
        tokenizer = data.CharTokenizer.train(corpus.text)
    # Save what the default turned out to be, and a path that is good from any working directory.
    is_name = corpus.name in {known.name for known in data.catalogue()}
    name = corpus.name if is_name else str(Path(corpus.name).resolve())
    config = dataclasses.replace(config, corpus=name)
    run = _build(config, tokenizer, corpus.text)
    stem = re.sub(r"[^\w-]+", "-", Path(name).stem).strip("-") or "text"
    run.directory = checkpoint.create(out, f"{stem}-{config.preset}", config, tokenizer)
    return run


def resume(directory: str | Path, flags: dict[str, Any] | None = None) -> Run:
    """The run in `directory` as its checkpoint left it.

    flags: settings to change, such as max_iters to train on
    Raises: UserError if there is no checkpoint, a file is damaged, or the corpus has changed.
    """
    directory = Path(directory)
    config = settings.resume(checkpoint.load_config(directory), flags or {})
    state = checkpoint.load(directory)
    if config.max_iters < state.iteration:
        raise UserError(f"--max-iters {config.max_iters}: {state.iteration} are done already")
    run = _build(config, checkpoint.load_tokenizer(directory), _load_corpus(config).text)
    if _fingerprint(run) != state.corpus_sha256:
        raise UserError(f"{config.corpus}: the text is not the one that {directory} learned from")
    try:
        run.model.load_state_dict(state.model)
        run.optimizer.load_state_dict(state.optimizer)
        run.model.rng.bit_generator.state = state.generators["model"]
        run.batch_rng.bit_generator.state = state.generators["batch"]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{directory}: {checkpoint.STATE} does not fit {checkpoint.CONFIG}: {error}"
        ) from None
    run.directory, run.iteration = directory, state.iteration
    run.evaluated = True  # a checkpoint is saved after the evaluation of its iteration
    checkpoint.save_config(directory, config)
    checkpoint.save_model(directory, state.model)  # in case that file was lost or damaged
    checkpoint.truncate_log(directory, state.iteration)
    return run


def save(run: Run) -> None:
    """Write the checkpoint: all that the updates to come depend on."""
    state = checkpoint.State(
        iteration=run.iteration,
        model=run.model.state_dict(),
        optimizer=run.optimizer.state_dict(),
        generators={
            "model": run.model.rng.bit_generator.state,
            "batch": run.batch_rng.bit_generator.state,
        },
        corpus_sha256=_fingerprint(run),
    )
    checkpoint.save(run.directory, state)


def build_model(config: TrainConfig, vocab_size: int, rng: np.random.Generator) -> GPT:
    """The model that the settings describe, with parameters drawn from rng."""
    return GPT(GPTConfig(vocab_size=vocab_size, **config.architecture()), rng)


def _load_corpus(config: TrainConfig) -> data.Corpus:
    corpus = data.load(config.corpus or None)
    print(f"corpus: {corpus.name}, {len(corpus.text):,} characters ({corpus.source})")
    return corpus


def _build(config: TrainConfig, tokenizer: data.Tokenizer, text: str) -> Run:
    """A run before its first update, without a directory yet."""
    train_ids, val_ids = data.train_val_split(tokenizer.encode(text))
    if len(val_ids) <= config.block_size:
        raise UserError(
            f"the text has {len(train_ids) + len(val_ids)} tokens, a tenth of them to validate on: "
            f"too short for --block-size {config.block_size}, which needs "
            f"{10 * (config.block_size + 1)}"
        )
    model_rng, batch_rng = map(np.random.default_rng, np.random.SeedSequence(config.seed).spawn(2))
    model = build_model(config, tokenizer.vocab_size, model_rng)
    optimizer = optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    return Run(config, tokenizer, train_ids, val_ids, model, optimizer, batch_rng)


def _fingerprint(run: Run) -> str:
    """SHA-256 of the token ids that the run learns from."""
    return hashlib.sha256(run.train_ids).hexdigest()
