"""Sampling from a run: the same as model.generate, reproducible, and whole characters only."""

import itertools

import numpy as np
import pytest

from minillm import data, generate
from minillm import run as runs
from minillm import train as training
from minillm.config import TrainConfig
from minillm.errors import UserError

TEXT = "你好 the quick brown fox jumps over the lazy dog\n" * 60


@pytest.fixture(scope="module", params=["char", "bpe"])
def loaded(request, tmp_path_factory):
    """A small trained model and its tokenizer, read back from its run directory."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "corpus.txt").write_text(TEXT, encoding="utf-8")
    config = TrainConfig(
        corpus=str(directory / "corpus.txt"),
        tokenizer=request.param,
        vocab_size=280,
        n_layer=1,
        n_head=2,
        n_embd=16,
        block_size=16,
        batch_size=4,
        max_iters=3,
        eval_interval=3,
        eval_iters=1,
    )
    training.train(runs.start(config, directory / "run"))
    return generate.load(directory / "run")


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.0, None, None), (0.8, 5, None), (1.0, None, 0.9), (0.5, 3, 0.5)],
)
def test_stream_is_generate_decoded(loaded, temperature, top_k, top_p):
    model, tokenizer = loaded
    prompt = tokenizer.encode("the ")
    n = 40  # past the context of 16
    pieces = generate.stream(model, tokenizer, prompt, n, temperature, top_k, top_p, seed=3)
    rng = np.random.default_rng(3)
    ids = model.generate(prompt, n, temperature=temperature, top_k=top_k, top_p=top_p, rng=rng)
    assert "".join(pieces) == tokenizer.decode(np.asarray(ids)[-n:])


def test_stream_depends_on_the_seed_alone(loaded):
    model, tokenizer = loaded
    prompt = generate.default_prompt(tokenizer)
    texts = ["".join(generate.stream(model, tokenizer, prompt, 50, seed=s)) for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_stream_yields_text_before_the_end(loaded):
    model, tokenizer = loaded
    pieces = generate.stream(model, tokenizer, generate.default_prompt(tokenizer), 10**9, seed=1)
    assert len(list(itertools.islice(pieces, 5))) == 5


def test_character_cut_off_at_the_end_is_shown_as_such():
    tokenizer = data.BPETokenizer([])
    assert list(generate._decode(tokenizer, "h你".encode()[:3])) == ["h", "", "", "\ufffd"]


def test_default_prompt_is_a_new_line_where_there_is_one(loaded):
    _, tokenizer = loaded
    assert tokenizer.decode(generate.default_prompt(tokenizer)) == "\n"
    without = type("WithoutNewLine", (), {"encode": lambda self, text: _refuse()})()
    assert generate.default_prompt(without).tolist() == [0]


def _refuse():
    raise UserError("unknown character")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_tokens": -1}, "--tokens must be at least 0, got -1"),
        ({"temperature": -0.1}, "--temperature must be at least 0"),
        ({"temperature": float("nan")}, "--temperature must be at least 0"),
        ({"top_k": 0}, "--top-k must be at least 1, got 0"),
        ({"top_p": 0.0}, "--top-p must be above 0 and at most 1"),
        ({"top_p": 1.5}, "--top-p must be above 0 and at most 1"),
    ],
)
def test_values_out_of_bounds_name_the_flag(loaded, arguments, message):
    model, tokenizer = loaded
    prompt = generate.default_prompt(tokenizer)
    with pytest.raises(UserError, match=message):
        generate.stream(model, tokenizer, prompt, **{"n_tokens": 1} | arguments)


def test_no_tokens_is_no_text(loaded):
    model, tokenizer = loaded
    assert "".join(generate.stream(model, tokenizer, tokenizer.encode("the"), 0)) == ""
