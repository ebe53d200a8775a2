"""The GPT: its size and start, causality, learning, and generation with a cache."""

import numpy as np
import pytest

import minillm as ml
from minillm import kernels, optim
from minillm.models import GPT, GPTConfig
from minillm.models.sampling import choose

CHAR_SMALL = GPTConfig()
TINY = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16)


def make(config=TINY, seed=0):
    return GPT(config, np.random.default_rng(seed))


def ids_of(config, B, T, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (B, T))


def batch(config=TINY, B=4, seed=0):
    ids = ids_of(config, B, config.block_size + 1, seed)
    return ids[:, :-1], ids[:, 1:]


def train(model, x, y, steps, **options):
    """AdamW on one batch; the loss before each step."""
    optimizer, losses = optim.AdamW(model.parameters(), **options), []
    for _ in range(steps):
        _, loss = model(x, y)
        loss.backward()
        losses.append(loss.item())
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_gpt_char_small_has_804_096_parameters():
    """nanoGPT's sizes: in a block two norms, qkv, projection, feed-forward; the head is tied."""
    C, V, T = 128, 65, 64
    block = 2 * C + 3 * C * C + C * C + 2 * 4 * C * C
    assert sum(p.size for p in make(CHAR_SMALL).parameters()) == 804_096
    assert 4 * block + V * C + T * C + C == 804_096


def test_gpt_parameters_have_gpt2s_names():
    names = [name for name, _ in make().named_parameters()]
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    inside = [f"h.{i}.{part}.weight" for i in range(2) for part in block]
    assert names == ["wte.weight", "wpe.weight", *inside, "ln_f.weight"]
    biases = [n for n, _ in GPT(GPTConfig(n_layer=1, bias=True)).named_parameters() if "bias" in n]
    assert biases == [f"h.0.{part}.bias" for part in block] + ["ln_f.bias"]


def test_gpt_weights_start_as_in_gpt2():
    """0.02, and 0.02/√(2 n_layer) for what ends a residual branch; 4 %, of 8,000 draws or more."""
    for name, p in make(CHAR_SMALL).named_parameters():
        if p.ndim == 2:
            std = 0.02 / np.sqrt(2 * 4) if name.endswith("c_proj.weight") else 0.02
            assert p.data.std() == pytest.approx(std, rel=0.04), name
        else:
            np.testing.assert_array_equal(p.data, 1)


def test_gpt_loss_at_the_start_is_a_uniform_guess():
    """ln 65 = 4.174; the tied embedding's logits have a variance of 128 · 0.02² = 0.05."""
    _, loss = make(CHAR_SMALL)(*batch(CHAR_SMALL, B=12))
    assert loss.item() == pytest.approx(np.log(65), abs=0.1)
    assert loss.dtype == np.float32


def test_gpt_is_decided_by_its_rng():
    a, b, c = (make(seed=s).state_dict() for s in (1, 1, 2))
    assert all((a[k] == b[k]).all() for k in a)
    assert not all((a[k] == c[k]).all() for k in a)


@pytest.mark.parametrize("t", range(1, TINY.block_size))
def test_gpt_logits_do_not_depend_on_later_tokens(t):
    model, ids = make(), ids_of(TINY, 2, TINY.block_size)
    before = model(ids)[0].data[:, :t]
    ids[:, t:] = (ids[:, t:] + 1) % TINY.vocab_size
    after = model(ids)[0].data
    np.testing.assert_array_equal(after[:, :t], before)
    assert (after[:, t:] != model(np.roll(ids, 1, 1))[0].data[:, t:]).any()


def test_gpt_logits_depend_on_every_earlier_token():
    model, ids = make(), ids_of(TINY, 1, TINY.block_size)
    last = model(ids)[0].data[0, -1]
    for t in range(TINY.block_size):
        changed = ids.copy()
        changed[0, t] = (ids[0, t] + 1) % TINY.vocab_size
        assert (model(changed)[0].data[0, -1] != last).any()


def test_gpt_gradient_matches_central_differences_in_float64():
    """Along one random direction through all parameters; the loss is near 2, so 1e-7 is exact."""
    model, (x, y) = make(GPTConfig(11, 8, 2, 2, 16, bias=True)), batch()
    rng = np.random.default_rng(3)
    for p in model.parameters():
        p.data = rng.normal(0, 0.3, p.shape)
    model(x, y)[1].backward()
    directions = [rng.standard_normal(p.shape) for p in model.parameters()]
    along = sum(np.sum(p.grad * d) for p, d in zip(model.parameters(), directions, strict=True))

    def loss(step):
        for p, d in zip(model.parameters(), directions, strict=True):
            p.data = p.data + step * d
        return model(x, y)[1].item()

    eps = 1e-5
    above = loss(eps)
    below = loss(-2 * eps)
    assert along == pytest.approx((above - below) / (2 * eps), rel=1e-6)


def test_gpt_refuses_more_tokens_than_its_context():
    with pytest.raises(ValueError, match="9 tokens do not fit block_size 8"):
        make()(ids_of(TINY, 1, 9))


