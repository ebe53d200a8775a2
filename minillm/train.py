"""The training loop: batch → forward → backward → clip → step, with evaluations and checkpoints.

Along the way log.jsonl gets one JSON object a line: for update number `iter`, counted from 0,

    {"iter": 7, "loss": 3.91, "lr": 0.00008, "ms": 14.2, "tokens_per_s": 54000}

with the loss in nats per token and the wall time in ms; and for the evaluation after `iter` updates

    {"iter": 250, "train_loss": 2.41, "val_loss": 2.43}

The same seed gives the same parameters bit for bit, with any number of threads, and whether or not
the run was stopped and resumed in between. Source of the recipe: nanoGPT, train.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from tqdm import tqdm

from minillm import checkpoint, data, evaluate, optim
from minillm import run as runs
from minillm.autograd import no_grad
from minillm.models import GPT, cost
from minillm.run import Run

SAMPLE_LENGTH = 300  # characters of the sample that a run ends with
Batches = dict[str, list[evaluate.Batch]]  # by the name of their loss in the log


class DivergedError(ArithmeticError):
    """The loss is not finite any more; the message names the first tensor that went bad."""


def train(run: Run, peak: float | None = None) -> None:
    """Take the run to its last iteration and report; save at evaluations and on Ctrl-C.

    peak: FLOP/s that this machine reaches at best, to show the model FLOP utilisation (MFU)
    Raises: DivergedError if the loss is not finite; KeyboardInterrupt, after saving, on Ctrl-C.
    """
    config = run.config
    learning_rate = optim.cosine_with_warmup(
        config.learning_rate, config.min_lr, config.warmup_iters, config.max_iters
    )
    tokens = config.batch_size * config.block_size * config.grad_accumulation  # in an update
    flop = config.grad_accumulation * cost.training_flops(
        run.model.config, config.batch_size, config.block_size
    )  # in an update
    batches = evaluation_batches(run)
    # NumPy need not warn of overflow: update and _evaluate look for it themselves.
    quiet = np.errstate(all="ignore")
    with _open_log(run) as log, _ctrl_c() as pressed, _progress_bar(run) as bar, quiet:
        while True:
            due = run.iteration % config.eval_interval == 0 or run.iteration == config.max_iters
            if due and not run.evaluated:
                _evaluate(run, batches, log, bar)
                _save(run, log)
            if run.iteration == config.max_iters:
                break
            if pressed:
                _save(run, log)
                bar.write(f"saved after {run.iteration} iterations; to go on:")
                bar.write(f"  minillm train --resume {shlex.quote(str(run.directory))}")
                raise KeyboardInterrupt
            started = time.perf_counter()
            lr = learning_rate(run.iteration)
            loss = update(run, lr)
            seconds = time.perf_counter() - started
            ms, speed = round(1000 * seconds, 3), round(tokens / seconds)
            line = {"iter": run.iteration, "loss": loss, "lr": lr, "ms": ms, "tokens_per_s": speed}
            log.write(json.dumps(line) + "\n")
            run.iteration, run.evaluated = run.iteration + 1, False
            mfu = f", MFU {flop / seconds / peak:.0%}" if peak else ""
            shown = f"loss {loss:.3f}, {ms:.1f} ms, {speed:,} tokens/s{mfu}"
            bar.set_postfix_str(shown, refresh=False)
            bar.update()
    print(report(run, batches["val_loss"]))


def update(run: Run, lr: float) -> float:
    """One update of the parameters at learning rate lr; returns the mean loss in nats per token.

    Raises: DivergedError, before the parameters change, if the loss or a gradient is not finite.
    """
    config, parts = run.config, run.config.grad_accumulation
    mean_loss = 0.0
    for _ in range(parts):
        x, y = data.sample_batch(
            run.train_ids, config.batch_size, config.block_size, run.batch_rng
        )  # (B, T), (B, T)
        _, loss = run.model(x, y)
        loss.backward(np.float32(1 / parts))  # gradients add up to the gradient of the mean
        mean_loss += float(loss.data) / parts
    norm = optim.clip_grad_norm_(run.optimizer.params, config.grad_clip or math.inf)
    if not (math.isfinite(mean_loss) and math.isfinite(norm)):
        raise _diverged(run, x)
    run.optimizer.lr = lr
    run.optimizer.step()
    run.optimizer.zero_grad()
    return mean_loss


def evaluation_batches(run: Run) -> Batches:
    """eval_iters batches of each split, the same at every evaluation and for every resumed run."""
    config = run.config
    splits = {"train_loss": run.train_ids, "val_loss": run.val_ids}
    return {
        name: data.fixed_batches(
            ids, config.batch_size, config.block_size, config.eval_iters, config.seed
        )
        for name, ids in splits.items()
    }


def report(run: Run, val_batches: list[evaluate.Batch]) -> str:
    """The validation loss beside the yardsticks, a sample, and the command for more of it."""
    texts = evaluate.windows(val_batches)
    losses = {"this model": evaluate.mean_loss(run.model, val_batches)}
    losses |= evaluate.yardsticks(run.train_ids, texts, run.tokenizer.vocab_size)
    characters = len(run.tokenizer.decode(run.val_ids))
    prompt = run.train_ids[:1]
    ids = run.model.generate(prompt, SAMPLE_LENGTH, rng=np.random.default_rng(run.config.seed))
    return "\n".join(
        [
            f"\non {sum(y.size for _, y in val_batches):,} tokens of the validation split:",
            evaluate.table(losses, len(run.val_ids) / characters),
            "\na sample:",
            run.tokenizer.decode(ids)[:SAMPLE_LENGTH],
            f"\nsample more:  minillm sample {shlex.quote(str(run.directory))}",
        ]
    )


def _evaluate(run: Run, batches: Batches, log: TextIO, bar: tqdm) -> None:
    """Log and show the mean loss on the evaluation batches of each split."""
    losses = {name: evaluate.mean_loss(run.model, split) for name, split in batches.items()}
    if not all(map(math.isfinite, losses.values())):
        raise _diverged(run, batches["val_loss"][0][0])
    log.write(json.dumps({"iter": run.iteration, **losses}) + "\n")
    shown = ", ".join(f"{name.replace('_', ' ')} {loss:.4f}" for name, loss in losses.items())
    bar.write(f"iteration {run.iteration}: {shown}")
    run.evaluated = True


def _save(run: Run, log: TextIO) -> None:
    """Save a checkpoint, after the log that belongs to it and only if the parameters are sound."""
    if not all(np.isfinite(parameter.data).all() for parameter in run.model.parameters()):
        raise _diverged(run, run.train_ids[None, : run.config.block_size])
    os.fsync(log.fileno())
    runs.save(run)


def _diverged(run: Run, ids: np.ndarray) -> DivergedError:
    """The error that names the first tensor that went bad.  ids: (B, T), where it showed."""
    tensors = itertools.chain(_parameters_and_activations(run.model, ids), _gradients(run.model))
    first = next((name for name, array in tensors if not np.isfinite(array).all()), "the loss")
    return DivergedError(
        f"training diverged at iteration {run.iteration}: {first} is not finite; "
        "try a lower --learning-rate (the last checkpoint is as it was)"
    )


def _parameters_and_activations(model: GPT, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """In the order in which a forward pass meets them."""
    for name, parameter in model.named_parameters():
        yield f"parameter {name}", parameter.data
    with no_grad():
        x = model.wte(ids) + model.wpe(np.arange(ids.shape[-1]))  # (B, T, C)
        yield "the sum of the embeddings", x.data
        for i, block in enumerate(model.h):
            x = block(x)  # (B, T, C)
            yield f"the output of h.{i}", x.data
        yield "the output of ln_f", model.ln_f(x).data


def _gradients(model: GPT) -> Iterator[tuple[str, np.ndarray]]:
    """In the order in which a backward pass makes them."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None:
            yield f"the gradient of {name}", parameter.grad


def _open_log(run: Run) -> TextIO:
    # Buffered by the line, so that it can be followed; newline as on every other system.
    path = run.directory / checkpoint.LOG
    return open(path, "a", buffering=1, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, to be looked at between updates; a second Ctrl-C interrupts."""
    pressed: list[int] = []

    def handler(signum: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(signum)

    if threading.current_thread() is not threading.main_thread():  # the others get no signals
        yield pressed
        return
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def _progress_bar(run: Run) -> tqdm:
    interval = 0.1 if sys.stderr.isatty() else 10  # seconds: a log file needs no animation
    return tqdm(
        initial=run.iteration, total=run.config.max_iters, mininterval=interval, dynamic_ncols=True
    )
