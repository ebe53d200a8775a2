"""Settings: precedence, validation in one line, and a TOML file that reads back the same."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm import config
from minillm.config import TrainConfig
from minillm.errors import UserError


def test_defaults_are_nanogpt_on_a_cpu():
    settings = config.resolve()
    assert (settings.n_layer, settings.n_head, settings.n_embd) == (4, 4, 128)
    assert (settings.block_size, settings.batch_size, settings.max_iters) == (64, 12, 2000)
    assert (settings.learning_rate, settings.min_lr, settings.warmup_iters) == (1e-3, 1e-4, 100)
    assert (settings.beta2, settings.weight_decay, settings.grad_clip) == (0.99, 0.1, 1.0)
    assert (settings.dropout, settings.bias) == (0.0, False)


@pytest.mark.parametrize("preset", config.PRESETS)
def test_presets_are_valid_and_keep_their_name(preset):
    assert config.resolve(preset).preset == preset


def test_precedence_is_preset_then_file_then_flags(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("n_layer = 3\nbatch_size = 5\nlearning_rate = 1\n")
    settings = config.resolve("char-baby", file, {"batch_size": 7})
    assert settings.n_embd == 384  # the preset's
    assert settings.n_layer == 3  # the file's
    assert settings.batch_size == 7  # the flag's
    assert type(settings.learning_rate) is float


def test_preset_of_a_file_counts_where_no_flag_names_one(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('preset = "char-mid"\n')
    assert config.resolve(None, file).n_embd == 256
    assert config.resolve("char-small", file).n_embd == 128


@example(corpus="\x7f\n\t\0\u3000", seed=0, learning_rate=1e-4, bias=True)
@given(
    corpus=st.text(st.characters(codec="utf-8")),
    seed=st.integers(0, 2**63 - 1),
    learning_rate=st.floats(1e-4, 1e30),
    bias=st.booleans(),
)
def test_toml_reads_back_the_same(tmp_path_factory, corpus, seed, learning_rate, bias):
    settings = TrainConfig(corpus=corpus, seed=seed, learning_rate=learning_rate, bias=bias)
    file = tmp_path_factory.getbasetemp() / "config.toml"
    file.write_text(config.to_toml(settings), encoding="utf-8")
    assert config.read(file) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_embd": 130}, "--n-embd 130 .* --n-head 4 .* --n-embd 132"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"dropout": 1.0}, "--dropout must be below 1, got 1.0"),
        ({"dropout": -0.5}, "--dropout must be at least 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be finite"),
        ({"learning_rate": 1e-5}, "--min-lr 0.0001 is above --learning-rate 1e-05"),
        ({"tokenizer": "word"}, "--tokenizer must be char or bpe"),
        ({"n_layer": 2.0}, "--n-layer must be a whole number, got 2.0"),
        ({"n_layer": True}, "--n-layer must be a whole number, got True"),
        ({"bias": 1}, "--bias must be true or false, got 1"),
        ({"corpus": "\udcff"}, "CORPUS must be valid Unicode"),
    ],
)
def test_values_that_are_not_allowed_name_the_flag(settings, message):
    with pytest.raises(UserError, match=message) as error:
        config.resolve(flags=settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"n_layr = 3\nzzz = 1", r"unknown setting: n_layr \(did you mean n_layer\?\), zzz"),
        (b"n_layer = ", "not a TOML file"),
        (b"n_layer = 3 # \xff", "not a TOML file"),
        (b'n_layer = "3"', "--n-layer must be a whole number, got '3'"),
        (b'preset = "gpt5"', "--preset 'gpt5' does not exist; there are char-small"),
    ],
)
def test_files_that_are_not_settings_are_one_line(tmp_path, content, message):
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        config.resolve(None, file)
    assert "\n" not in str(error.value)


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: cannot read the settings"):
        config.resolve(None, tmp_path / "none.toml")


def test_resume_changes_the_schedule_but_not_the_model():
    saved = TrainConfig()
    assert config.resume(saved, {"max_iters": 4000, "n_layer": 4}).max_iters == 4000
    with pytest.raises(UserError, match="--n-layer cannot change on --resume: the run has 4"):
        config.resume(saved, {"n_layer": 5})


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().n_layer = 5