def test_gpt_overfits_one_batch():
    """Its rows start with different tokens, so that they can be learnt by heart."""
    x, y = batch()
    x[:, 0] = np.arange(4)
    losses = train(make(), x, y, 150, lr=1e-2, weight_decay=0.0)
    assert losses[-1] < 0.02 < 2 < losses[0]


def test_gpt_loss_curve_is_the_recorded_one():
    """Recorded on x86-64; its targets and NumPy differ by 2e-7 of it, 1e-5 is allowed."""
    losses = train(make(), *batch(), 10, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)
    recorded = [
        2.398932, 2.329498, 2.278299, 2.238562, 2.203046,
        2.170926, 2.139641, 2.105975, 2.073020, 2.041644,
    ]  # fmt: skip
    np.testing.assert_allclose(losses, recorded, rtol=1e-5)


def test_gpt_with_dropout_needs_and_uses_the_models_rng():
    config = GPTConfig(11, 8, 1, 2, 16, dropout=0.2)
    x, y = batch(config)
    a, b = (make(config) for _ in range(2))
    assert a(x, y)[1].item() == b(x, y)[1].item()  # the same seed, the same masks
    assert a(x, y)[1].item() != a(x, y)[1].item()
    assert a.eval()(x, y)[1].item() == a(x, y)[1].item()


# Generation.


def generate_slowly(model, prompt, n_tokens, temperature, top_k, top_p, rng):
    """Without a cache: the whole window again for each token."""
    ids = list(prompt)
    with ml.no_grad():
        for _ in range(n_tokens):
            logits, _ = model(np.array([ids[-model.config.block_size :]]))
            ids.append(choose(logits.data[0, -1], temperature, top_k, top_p, rng))
    return np.array(ids)


@pytest.fixture(scope="module")
def trained():
    """A few steps in, so that it has opinions and no two tokens are about equally likely."""
    model = make()
    train(model, *batch(), 30, lr=1e-2)
    return model


@pytest.mark.parametrize("n_prompt", [1, 5, 8, 12])
@pytest.mark.parametrize(
    "how", [(0, None, None), (1.0, None, None), (0.7, 5, None), (1.3, None, 0.8), (1.0, 4, 0.9)]
)
def test_generate_with_the_cache_is_generate_without(trained, n_prompt, how):
    """Prompts below, at and above the context of 8; 20 tokens run past it."""
    prompt = ids_of(TINY, 1, n_prompt)[0]
    fast = trained.generate(prompt, 20, *how, rng=np.random.default_rng(7))
    slow = generate_slowly(trained, prompt, 20, *how, np.random.default_rng(7))
    np.testing.assert_array_equal(fast, slow)
    assert fast.dtype == np.int64


def test_generate_costs_one_position_a_token_within_the_context(trained, monkeypatch):
    """A prompt of 3 in a context of 8: the prompt, five more, then the window at each step."""
    fed, forward, decode = [], GPT.forward, kernels.decode

    def spy(self, ids, *args, **kwargs):
        fed.append(ids.shape[-1])
        return forward(self, ids, *args, **kwargs)

    def one(x, *args):
        fed.append(len(x))
        return decode(x, *args)

    monkeypatch.setattr(GPT, "forward", spy)
    monkeypatch.setattr(kernels, "decode", one)
    trained.generate(ids_of(TINY, 1, 3)[0], 8, rng=np.random.default_rng(0))
    assert fed == [3, 1, 1, 1, 1, 1, 8, 8]


def test_generate_from_one_token_needs_no_forward_within_the_context(trained, monkeypatch):
    def forward(*args, **kwargs):
        raise AssertionError("a whole forward")

    monkeypatch.setattr(GPT, "forward", forward)
    assert len(trained.generate(np.array([1]), 8)) == 9
    with pytest.raises(AssertionError, match="a whole forward"):
        trained.generate(np.array([1]), 9)


def test_generate_keeps_the_prompts_axes(trained):
    prompt = ids_of(TINY, 1, 3)
    flat = trained.generate(prompt[0], 4, rng=np.random.default_rng(0))
    assert flat.shape == (7,)
    nested = trained.generate(prompt, 4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(nested, flat[None])
    np.testing.assert_array_equal(trained.generate(prompt[0], 0), prompt[0])


def test_generate_leaves_the_mode_and_the_graph_alone(trained):
    for training in (True, False):
        trained.train(training)
        trained.generate(np.array([1]), 2)
        assert all(m.training == training for m in trained.modules())
    trained.train()
    stream = trained.stream(np.array([1]), 5)
    next(stream)
    stream.close()
    assert all(m.training for m in trained.modules())
    assert all(p.grad is None for p in trained.parameters())


def test_generate_refuses_an_empty_prompt(trained):
    with pytest.raises(ValueError, match="at least one token"):
        trained.generate(np.array([], int), 1)


def test_gpt_logits_with_caches_in_pieces_are_those_at_once(trained):
    ids = ids_of(TINY, 3, 8)
    caches = [ml.nn.KeyValueCache(8) for _ in range(TINY.n_layer)]
    with ml.no_grad():
        pieces = [trained(part, caches=caches)[0].data for part in np.split(ids, [3, 4, 6], 1)]
        whole = trained(ids)[0].data
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-4, atol=1e-5)
