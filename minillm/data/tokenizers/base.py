"""What every tokenizer shares: a token is a string of bytes, and decoding joins them."""

import codecs
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from minillm.errors import UserError

Unknown = Literal["error", "replace"]


class Tokenizer(ABC):
    """Text ↔ ids in [0, vocab_size). `tokens[i]` is the UTF-8, or a piece of it, of the id i."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens

    @property
    def vocab_size(self) -> int:
        """The number of ids, V."""
        return len(self.tokens)

    @abstractmethod
    def encode(self, text: str, unknown: Unknown = "error") -> np.ndarray:
        """text → ids: (N,) int64. What the vocabulary lacks is an error, or replaced."""

    @abstractmethod
    def to_json(self) -> str:
        """The text of tokenizer.json, from which load_tokenizer makes an equal tokenizer."""

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """ids: (N,) → the bytes of these tokens, joined.

        Raises: ValueError where an id is outside [0, V).
        """
        ids = np.asarray(ids)
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise ValueError(f"decode: ids must be in [0, {self.vocab_size}), got {outside[0]}")
        return b"".join([self.tokens[i] for i in ids.tolist()])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """ids: (N,) → text, with U+FFFD for bytes that are no UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self) -> "TextStream":
        """A decoder for tokens that come one at a time."""
        return TextStream(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json."""
        Path(path).write_bytes(self.to_json().encode())


class TextStream:
    """Decodes tokens as they come. A character split across tokens appears once it is whole.

    The texts returned, and the one of flush() at the end, join to tokenizer.decode(all ids).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, token: int) -> str:
        """The characters that this token completes, perhaps none."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """What is left when no more tokens come: '', or U+FFFD for an unfinished character."""
        return self._decoder.decode(b"", final=True)


def unknown_character(text: str, position: int) -> UserError:
    """The one-line error for a character that the vocabulary lacks."""
    char = text[position]
    return UserError(
        f"unknown character {char!r} (U+{ord(char):04X}) at position {position}: "
        "leave it out, or pass --unknown replace"
    )


def check_surrogates(text: str) -> None:
    """Raises: UserError where text has a lone surrogate, which no UTF-8 file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unknown_character(text, error.start) from None
