"""decode against its specification and against a whole forward pass."""

import numpy as np
import pytest

import minillm as ml
from minillm import kernels
from minillm.models import GPT, GPTConfig

SHAPES = [
    GPTConfig(vocab_size=5, block_size=7, n_layer=1, n_head=1, n_embd=1),
    GPTConfig(vocab_size=65, block_size=9, n_layer=3, n_head=4, n_embd=36, bias=True),
    GPTConfig(vocab_size=33, block_size=5, n_layer=1, n_head=2, n_embd=402),  # K in slices
]


def model(config: GPTConfig) -> GPT:
    """Weights large enough that a wrong one shows; biases and gains that are not 0 and 1."""
    gpt, rng = GPT(config), np.random.default_rng(1)
    for p in gpt.parameters():
        p.data += 0.1 * rng.standard_normal(p.shape).astype(np.float32)
    return gpt


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_decode_gives_the_logits_of_a_whole_forward(decode, config, threads, monkeypatch):
    monkeypatch.setattr("minillm.kernels.threads._threads", threads)
    gpt, B, T = model(config), 3, config.block_size
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (B, T))
    with ml.no_grad():
        want = gpt(ids)[0].data
    head_dim = config.n_embd // config.n_head
    shape = (2, config.n_layer, B, config.n_head, T, head_dim)
    keys, values = np.full(shape, np.nan, np.float32)  # what is not there yet is not read
    caches, decoder = list(zip(keys, values, strict=True)), gpt.decoder()
    for t in range(T):
        x = gpt.wte.weight.data[ids[:, t]] + gpt.wpe.weight.data[t]
        before = x.copy()
        logits = decode(x, decoder, caches, t)
        np.testing.assert_allclose(logits, want[:, t], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("config", SHAPES)
def test_decode_gives_the_same_bits_at_any_number_of_threads(target, config, monkeypatch):
    """On one Decoder, whose buffers must grow with the threads; 5 share the cores of a laptop."""
    gpt, rng = model(config), np.random.default_rng(0)
    decoder, x = gpt.decoder(), rng.standard_normal((2, config.n_embd)).astype(np.float32)
    shape = (2, 2, config.n_head, config.block_size, config.n_embd // config.n_head)
    start = [rng.standard_normal(shape).astype(np.float32) for _ in gpt.h]
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("minillm.kernels.threads._threads", threads)
        monkeypatch.setattr("minillm.kernels.threads._alone_until", 0.0)
        caches = [tuple(pair) for pair in np.array(start)]
        results.append((kernels.decode(x, decoder, caches, 3), np.array(caches)))
    for logits, caches in results[1:]:
        np.testing.assert_array_equal(logits, results[0][0])
        np.testing.assert_array_equal(caches, results[0][1])


def test_decode_of_two_texts_in_turn_keeps_them_apart(decode):
    gpt = model(SHAPES[1])
    decoder, xs = gpt.decoder(), np.random.default_rng(0).standard_normal((4, 1, 36))

    def caches():
        return [tuple(np.zeros((2, 1, 4, 9, 9), np.float32)) for _ in gpt.h]

    def logits(which, t):
        return decode(xs[2 * which + t].astype(np.float32), decoder, texts[which], t)

    texts = caches(), caches()
    in_turn = [logits(which, t) for t in range(2) for which in range(2)]
    texts = caches(), caches()
    alone = [logits(which, t) for which in range(2) for t in range(2)]
    np.testing.assert_array_equal(in_turn, [alone[0], alone[2], alone[1], alone[3]])


def test_decode_follows_a_change_of_target(target):
    gpt = model(SHAPES[1])
    decoder, x = gpt.decoder(), np.ones((1, 36), np.float32)
    results = []
    for name in (target, kernels.info()["targets"][-1]):
        kernels.set_target(name)
        caches = [(np.zeros((1, 4, 3, 9), np.float32), np.zeros((1, 4, 3, 9), np.float32))] * 3
        results.append(kernels.decode(x, decoder, caches, 0))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [3, 4])
def test_decode_of_a_full_cache_is_an_error(decode, length):
    gpt = model(SHAPES[1])
    cache = np.zeros((2, 1, 4, 3, 9), np.float32)
    with pytest.raises(ValueError, match=rf"decode: a cache .* one token after {length}"):
        decode(np.ones((1, 36), np.float32), gpt.decoder(), [tuple(cache)] * 3, length)


def test_decode_looks_at_x_also_when_the_caches_are_known(decode):
    gpt, caches = model(SHAPES[1]), [tuple(np.zeros((2, 1, 4, 3, 9), np.float32)) for _ in range(3)]
    decoder = gpt.decoder()
    decode(np.ones((1, 36), np.float32), decoder, caches, 0)
    with pytest.raises(ValueError, match=r"decode: a cache .* does not fit x \(2, 36\)"):
        decode(np.ones((2, 36), np.float32), decoder, caches, 1)
