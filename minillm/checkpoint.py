"""The run directory: what is saved, and how a run killed at any moment resumes bit for bit.

    config.toml          the settings                        written once, before the first update
    tokenizer.json       characters or BPE merges            written once, before config.toml
    model.safetensors    the parameters, for sampling and for other programs
    state.safetensors    the checkpoint: parameters, optimizer, iteration, random generators
    log.jsonl            one JSON object a line (see train.py)
    loss.png             the loss curve, where matplotlib is installed

Invariants:

1. A file is replaced, never changed: the new bytes go to a temporary file beside it, are fsynced,
   and the temporary file is renamed over the old one. Whoever opens it sees the old bytes or the
   new ones, never a mixture.
2. state.safetensors alone is the checkpoint. It holds the parameters again, so that one rename
   makes a checkpoint valid as a whole: parameters and optimizer moments cannot come from different
   iterations.
3. model.safetensors is written first. A run killed between the two renames has newer parameters to
   sample from and an older checkpoint to resume from; the resumed run writes both again.
4. The same run gives the same bytes. Safetensors orders tensors but not its metadata, so the state
   keeps its metadata under one key. There is no pickle: no file can run code when it is read.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minillm import config as settings
from minillm import data
from minillm.config import TrainConfig
from minillm.errors import UserError

CONFIG = "config.toml"
TOKENIZER = "tokenizer.json"
MODEL = "model.safetensors"
STATE = "state.safetensors"
LOG = "log.jsonl"

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class State:
    """Everything that the rest of a run depends on, after `iteration` updates."""

    iteration: int
    model: Arrays
    optimizer: Arrays
    generators: dict[str, Any]  # name → numpy.random.Generator.bit_generator.state
    corpus_sha256: str  # of the token ids, so that a changed corpus is noticed


def create(
    run: str | Path | None, default: str, config: TrainConfig, tokenizer: data.Tokenizer
) -> Path:
    """Make the directory of a new run with its tokenizer and settings, and return its path.

    run: where; None: the first of runs/default, runs/default-2, … that is free
    Raises: UserError if `run` already holds a run.
    """
    directory = Path(run) if run else _make_free_directory(Path("runs"), default)
    if (directory / CONFIG).exists():
        raise UserError(
            f"{directory} already holds a run: continue it with --resume {directory}, "
            "or choose another --out"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write(directory / TOKENIZER, tokenizer.to_json().encode())
    save_config(directory, config)
    return directory


def save_config(run: Path, config: TrainConfig) -> None:
    """Write config.toml."""
    write(run / CONFIG, settings.to_toml(config).encode())


def load_config(run: str | Path) -> TrainConfig:
    """The settings of a run.  Raises: UserError if `run` is not a run directory."""
    path = Path(run) / CONFIG
    if not path.exists():
        raise UserError(f"{run}: not a run directory (no {CONFIG}); `minillm train` makes one")
    return settings.read(path)


def load_tokenizer(run: str | Path) -> data.Tokenizer:
    """The tokenizer of a run.  Raises: UserError if its file is missing or damaged."""
    return data.load_tokenizer(Path(run) / TOKENIZER)


def save(run: Path, state: State) -> None:
    """Write model.safetensors, then state.safetensors, each whole or not at all."""
    save_model(run, state.model)
    tensors = _prefixed("model.", state.model) | _prefixed("optimizer.", state.optimizer)
    rest = {name: getattr(state, name) for name in ("iteration", "generators", "corpus_sha256")}
    write(run / STATE, _to_bytes(tensors, {"minillm": json.dumps(rest, sort_keys=True)}))


def save_model(run: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Write model.safetensors: the same parameters give the same bytes."""
    write(run / MODEL, _to_bytes(parameters))


def load(run: str | Path) -> State:
    """The checkpoint of a run.  Raises: UserError if it is missing or damaged."""
    path = Path(run) / STATE
    tensors, metadata = _read(path, "start the run again with `minillm train`")
    try:
        return State(
            model=_unprefixed("model.", tensors),
            optimizer=_unprefixed("optimizer.", tensors),
            **json.loads(metadata["minillm"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a checkpoint of minillm; start the run again") from None


def load_model(run: str | Path) -> Arrays:
    """The parameters of a run by name.  Raises: UserError if they are missing or damaged."""
    remedy = f"`minillm train --resume {run}` writes it again"
    tensors, _ = _read(Path(run) / MODEL, remedy)
    return tensors


def write(path: Path, content: bytes) -> None:
    """Replace the file; a crash at any moment leaves the old content or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")  # a left-over of a killed save is overwritten
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot fsync a directory
        directory = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_log(run: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of log.jsonl, up to one that a killed run left half written."""
    path = Path(run) / LOG
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def truncate_log(run: Path, iteration: int) -> None:
    """Cut log.jsonl back to what it held when `iteration` updates were done and evaluated."""
    lines = []
    for line in read_log(run):
        if line["iter"] < iteration or (line["iter"] == iteration and "val_loss" in line):
            lines.append(json.dumps(line) + "\n")
    write(run / LOG, "".join(lines).encode())


def _make_free_directory(parent: Path, name: str) -> Path:
    """Make parent/name, or parent/name-2, … : the first that is not there yet."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        directory = parent / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir()  # two runs that start at once get two directories
            return directory
        except FileExistsError:
            number += 1


def _to_bytes(tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    # safetensors reads the buffer and ignores the strides, so every array must be in C order.
    return safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in tensors.items()}, metadata
    )


def _read(path: Path, remedy: str) -> tuple[Arrays, dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {remedy}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None


def _prefixed(prefix: str, tensors: Mapping[str, np.ndarray]) -> Arrays:
    return {prefix + name: array for name, array in tensors.items()}


def _unprefixed(prefix: str, tensors: Mapping[str, np.ndarray]) -> Arrays:
    return {
        name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)
    }
