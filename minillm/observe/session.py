"""What `minillm profile` runs: training steps and generation, each step plain and profiled in turn.

`run` returns one JSON object, which `--json FILE` writes and which every other output is made of:

    schema      1, raised when a field changes its meaning
    date        ISO date and time, UTC
    model       {"preset", "vocab_size", "block_size", "n_layer", "n_head", "n_embd", "bias",
                "dropout", "batch_size", "tokens" (in a sequence), "parameters" (how many)}
    machine     {"cpu", "cores", "os", "load"}; versions, code: as in minillm.bench
    threads     of the kernels
    roofs       the roofs that everything is compared with, see `minillm.observe.roofline.as_json`,
                and {"target", "date"} of their measurement
    train       a subject; with --generate also prefill and decode (a step is a prompt, a token)

A subject is the object of `minillm.observe.analysis` and

    model_flop      FLOP of the model's products in a step, counted by hand (models/cost.py)
    computed_flop   of train: {subject: FLOP}, all arithmetic of a step, counted by hand
    mfu             model_flop / seconds.mean / peak
    tokens          in a step
    held            how many steps began on one thread, as the guard against busy cores wanted it
    plain_seconds   the median of steps with nothing attached, taken in turn with the profiled ones
    overhead        what profiling adds to a step, as a part of plain_seconds: median of the ratios
    ledger          of train: memory, see minillm.observe.ledger
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from minillm import data, kernels, optim
from minillm.bench import machine, timing
from minillm.bench.workload import Workload
from minillm.errors import UserError
from minillm.models import GPT, cost
from minillm.observe import ledger, roofline, roofs
from minillm.observe.analysis import analyse
from minillm.observe.profiler import Profile

WARM_UP = 5  # steps until every buffer has been allocated and the threads are awake
CLIP = 1.0
TEXTS = 3  # how many times a generation is profiled


def training_step(w: Workload) -> Callable[[Profile], float]:
    """A step as train.update takes it, on windows of a random text; call(profile) → the loss."""
    model = GPT(w.model())
    optimizer = optim.AdamW(model.parameters(), w.learning_rate, (0.9, w.beta2), weight_decay=0.1)
    rng = np.random.default_rng(0)
    ids = rng.integers(w.vocab_size, size=100 * w.T + 1)

    def call(profile: Profile) -> float:
        with profile.phase("data"):
            x, y = data.sample_batch(ids, w.B, w.T, rng)
        _, loss = model(x, y)
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return call


def profile_training(w: Workload, steps: int) -> tuple[Profile, list[float]]:
    """`steps` profiled steps, and the seconds of as many plain ones, taken in turn."""
    step, profile = training_step(w), Profile()
    for _ in range(min(WARM_UP, steps)):
        step(profile)
    timing.settle(guard=True)
    return profile, _in_turn(profile, lambda: step(profile), steps)


def _in_turn(profile: Profile, call: Callable[[], object], times: int) -> list[float]:
    plain = []
    for _ in range(times):
        start = perf_counter()
        call()
        plain.append(perf_counter() - start)
        with profile:
            call()
    return plain


def profile_generation(w: Workload, tokens: int) -> dict[str, tuple[Profile, int]]:
    """{"prefill": (profile, model FLOP of a step), "decode": …}; a step of decode is one token.

    Raises: UserError if so many tokens do not fit the context beside a prompt.
    """
    length = w.block_size - tokens
    if length < 1 or tokens < 2:
        raise UserError(
            f"--generate must be 2 … {w.block_size - 1}, so that the context of {w.block_size} "
            f"holds a prompt as well, got {tokens}"
        )
    model = GPT(w.model())
    prompt = np.random.default_rng(0).integers(w.vocab_size, size=length)
    prefill, decode = Profile(), Profile()
    for i in range(TEXTS + 1):
        stream = model.stream(prompt, tokens)
        for position in range(tokens):
            chosen = (decode if position else prefill) if i else contextlib.nullcontext()
            with chosen:  # the first text only warms up
                next(stream)
    config = w.model()
    one_by_one = [cost.forward_flops(config, 1, 1, length + i) for i in range(tokens - 1)]
    return {
        "prefill": (prefill, cost.forward_flops(config, 1, length)),
        "decode": (decode, round(float(np.mean(one_by_one)))),
    }


def of_training(
    w: Workload, profile: Profile, plain: list[float], roof: roofline.Roofline
) -> dict[str, Any]:
    """The subject `train`."""
    ratios = [step.seconds / s for step, s in zip(profile.steps, plain, strict=True)]
    subject = _subject(profile, roof, cost.training_flops(w.model(), w.B, w.T), w.B * w.T)
    return subject | {
        "computed_flop": cost.computed_flops(w.model(), w.B, w.T),
        "plain_seconds": float(np.median(plain)),
        "overhead": float(np.median(ratios)) - 1,
    }


def _subject(profile: Profile, roof: roofline.Roofline, flop: int, tokens: int) -> dict[str, Any]:
    found = analyse(profile, roof)
    mfu = flop / found["seconds"]["mean"] / roof.peak
    held = sum(step.threads < kernels.get_num_threads() for step in profile.steps)
    return found | {"model_flop": flop, "tokens": tokens, "mfu": mfu, "held": held}


def run(
    w: Workload, measured: roofs.Roofs, steps: int = 20, generate: int = 0
) -> tuple[dict[str, Any], dict[str, Profile]]:
    """The JSON object of this module's docstring, and the profile behind each subject."""
    roof = roofline.of_machine(measured, kernels.info()["threads"])
    profile, plain = profile_training(w, steps)
    profiles = {"train": profile}
    result = about(w, measured, roof) | {
        "train": of_training(w, profile, plain, roof) | {"ledger": ledger.measure(w)},
    }
    if generate:
        for name, (one, flop) in profile_generation(w, generate).items():
            profiles[name] = one
            result[name] = _subject(
                one, roof, flop, w.block_size - generate if name == "prefill" else 1
            )
    return result, profiles


def about(w: Workload, measured: roofs.Roofs, roof: roofline.Roofline) -> dict[str, Any]:
    """What was measured, where and when, and the roofs above it."""
    config = w.model()
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": {
            "preset": w.preset,
            "vocab_size": w.vocab_size,
            "block_size": w.block_size,
            "n_layer": w.n_layer,
            "n_head": w.n_head,
            "n_embd": w.C,
            "bias": w.bias,
            "dropout": w.dropout,
            "batch_size": w.B,
            "tokens": w.T,
            "parameters": cost.parameters(config),
        },
        "machine": machine.describe(),
        "versions": machine.versions(),
        "code": machine.code(),
        "threads": kernels.info()["threads"],
        "roofs": roofline.as_json(roof) | {"target": measured.target, "date": measured.date},
    }
