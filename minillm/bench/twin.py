"""The GPT in plain PyTorch, with what it has fastest: the peer of `bench train` and `decode`.

Fused attention, AdamW(fused=True), gradients set to None. It has the weights of our model under
the same names. torch is an argument, so that importing this imports no PyTorch.

It trains in a process of its own, as its users run it: in ours it would profit from what
kernels.keep_memory() asks of malloc (500 to 700 page faults a step at char-small without, 10 with;
a tenth of the time). `python -m minillm.bench.twin` is that process: it takes {"threads",
"workload"} as JSON and, for each line on its standard input, takes a step and writes the loss.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

from minillm.bench.workload import Workload
from minillm.errors import UserError
from minillm.models import GPT

# A module of PyTorch is a class made inside a function, as its base class is only known there.


def build(torch: Any, model: GPT) -> Any:
    """The twin of the model: forward(ids) → logits (B, T, V)."""
    nn, F, c = torch.nn, torch.nn.functional, model.config
    C = c.n_embd

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(C, 3 * C, bias=c.bias)
            self.c_proj = nn.Linear(C, C, bias=c.bias)

        def forward(self, x):
            B, T, _ = x.shape
            heads = self.c_attn(x).view(B, T, 3, c.n_head, C // c.n_head)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, n_head, T, head_dim) each
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    class FeedForward(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_fc = nn.Linear(C, 4 * C, bias=c.bias)
            self.c_proj = nn.Linear(4 * C, C, bias=c.bias)

        def forward(self, x):
            return self.c_proj(F.gelu(self.c_fc(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = (nn.LayerNorm(C, bias=c.bias) for _ in range(2))
            self.attn, self.mlp = Attention(), FeedForward()

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(c.vocab_size, C)
            self.wpe = nn.Embedding(c.block_size, C)
            self.h = nn.ModuleList(Block() for _ in range(c.n_layer))
            self.ln_f = nn.LayerNorm(C, bias=c.bias)

        def forward(self, ids, last_only=False):
            x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
            for block in self.h:
                x = block(x)
            x = self.ln_f(x[:, -1:] if last_only else x)
            return F.linear(x, self.wte.weight)

    twin = Twin()
    state = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    twin.load_state_dict(state)
    return twin


def step(torch: Any, model: GPT, w: Workload) -> Callable[[], float]:
    """A training step of the model's twin on the workload's batch; returns the loss."""
    F, twin = torch.nn.functional, build(torch, model)
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in twin.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=w.learning_rate, betas=(0.9, w.beta2), fused=True)
    x, y = (torch.tensor(a) for a in w.batch())

    def call() -> float:
        logits = twin(x)
        loss = F.cross_entropy(logits.view(-1, w.vocab_size), y.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return call


def step_elsewhere(w: Workload, threads: int) -> Callable[[], float]:
    """`step` in a process of its own, which ends with the function that is returned."""
    order = json.dumps({"threads": threads, "workload": dataclasses.asdict(w)})
    command = [sys.executable, "-m", "minillm.bench.twin", order]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call() -> float:
        child.stdin.write("step\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        if not answer:
            raise UserError(f"bench train: PyTorch's process ended with code {child.wait()}")
        return float(answer)

    weakref.finalize(call, child.communicate)
    return call


def main() -> None:
    import torch

    order = json.loads(sys.argv[1])
    w = Workload(**order["workload"])
    torch.set_num_threads(order["threads"])
    call = step(torch, GPT(w.model()), w)
    for _ in sys.stdin:
        print(call(), flush=True)


def generate(torch: Any, model: GPT, n: int, top_k: int | None) -> Callable[[], list[int]]:
    """n tokens after token 0 as nanoGPT does it: the whole context again for each of them.

    top_k: None takes the likeliest token.
    """
    twin = build(torch, model).eval()

    def call() -> list[int]:
        ids = torch.zeros((1, 1), dtype=torch.int64)
        with torch.inference_mode():
            for _ in range(n):
                logits = twin(ids, last_only=True)[:, -1]  # (1, V)
                ids = torch.cat((ids, _choose(torch, logits, top_k)), 1)
        return ids[0].tolist()

    return call


def _choose(torch: Any, logits: Any, top_k: int | None) -> Any:
    if top_k is None:
        return logits.argmax(-1, keepdim=True)
    kept, at = torch.topk(logits, min(top_k, logits.shape[-1]))
    return at.gather(1, torch.multinomial(torch.softmax(kept, -1), 1))


if __name__ == "__main__":
    main()
