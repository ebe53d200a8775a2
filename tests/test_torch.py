"""The same names and arguments in PyTorch: values, gradients, optimizers, a whole training run.

Skipped where torch is not installed. Both sides compute in float64 but for the training run.
"""

import pydoc_data.topics

import numpy as np
import pytest

import minillm as ml
import minillm.functional as F
from minillm import optim
from minillm.models import GPT, GPTConfig

torch = pytest.importorskip("torch")
TF = torch.nn.functional
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape)


def positive(*shape):
    return rng.uniform(0.5, 2, shape)


def log_p(*shape):
    return np.log(rng.dirichlet(np.ones(shape[-1]), shape[:-1]))


def heads(T=4, S=6, D=5, width=5):
    return normal(2, 3, T, D), normal(2, 3, S, D), normal(2, 3, S, width)


def same(name, *arrays, **options):
    """One case whose call is the same on both sides."""
    mine = getattr(F, name)
    theirs = getattr(TF, name, None) or getattr(torch, name)
    extra = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return pytest.param(
        lambda *xs: mine(*xs, **options), lambda *xs: theirs(*xs, **extra), arrays, id=name
    )


def pair(name, mine, theirs, *arrays):
    return pytest.param(mine, theirs, arrays, id=name)


TARGETS = np.array([1, 0, -100, 3])
IDS = np.array([[0, 2, 2], [1, 2, 0]])
MASK = rng.random((4, 6)) < 0.6
MASK[1] = False  # a query that sees nothing
P = np.array([[0.3, 0, 0.7], [1, 0, 0]])
ADDED = np.where(MASK, normal(4, 6), -np.inf)


def losses(name, *arrays, **options):
    """One case for each reduction; the targets come second, as a constant."""
    x, targets = arrays
    t = torch.tensor(targets)
    return [
        pair(
            f"{name}-{r}",
            lambda x, r=r: getattr(F, name)(x, targets, reduction=r, **options),
            lambda x, r=r: getattr(TF, name)(x, t, reduction=r, **options),
            x,
        )
        for r in ("mean", "sum", "none")
    ]


