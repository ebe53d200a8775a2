"""Settings of a training run: presets, a TOML file and flags become one frozen `TrainConfig`.

Every setting is described once, as a field of `TrainConfig`: its default, its bounds and its help.
The command line makes its flags from these fields, and `config.toml` is written from them. The
presets char-small and char-baby follow nanoGPT (config/train_shakespeare_char.py and its README).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from minillm.errors import UserError


def _setting(
    default: object,
    help: str,
    *,
    minimum: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    choices: tuple[str, ...] = (),
    fixed: bool = False,
) -> typing.Any:
    """A field with its help and its bounds: minimum ≤ value, above < value < below.

    fixed: a run that is resumed cannot change it, because the parameters or the data depend on it.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "below": below,
        "choices": choices,
        "fixed": fixed,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run; the defaults are the preset char-small.

    Raises: UserError, naming the flag, if a value has the wrong type or is out of bounds.
    """

    preset: str = _setting("char-small", "the preset that the settings started from", fixed=True)
    corpus: str = _setting(
        "", "text file, directory or name; empty: the best one installed", fixed=True
    )
    tokenizer: str = _setting(
        "char", "char, or bpe (trained on the corpus)", choices=("char", "bpe"), fixed=True
    )
    vocab_size: int = _setting(
        1024, "size of the BPE vocabulary (char counts its own)", minimum=257, fixed=True
    )
    seed: int = _setting(
        1337, "of parameters, batches, dropout and the sample", minimum=0, fixed=True
    )

    n_layer: int = _setting(4, "transformer blocks", minimum=1, fixed=True)
    n_head: int = _setting(4, "attention heads in a block", minimum=1, fixed=True)
    n_embd: int = _setting(128, "channels", minimum=1, fixed=True)
    block_size: int = _setting(64, "context, in tokens", minimum=1, fixed=True)
    bias: bool = _setting(False, "biases in linear layers and LayerNorm", fixed=True)
    dropout: float = _setting(0.0, "probability of dropping an activation", minimum=0, below=1)

    batch_size: int = _setting(12, "sequences in a batch", minimum=1)
    grad_accumulation: int = _setting(1, "batches whose gradients make one update", minimum=1)
    max_iters: int = _setting(2000, "updates in all", minimum=1)
    learning_rate: float = _setting(1e-3, "the highest, reached after the warm-up", above=0)
    min_lr: float = _setting(1e-4, "the lowest, reached at max_iters along a cosine", minimum=0)
    warmup_iters: int = _setting(100, "updates over which the rate climbs from 0", minimum=0)
    weight_decay: float = _setting(0.1, "AdamW's, on matrices only", minimum=0)
    beta1: float = _setting(0.9, "AdamW's decay of the mean of gradients", minimum=0, below=1)
    beta2: float = _setting(0.99, "AdamW's decay of the mean square", minimum=0, below=1)
    grad_clip: float = _setting(1.0, "largest norm of the gradient; 0: no limit", minimum=0)

    eval_interval: int = _setting(250, "updates between evaluations and checkpoints", minimum=1)
    eval_iters: int = _setting(20, "batches of each split in an evaluation", minimum=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _of_type(field.name, getattr(self, field.name), TYPES[field.name])
            _check_bounds(field, value)
            object.__setattr__(self, field.name, value)  # a whole number given for a float
        if self.n_embd % self.n_head:
            raise UserError(
                f"--n-embd {self.n_embd} cannot be divided among --n-head {self.n_head} heads; "
                f"try --n-embd {-(-self.n_embd // self.n_head) * self.n_head}"
            )
        if self.min_lr > self.learning_rate:
            raise UserError(
                f"--min-lr {self.min_lr} is above --learning-rate {self.learning_rate}; lower it"
            )

    def architecture(self) -> dict[str, typing.Any]:
        """The arguments of `GPTConfig`, all but vocab_size, which the tokenizer knows."""
        names = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
        return {name: getattr(self, name) for name in names}


TYPES: dict[str, type] = {
    name: {"str": str, "int": int, "float": float, "bool": bool}[annotation]
    for name, annotation in TrainConfig.__annotations__.items()
}

# What each preset changes in the defaults.
PRESETS: dict[str, dict[str, typing.Any]] = {
    "char-small": {},
    "char-mid": {
        "n_layer": 6,
        "n_head": 8,
        "n_embd": 256,
        "block_size": 128,
        "batch_size": 8,
        "max_iters": 3000,
    },
    "char-baby": {
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 384,
        "block_size": 256,
        "batch_size": 64,
        "dropout": 0.2,
        "max_iters": 5000,
    },
    "gpt2-124m": {
        "tokenizer": "bpe",
        "vocab_size": 50257,
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "block_size": 1024,
        "bias": True,
        "batch_size": 4,
        "max_iters": 600_000,
        "learning_rate": 6e-4,
        "min_lr": 6e-5,
        "warmup_iters": 2000,
        "beta2": 0.95,
        "eval_interval": 1000,
    },
}


def flag(name: str) -> str:
    """The setting n_layer as the command line spells it: --n-layer."""
    return "CORPUS" if name == "corpus" else "--" + name.replace("_", "-")


def resolve(
    preset: str | None = None,
    file: str | Path | None = None,
    flags: dict[str, typing.Any] | None = None,
) -> TrainConfig:
    """The settings of a new run: the preset, over it the TOML file, over both the flags.

    preset: a name in PRESETS; None: the one the file names, else char-small
    Raises: UserError if the preset or a key of the file does not exist, or a value is not allowed.
    """
    settings = _read_toml(Path(file)) if file else {}
    preset = preset or settings.get("preset", "char-small")
    if preset not in PRESETS:
        raise UserError(f"--preset {preset!r} does not exist; there are {', '.join(PRESETS)}")
    return TrainConfig(**PRESETS[preset] | settings | (flags or {}) | {"preset": preset})


def resume(saved: TrainConfig, flags: dict[str, typing.Any]) -> TrainConfig:
    """The settings of a resumed run: its own, with what the flags may still change.

    Raises: UserError if a flag changes what the parameters or the data depend on.
    """
    for field in dataclasses.fields(TrainConfig):
        own = getattr(saved, field.name)
        if field.metadata["fixed"] and flags.get(field.name, own) != own:
            raise UserError(
                f"{flag(field.name)} cannot change on --resume: the run has {own!r}; "
                "leave it out, or start a new run"
            )
    return dataclasses.replace(saved, **flags)


def read(path: str | Path) -> TrainConfig:
    """The settings in a TOML file that `to_toml` wrote; what it leaves out has its default.

    Raises: UserError if the file is missing, damaged, or holds a key or value that is not allowed.
    """
    return TrainConfig(**_read_toml(Path(path)))


def to_toml(config: TrainConfig) -> str:
    """The settings as TOML: one line for each, with its help as a comment."""
    lines = []
    for field in dataclasses.fields(config):
        # JSON writes text, numbers, true and false as TOML does, but for the character DEL.
        value = json.dumps(getattr(config, field.name), ensure_ascii=False)
        value = value.replace("\x7f", "\\u007f")
        lines.append(f"{field.name} = {value}".ljust(32) + f"  # {field.metadata['help']}")
    return "\n".join(lines) + "\n"


def _read_toml(path: Path) -> dict[str, typing.Any]:
    """The keys and values of a TOML file, every key a setting."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the settings: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None
    unknown = [_with_close_match(key) for key in settings if key not in TYPES]
    if unknown:
        raise UserError(f"{path}: unknown setting: {', '.join(unknown)}")
    return settings


