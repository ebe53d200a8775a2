"""What a training step holds in memory, predicted from the shapes of a GPT.

`operations` is the one table to change when an operation comes to save something else: an entry for
each operation in order of the forward pass, in numbers of 4 bytes. With R = B T rows, C = n_embd,
V = vocab_size, H = n_head:

    saved       what its vjp keeps until backward, counted where the array is kept first: a linear
                layer keeps its input (R, C), which layer norm made; attention keeps q, k and v, its
                output and a log Σ exp for each row and head. Token ids are int64.
    out         its result, whose gradient dy backward begins with
    dx          the gradients that backward makes for its inputs, and between its parts
    gradient    those that it makes for parameters, which stay
    waiting     gradients that wait meanwhile for another operation: that of the residual stream
    stays       what the caller holds until the step is over, although backward has passed here

Backward of operation i holds parameters and state, what operations 0 … i saved, the gradients of
parameters from i on, dy, dx and what waits; the largest such sum is the peak. Forward holds less:
backward begins with all that it saved, and adds gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from minillm.models import GPTConfig, cost

BYTES = 4  # of a float32
ID = 2  # an int64 takes so many times 4 bytes


@dataclass(frozen=True)
class Operation:
    """One entry of the table; layer: "wte", "h.0", …; name: as autograd calls it."""

    layer: str
    name: str
    saved: int
    out: int
    dx: int = 0
    gradient: int = 0
    waiting: int = 0
    stays: int = 0


@dataclass(frozen=True)
class Prediction:
    """Bytes.  alive: saved and gradients at the peak; activations: (layer, operation) → bytes."""

    parameters: int
    gradients: int
    state: int
    activations: dict[tuple[str, str], int]
    alive: int
    peak: int

    @property
    def temporaries(self) -> int:
        """What the peak holds besides everything that has a name."""
        return self.peak - self.parameters - self.state - self.alive


def operations(config: GPTConfig, B: int, T: int) -> list[Operation]:
    """The table."""
    R, C, V = B * T, config.n_embd, config.vocab_size
    table = [
        Operation("wte", "embedding", ID * R, R * C, gradient=V * C),
        Operation("wpe", "embedding", ID * T, T * C, gradient=config.block_size * C),
        Operation("wpe", "add", R * C + T * C, R * C, dx=T * C),
        *([Operation("wpe", "dropout", R * C, R * C, R * C)] if config.dropout else []),
    ]
    for i in range(config.n_layer):
        table += _block(config, f"h.{i}", B, T)
    gains = 2 * C if config.bias else C
    return [
        *table,
        Operation("ln_f", "layer_norm", R * C + 2 * R, R * C, R * C, gains),
        Operation("wte", "linear", R * C, R * V, R * C, V * C),
        Operation("wte", "reshape", R * V, R * V, stays=R * V),
        Operation("wte", "cross_entropy", 2 * R + ID * R, 1, R * V),
    ]


def _block(config: GPTConfig, layer: str, B: int, T: int) -> list[Operation]:
    """x + attention(norm(x)), then x + feed-forward(norm(x)); x waits while a branch runs."""
    R, C, H = B * T, config.n_embd, config.n_head
    one = int(config.bias)
    x, gains = R * C, C + one * C
    dropped = [Operation(layer, "dropout", x, x, x), Operation(layer, "add", x, x)]
    residual = dropped if config.dropout else []  # without dropout the products add it
    apart = x if config.dropout else 0  # and dy of a branch is the very array that waits
    return [
        Operation(layer, "layer_norm", x + 2 * R, x, x, gains, x),
        Operation(layer, "linear", x, 3 * x, x, 3 * C * C + one * 3 * C, x),
        Operation(layer, "self_attention", 4 * x + R * H, x, 3 * x, 0, x),
        # The next one's input is attention's output, kept already.
        Operation(layer, "linear", 0, x, x, C * C + one * C, apart),
        *residual,
        Operation(layer, "layer_norm", x + 2 * R, x, x, gains, x),
        # Its input; GELU's result and slope, four times as wide, as is the gradient between.
        Operation(layer, "feed_forward", 9 * x, x, 5 * x, 8 * C * C + one * 5 * C, apart),
        *residual,
    ]


def predict(config: GPTConfig, B: int, T: int) -> Prediction:
    """The memory of a step of AdamW, which has two numbers of state for each parameter."""
    parameters = BYTES * cost.parameters(config)
    activations: dict[tuple[str, str], int] = {}
    table = operations(config, B, T)
    for op in table:
        key = op.layer, op.name
        activations[key] = activations.get(key, 0) + BYTES * op.saved
    saved, gradients, stays, highest = sum(op.saved for op in table), 0, 0, (0, 0)
    tied = False
    for op in reversed(table):
        if op.gradient and not (op.layer == "wte" and tied):  # the second is added in place
            gradients += op.gradient
            tied = tied or op.layer == "wte"
        alive = saved + gradients
        highest = max(highest, (alive + op.out + op.dx + op.waiting + stays, alive))
        saved -= op.saved
        stays += op.stays
    peak, alive = (BYTES * n for n in highest)
    state = 2 * parameters
    return Prediction(
        parameters, BYTES * gradients, state, activations, alive, parameters + state + peak
    )
