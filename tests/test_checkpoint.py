"""Checkpoints: bytes, round trip, damage, and kill -9 at every moment of a save."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minillm import checkpoint, data
from minillm.cli import main
from minillm.config import TrainConfig
from minillm.errors import UserError

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
SETTINGS = {
    "n-layer": 1,
    "n-head": 2,
    "n-embd": 16,
    "block-size": 16,
    "batch-size": 4,
    "max-iters": 12,
    "eval-interval": 2,
    "eval-iters": 1,
    "warmup-iters": 2,
    "dropout": 0.1,
}
TINY = [f"--{name}={value}" for name, value in SETTINGS.items()]
FILES = (checkpoint.CONFIG, checkpoint.TOKENIZER, checkpoint.MODEL, checkpoint.STATE)


def some_state(iteration: int = 7) -> checkpoint.State:
    rng = np.random.default_rng(iteration)
    weights = rng.standard_normal((3, 4)).astype(np.float32)
    return checkpoint.State(
        iteration=iteration,
        model={"b": weights.T, "a": np.zeros(0, np.float32)},  # not contiguous, and empty
        optimizer={"step": np.array(iteration), "m.b": weights},
        generators={"model": rng.bit_generator.state, "batch": rng.bit_generator.state},
        corpus_sha256="00",
    )


def assert_same_arrays(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_state_round_trips(tmp_path):
    state = some_state()
    checkpoint.save(tmp_path, state)
    loaded = checkpoint.load(tmp_path)
    assert_same_arrays(loaded.model, state.model)
    assert_same_arrays(loaded.optimizer, state.optimizer)
    assert_same_arrays(checkpoint.load_model(tmp_path), state.model)
    for name in ("iteration", "generators", "corpus_sha256"):
        assert getattr(loaded, name) == getattr(state, name)
    assert sorted(os.listdir(tmp_path)) == [checkpoint.MODEL, checkpoint.STATE]


def test_same_state_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        directory.mkdir()
        state = some_state()
        turned = dict(reversed(state.model.items()))
        checkpoint.save(directory, dataclasses.replace(state, model=turned))
    for name in (checkpoint.MODEL, checkpoint.STATE):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "missing", "foreign"])
@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE])
def test_damaged_file_is_one_line_with_a_remedy(tmp_path, name, damage):
    checkpoint.save(tmp_path, some_state())
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        foreign = checkpoint._to_bytes({"x": np.zeros(3)})
        damaged = {"cut": content[:-5], "empty": b"", "garbage": b"x" * 99, "foreign": foreign}
        path.write_bytes(damaged[damage])
    if name == checkpoint.MODEL and damage == "foreign":
        return  # a sound file with other names, which load_state_dict notices
    load = checkpoint.load_model if name == checkpoint.MODEL else checkpoint.load
    with pytest.raises(UserError, match=f"{name}.*minillm") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_create_never_takes_a_directory_that_holds_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = data.CharTokenizer.train("ab")
    names = [checkpoint.create(None, "x", TrainConfig(), tokenizer).name for _ in range(3)]
    assert names == ["x", "x-2", "x-3"]
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        checkpoint.create("runs/x", "x", TrainConfig(), tokenizer)


def test_directory_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        checkpoint.load_config(tmp_path)


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    lines = [{"iter": 0, "val_loss": 3.0}, {"iter": 0, "loss": 3.0}, {"iter": 1, "loss": 2.5}]
    lines += [{"iter": 2, "val_loss": 2.0}, {"iter": 2, "loss": 2.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / checkpoint.LOG).write_text(text + '{"iter": 3, "lo')  # killed while writing
    checkpoint.truncate_log(tmp_path, 2)
    assert list(checkpoint.read_log(tmp_path)) == lines[:4]


# A training run that kills itself with kill -9 at the Nth call that changes a file.
KILLED = """
import os, signal, sys
from minillm import checkpoint
from minillm.cli import main

calls = 0
def killing(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

os.replace, os.fsync = killing(os.replace), killing(os.fsync)
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The bytes of a run that was never stopped."""
    directory = tmp_path_factory.mktemp("whole")
    (directory / "corpus.txt").write_text(TEXT)
    run = directory / "run"
    assert main(["train", str(directory / "corpus.txt"), "--out", str(run), *TINY]) == 0
    return directory / "corpus.txt", run


def assert_same_run(run, whole):
    for name in FILES:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    timed = ("ms", "tokens_per_s")
    logs = [
        [{k: v for k, v in line.items() if k not in timed} for line in checkpoint.read_log(d)]
        for d in (run, whole)
    ]
    assert logs[0] == logs[1]
    assert not list(run.glob(".*"))  # no temporary file is left


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("call", [14, 15, 16, 17, 18, 19, 20])  # all the calls of one save
def test_run_killed_within_a_save_resumes_bit_for_bit(tmp_path, whole_run, call):
    corpus, whole = whole_run
    run = tmp_path / "run"
    train = ["train", str(corpus), "--out", str(run), *TINY]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(call), *train], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.load(run).iteration in (0, 2)
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_run(run, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_run_killed_at_random_moments_resumes_bit_for_bit(tmp_path, whole_run):
    corpus, _ = whole_run
    flags = [*TINY, "--max-iters", "150", "--eval-interval", "3"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    main(["train", str(corpus), "--out", str(whole), *flags])
    command = ["train", str(corpus), "--out", str(run), *flags]
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "minillm", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = (run / checkpoint.LOG).stat().st_size if command[1] == "--resume" else 0
        while process.poll() is None and not has_grown(run, before):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.wait()
        command = ["train", "--resume", str(run)]
    assert main(command) == 0
    assert_same_run(run, whole)


def has_grown(run, size):
    """Whether the run has a checkpoint and has logged more than `size` bytes."""
    log = run / checkpoint.LOG
    return (run / checkpoint.STATE).exists() and log.exists() and log.stat().st_size > size