def _with_close_match(key: str) -> str:
    close = difflib.get_close_matches(key, TYPES, n=1)
    return f"{key} (did you mean {close[0]}?)" if close else key


def _of_type(name: str, value: object, kind: type) -> typing.Any:
    """The value as `kind`; only a whole number may stand for a float."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wanted = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise UserError(f"{flag(name)} must be {wanted[kind]}, got {value!r}")
    return value


def _check_bounds(field: dataclasses.Field, value: typing.Any) -> None:
    """Raises: UserError if the value is outside the bounds that its field was given."""
    bounds = field.metadata
    if bounds["choices"] and value not in bounds["choices"]:
        raise UserError(f"{flag(field.name)} must be {' or '.join(bounds['choices'])}: {value!r}")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{flag(field.name)} must be valid Unicode, got {value!r}")
    if isinstance(value, str | bool):
        return
    if not (math.isfinite(value) and value >= bounds["minimum"]):
        limit = f"at least {bounds['minimum']}" if math.isfinite(value) else "finite"
        raise UserError(f"{flag(field.name)} must be {limit}, got {value}")
    if not bounds["above"] < value < bounds["below"]:
        limit = "above {above}" if value <= bounds["above"] else "below {below}"
        raise UserError(f"{flag(field.name)} must be {limit.format_map(bounds)}, got {value}")