CASES = [
    *[same(name, normal(3, 4), normal(4)) for name in ("add", "sub", "mul")],
    same("div", normal(2, 1, 3), positive(4, 1)),
    same("pow", positive(3, 4), normal(4)),
    pair("pow-0", lambda x: x**0, lambda x: x**0, np.array([0.0, 1, -2])),
    pair("pow-2", lambda x: x**2, lambda x: x**2, np.array([0.0, 1, -2])),
    pair("rpow", lambda x: 2**x, lambda x: 2**x, normal(3)),
    *[
        same(name, normal(3, 4))
        for name in ("neg", "exp", "tanh", "sigmoid", "erf", "relu", "silu")
    ],
    *[same(name, positive(3, 4)) for name in ("log", "sqrt")],
    same("relu", np.array([0.0, -0.0, 1, -1])),
    same("gelu", 3 * normal(4, 5)),
    same("gelu", 3 * normal(4, 5), approximate="tanh"),
    *[
        same("matmul", normal(*a), normal(*b))
        for a, b in [
            ((2, 3), (3, 4)),
            ((3,), (3,)),
            ((3,), (5, 3, 4)),
            ((5, 2, 3), (3,)),
            ((5, 1, 2, 3), (6, 3, 4)),
            ((2, 0), (0, 3)),
        ]
    ],
    same("linear", normal(2, 5, 3), normal(4, 3), normal(4)),
    *[same(f, normal(2, 3, 4), dim=d) for f in ("sum", "mean", "var") for d in (1, (0, 2), -1)],
    same("sum", normal(2, 3), dim=0, keepdim=True),
    same("var", normal(2, 7), dim=1, correction=0, keepdim=True),
    same("max", np.array([[1.0, 3], [3, 2]])),
    *[
        pair(
            f"max-{d}",
            lambda x, d=d: F.max(x, d)[0],
            lambda x, d=d: torch.max(x, d)[0],
            normal(3, 4),
        )
        for d in (0, 1, -1)
    ],
    same("reshape", normal(2, 6), shape=(3, -1)),
    same("permute", normal(2, 3, 4), dims=(2, 0, 1)),
    same("transpose", normal(2, 3, 4), dim0=0, dim1=-1),
    pair("expand", lambda x: x.expand(4, 2, -1), lambda x: x.expand(4, 2, -1), normal(2, 1)),
    pair(
        "cat",
        lambda *x: F.cat(x, dim=1),
        lambda *x: torch.cat(x, dim=1),
        normal(2, 3),
        normal(2, 1),
    ),
    pair(
        "stack",
        lambda *x: F.stack(x, -1),
        lambda *x: torch.stack(x, -1),
        normal(2, 3),
        normal(2, 3),
    ),
    pair("split", lambda x: F.split(x, 3)[1], lambda x: torch.split(x, 3)[1], normal(5, 2)),
    pair(
        "split", lambda x: F.split(x, [1, 4])[1], lambda x: torch.split(x, [1, 4])[1], normal(5, 2)
    ),
    *[
        pair(f"getitem-{i}", lambda x, i=i: x[i], lambda x, i=i: x[i], normal(3, 4, 5))
        for i in [1, np.s_[::2, 1:, None], np.s_[..., -1], [0, 0, 2], ([0, 0], slice(None), [1, 1])]
    ],
    pair(
        "where",
        lambda x, y: F.where(MASK[0], x, y),
        lambda x, y: torch.where(torch.tensor(MASK[0]), x, y),
        normal(3, 6),
        normal(6),
    ),
    same("masked_fill", normal(4, 6), mask=MASK, value=-1.5),
    same("gather", normal(3, 4), dim=1, index=np.array([[0, 0, 3], [1, 1, 1]])),
    pair(
        "embedding",
        lambda w: F.embedding(IDS, w),
        lambda w: TF.embedding(torch.tensor(IDS), w),
        normal(4, 3),
    ),
    *[same(f, 5 * normal(2, 3, 4), dim=d) for f in ("softmax", "log_softmax") for d in (0, 1, -1)],
    *[
        same(f, np.array([[-np.inf] * 3, [np.inf, 1, 2], [np.nan, 1, 2], [-np.inf, 1, 2]]), dim=-1)
        for f in ("softmax", "log_softmax")
    ],
    same("layer_norm", normal(3, 5), normalized_shape=(5,)),
    pair(
        "layer_norm-affine",
        lambda x, w, b: F.layer_norm(x, (2, 3), w, b, 1e-3),
        lambda x, w, b: TF.layer_norm(x, (2, 3), w, b, 1e-3),
        normal(4, 2, 3),
        normal(2, 3),
        normal(2, 3),
    ),
    same("scaled_dot_product_attention", *heads()),
    same("scaled_dot_product_attention", *heads(width=3), scale=0.3),
    same("scaled_dot_product_attention", *heads(T=6), is_causal=True),
    same("scaled_dot_product_attention", *heads(T=3), is_causal=True),
    same("scaled_dot_product_attention", *heads(T=7), is_causal=True),
    same("scaled_dot_product_attention", *heads(), attn_mask=MASK),
    same("scaled_dot_product_attention", *heads(), attn_mask=ADDED),
    *losses("cross_entropy", 3 * normal(4, 5), TARGETS),
    *losses("cross_entropy", 3 * normal(4, 5), TARGETS, label_smoothing=0.2),
    *losses("cross_entropy", 3 * normal(4, 5), np.array([1, 0, 2, 3]), ignore_index=2),
    *losses("cross_entropy", 3 * normal(4, 5), np.full(4, -100)),
    *losses("nll_loss", log_p(4, 5), TARGETS),
    *losses("nll_loss", log_p(4, 5), np.full(4, -100)),
    *[same("mse_loss", normal(3, 4), normal(3, 4), reduction=r) for r in ("mean", "sum", "none")],
    *[
        pair(
            f"kl_div-{r}",
            lambda q, r=r: F.kl_div(q, P, reduction=r),
            lambda q, r=r: TF.kl_div(q, torch.tensor(P), reduction=r),
            log_p(2, 3),
        )
        for r in ("sum", "none", "batchmean")
    ],
    same("kl_div", log_p(2, 3), positive(2, 3), reduction="sum"),
    same("kl_div", log_p(2, 3), log_p(2, 3), reduction="sum", log_target=True),
]


