"""Training: it learns, it is reproducible to the bit, it stops well."""

import itertools
import json
import math
import signal

import numpy as np
import pytest

from minillm import checkpoint, evaluate, kernels
from minillm import run as runs
from minillm import train as training
from minillm.config import TrainConfig
from minillm.errors import UserError

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
TINY = TrainConfig(
    n_layer=1,
    n_head=2,
    n_embd=16,
    block_size=16,
    batch_size=4,
    dropout=0.1,
    max_iters=20,
    eval_interval=10,
    eval_iters=2,
    warmup_iters=2,
)


@pytest.fixture
def settings(tmp_path):
    """TINY on a text file; `settings(seed=1)` changes a setting."""
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT)

    def change(**changes):
        fields = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
        return TrainConfig(**fields | {"corpus": str(file)} | changes)

    return change


def trained(config, directory):
    training.train(runs.start(config, directory))
    return directory


def untimed_log(directory):
    timed = ("ms", "tokens_per_s")
    lines = checkpoint.read_log(directory)
    return [{key: line[key] for key in line if key not in timed} for line in lines]


def assert_same_run(a, b):
    for name in (checkpoint.MODEL, checkpoint.STATE):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert untimed_log(a) == untimed_log(b)


def interrupt_after(monkeypatch, updates):
    """Press Ctrl-C within the update with that number."""
    count = itertools.count(1)

    def pressing(run, lr):
        if next(count) == updates:
            signal.raise_signal(signal.SIGINT)
        return update(run, lr)

    update = training.update
    monkeypatch.setattr(training, "update", pressing)


def test_loss_falls_below_the_bigram(settings, tmp_path, capsys):
    config = settings(max_iters=300, eval_interval=300, learning_rate=1e-2, dropout=0.0)
    directory = trained(config, tmp_path / "run")
    losses = [line["val_loss"] for line in checkpoint.read_log(directory) if "val_loss" in line]
    out = capsys.readouterr().out
    bigram = float(next(line for line in out.splitlines() if line.startswith("bigram")).split()[1])
    assert losses[-1] < bigram < losses[0]
    assert f"minillm sample {directory}" in out
    assert len(out.partition("a sample:\n")[2].partition("\n\nsample more:")[0]) >= 290


def test_log_has_one_object_a_line_with_the_documented_keys(settings, tmp_path):
    run, directory = runs.start(settings(), tmp_path / "run"), tmp_path / "run"
    training.train(run)
    training.train(run)  # what is done and logged is not done again
    training.train(runs.resume(directory))
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    updates = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "val_loss" in line]
    assert len(updates) + len(evaluations) == len(lines)
    assert [line["iter"] for line in updates] == list(range(20))
    assert [line["iter"] for line in evaluations] == [0, 10, 20]
    for line in updates:
        assert line.keys() == {"iter", "loss", "lr", "ms", "tokens_per_s"}
    for line in evaluations:
        assert line.keys() == {"iter", "train_loss", "val_loss"}
    assert updates[0]["loss"] == pytest.approx(math.log(28), abs=0.2)
    assert max(line["lr"] for line in updates) == pytest.approx(1e-3)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(settings, tmp_path):
    first = trained(settings(), tmp_path / "a")
    assert_same_run(first, trained(settings(), tmp_path / "b"))
    other = trained(settings(seed=1), tmp_path / "c")
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_any_number_of_threads_gives_the_same_bytes(settings, tmp_path):
    before = kernels.get_num_threads()
    try:
        for threads in (1, 2, 3):
            kernels.set_num_threads(threads)
            trained(settings(n_embd=32, block_size=32), tmp_path / str(threads))
    finally:
        kernels.set_num_threads(before)
    assert_same_run(tmp_path / "1", tmp_path / "2")
    assert_same_run(tmp_path / "1", tmp_path / "3")


@pytest.mark.parametrize("updates", [1, 7, 10, 20])  # within, and right before evaluations
def test_interrupted_run_resumes_bit_for_bit(settings, tmp_path, monkeypatch, capsys, updates):
    whole, stopped = trained(settings(), tmp_path / "whole"), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt_after(patch, updates)
        if updates < 20:  # the last update is followed by the end, not by the interrupt
            with pytest.raises(KeyboardInterrupt):
                trained(settings(), stopped)
            assert f"minillm train --resume {stopped}" in capsys.readouterr().out
        else:
            trained(settings(), stopped)
    assert checkpoint.load(stopped).iteration == updates
    training.train(runs.resume(stopped))
    assert_same_run(stopped, whole)


def test_resume_can_train_on(settings, tmp_path):
    directory = trained(settings(), tmp_path / "run")
    training.train(runs.resume(directory, {"max_iters": 30}))
    assert checkpoint.load(directory).iteration == 30
    assert checkpoint.load_config(directory).max_iters == 30
    with pytest.raises(UserError, match="--max-iters 5: 30 are done already"):
        runs.resume(directory, {"max_iters": 5})


def test_resume_mends_a_damaged_model_file(settings, tmp_path):
    directory = trained(settings(), tmp_path / "run")
    model = directory / "model.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:100])
    runs.resume(directory)
    assert model.read_bytes() == content


def test_resume_notices_another_text_and_another_shape(settings, tmp_path):
    config = settings()
    directory = trained(config, tmp_path / "run")
    toml = (directory / "config.toml").read_text()
    (directory / "config.toml").write_text(toml.replace("n_embd = 16", "n_embd = 32"))
    with pytest.raises(UserError, match=r"state\.safetensors does not fit config\.toml") as error:
        runs.resume(directory)
    assert "\n" not in str(error.value)
    (directory / "config.toml").write_text(toml)
    (tmp_path / "corpus.txt").write_text(TEXT[::-1])
    with pytest.raises(UserError, match=r"the text is not the one that .* learned from"):
        runs.resume(directory)


def test_gradient_accumulation_is_the_gradient_of_the_larger_batch(settings, tmp_path):
    """Two batches of 4 in one update, against one batch of the same 8 rows."""
    small = runs.start(settings(dropout=0.0, grad_accumulation=2), tmp_path / "small")
    large = runs.start(settings(dropout=0.0, batch_size=8), tmp_path / "large")
    losses = [training.update(run, 1e-3) for run in (small, large)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    for (name, a), (_, b) in zip(
        small.optimizer.state_dict().items(), large.optimizer.state_dict().items(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6, err_msg=name)


def test_learning_rate_that_diverges_names_a_tensor_and_keeps_the_checkpoint(settings, tmp_path):
    run = runs.start(settings(learning_rate=1e30, max_iters=100), tmp_path / "run")
    with pytest.raises(training.DivergedError, match="iteration") as error:
        training.train(run)
    assert "\n" not in str(error.value)
    state = checkpoint.load(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in state.model.values())


def test_update_moves_the_parameters_by_the_learning_rate_it_is_given(settings, tmp_path):
    run = runs.start(settings(), tmp_path / "run")
    before = {name: array.copy() for name, array in run.model.state_dict().items()}
    training.update(run, 0.0)
    assert all((run.model.state_dict()[name] == before[name]).all() for name in before)
    training.update(run, 1e-3)
    assert all((run.model.state_dict()[name] != before[name]).any() for name in before)


def test_update_that_diverges_changes_nothing(settings, tmp_path):
    run = runs.start(settings(), tmp_path / "run")
    run.model.wpe.weight.data[0] = 1e38  # sums of its squares overflow
    before = {name: array.copy() for name, array in run.model.state_dict().items()}
    with np.errstate(all="ignore"), pytest.raises(training.DivergedError, match="output of"):
        training.update(run, 1e-3)
    assert all((run.model.state_dict()[name] == before[name]).all() for name in before)


def test_gradient_that_is_not_finite_is_named(settings, tmp_path, monkeypatch):
    def overflow(parameters, max_norm):
        list(parameters)[-2].grad[...] = math.inf
        return math.inf

    monkeypatch.setattr(training.optim, "clip_grad_norm_", overflow)
    run = runs.start(settings(), tmp_path / "run")
    name = [name for name, _ in run.model.named_parameters()][-2]
    with pytest.raises(training.DivergedError, match=f"the gradient of {name} is not finite"):
        training.update(run, 1e-3)


def test_evaluation_that_is_not_finite_is_neither_logged_nor_saved(settings, tmp_path):
    run = runs.start(settings(), tmp_path / "run")
    run.model.ln_f.weight.data[...] = 3e38
    with pytest.raises(training.DivergedError, match=r"the output of ln_f|the loss"):
        training.train(run)
    assert untimed_log(tmp_path / "run") == []
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_ctrl_c_does_not_save_parameters_that_went_bad(settings, tmp_path, monkeypatch):
    def bad_update(run, lr):
        run.model.wte.weight.data[0, 0] = np.inf
        signal.raise_signal(signal.SIGINT)
        return 1.0

    monkeypatch.setattr(training, "update", bad_update)
    with pytest.raises(training.DivergedError, match=r"parameter wte\.weight is not finite"):
        trained(settings(), tmp_path / "run")
    assert checkpoint.load(tmp_path / "run").iteration == 0


def test_bad_parameter_is_named_and_never_saved(settings, tmp_path):
    run = runs.start(settings(), tmp_path / "run")
    name, parameter = list(run.model.named_parameters())[2]
    parameter.data[...] = np.nan
    with pytest.raises(training.DivergedError, match=f"parameter {name}"):
        training.train(run)
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_bpe_run_trains_and_resumes(settings, tmp_path):
    config = settings(tokenizer="bpe", vocab_size=300, block_size=8)
    directory = trained(config, tmp_path / "run")
    assert checkpoint.load_tokenizer(directory).decode([104, 105]) == "hi"
    assert runs.resume(directory).iteration == 20


def test_text_shorter_than_the_context_says_how_much_is_needed(settings, tmp_path):
    with pytest.raises(UserError, match="--block-size 300, which needs 3010"):
        runs.start(settings(block_size=300), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mean_loss_weighs_every_token_the_same(settings, tmp_path):
    run = runs.start(settings(), tmp_path / "run")
    x, y = training.evaluation_batches(run)["val_loss"][0]
    one = evaluate.mean_loss(run.model, [(x, y)])
    rows = [(x[i : i + 1], y[i : i + 1]) for i in range(1, len(x))]
    assert evaluate.mean_loss(run.model, [(x[:1], y[:1]), *rows]) == pytest.approx(one, rel=1e-5)
    uneven = [(x[:1, :4], y[:1, :4]), (x[1:], y[1:])]
    losses = [evaluate.mean_loss(run.model, [batch]) for batch in uneven]
    mean = (4 * losses[0] + y[1:].size * losses[1]) / (4 + y[1:].size)
    assert evaluate.mean_loss(run.model, uneven) == pytest.approx(mean, rel=1e-6)


def test_table_is_aligned_and_computes_perplexity_and_bits():
    lines = evaluate.table({"this model": math.log(2), "uniform": math.log(8)}, 0.5).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [float(cell) for cell in lines[1].split()[-2:]] == [2.0, 0.5]
    assert [float(cell) for cell in lines[2].split()[-2:]] == [8.0, 1.5]