@pytest.mark.parametrize(("mine", "theirs", "arrays"), CASES)
def test_functional_agrees_with_torch(mine, theirs, arrays):
    xs = [ml.Tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = mine(*xs), theirs(*ts)
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-9, atol=1e-12)

    cotangent = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(cotangent)
    z.backward(torch.tensor(cotangent))
    for x, t in zip(xs, ts, strict=True):
        np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_float_attention_mask_has_torchs_gradient():
    q, k, v, mask = *heads(), normal(4, 6)
    mine, theirs = ml.Tensor(mask, requires_grad=True), torch.tensor(mask, requires_grad=True)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mine)
    z = TF.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), attn_mask=theirs)
    cotangent = normal(*y.shape)
    y.backward(cotangent)
    z.backward(torch.tensor(cotangent))
    np.testing.assert_allclose(mine.grad, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


# Optimizers.

OPTIMIZERS = {
    "sgd": (lambda p: optim.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    ),
    "adam": (
        lambda p: optim.Adam(p, 0.1, betas=(0.8, 0.95), eps=1e-6),
        lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.95), eps=1e-6),
    ),
    "adamw": (
        lambda p: optim.AdamW(p, 0.1, betas=(0.9, 0.99), weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1, betas=(0.9, 0.99), weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_agrees_with_torch(name, dtype):
    """On a matrix (PyTorch decays vectors too), with gradients clipped to the same norm."""
    start = normal(5, 7).astype(dtype)
    x = ml.Tensor(start.copy(), requires_grad=True)
    t = torch.tensor(start, requires_grad=True)
    mine, theirs = OPTIMIZERS[name]
    mine, theirs = mine([x]), theirs([t])
    for _ in range(20):
        g = (3 * normal(5, 7)).astype(dtype)
        x.grad, t.grad = g.copy(), torch.tensor(g)
        a = optim.clip_grad_norm_([x], 10.0)
        b = torch.nn.utils.clip_grad_norm_([t], 10.0)
        assert a == pytest.approx(b.item(), rel=1e-5)
        mine.step()
        theirs.step()
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(x.data, t.detach().numpy(), rtol=rtol, atol=rtol / 10)


# Training: char-small from the same weights, on the same batches.


class Twin(torch.nn.Module):
    """The GPT in PyTorch, with our parameters' names and values."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config
        self.p = torch.nn.ParameterDict(
            {n.replace(".", "_"): torch.tensor(a.copy()) for n, a in model.state_dict().items()}
        )

    def norm(self, x, name):
        return TF.layer_norm(x, x.shape[-1:], self.p[f"{name}_weight"])

    def linear(self, x, name):
        return TF.linear(x, self.p[f"{name}_weight"])

    def forward(self, ids, targets):
        (B, T), H, C = ids.shape, self.config.n_head, self.config.n_embd
        x = TF.embedding(ids, self.p["wte_weight"]) + self.p["wpe_weight"][:T]
        for i in range(self.config.n_layer):
            qkv = self.linear(self.norm(x, f"h_{i}_ln_1"), f"h_{i}_attn_c_attn")
            q, k, v = (a.view(B, T, H, C // H).transpose(1, 2) for a in qkv.split(C, -1))
            y = TF.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.linear(y.transpose(1, 2).reshape(B, T, C), f"h_{i}_attn_c_proj")
            y = TF.gelu(self.linear(self.norm(x, f"h_{i}_ln_2"), f"h_{i}_mlp_c_fc"))
            x = x + self.linear(y, f"h_{i}_mlp_c_proj")
        logits = self.linear(self.norm(x, "ln_f"), "wte")
        return TF.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    def optimizer(self, **options):
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        vectors = [p for p in self.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, **options)


def batches(steps, config, B=12):
    """Of Python's own documentation, its 64 commonest characters and one for the rest."""
    text = "".join(pydoc_data.topics.topics.values())[:200_000]
    common = sorted(set(text), key=lambda c: (-text.count(c), c))[: config.vocab_size - 1]
    ids = np.array([common.index(c) if c in common else config.vocab_size - 1 for c in text])
    draw = np.random.default_rng(1)
    for _ in range(steps):
        starts = draw.integers(0, len(ids) - config.block_size - 1, B)
        window = ids[starts[:, None] + np.arange(config.block_size + 1)]
        yield window[:, :-1], window[:, 1:]


def test_char_small_learns_as_its_torch_twin_does():
    """100 steps of nanoGPT's recipe: every loss within 1e-4, relative.

    On one thread each: two pools of OpenMP threads would wait for each other's cores.
    """
    torch.set_num_threads(1)
    ml.kernels.set_num_threads(1)
    config = GPTConfig()
    model = GPT(config, np.random.default_rng(1337))
    twin = Twin(model)
    mine = optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1)
    theirs = twin.optimizer(lr=1e-3, betas=(0.9, 0.99))
    schedule = optim.cosine_with_warmup(1e-3, 1e-4, 100, 2000)
    a, b = [], []
    for i, (x, y) in enumerate(batches(100, config)):
        mine.lr = theirs.param_groups[0]["lr"] = theirs.param_groups[1]["lr"] = schedule(i)
        _, loss = model(x, y)
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        mine.step()
        mine.zero_grad()
        a.append(loss.item())

        loss = twin(torch.tensor(x), torch.tensor(y))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        theirs.step()
        theirs.zero_grad()
        b.append(loss.item())
    assert a[-1] < a[0] - 1  # it did learn
    np.testing.assert_allclose(a, b, rtol=1e-4)
