"""One token for each Unicode code point of the training text (Karpathy, char-rnn, 2015)."""

import json
from itertools import pairwise
from typing import Any

import numpy as np

from minillm.data.tokenizers.base import Tokenizer, Unknown, check_surrogates, unknown_character
from minillm.errors import UserError

UNK = "<unk>"


class CharTokenizer(Tokenizer):
    """Ids number the distinct characters of a text in the order of their code points.

    There is no `<unk>` unless asked for: V is then the number of characters, as in nanoGPT, and
    every row of the embedding is trained. With unknown="replace" a character that the vocabulary
    lacks becomes `<unk>` where there is one, else the first of U+FFFD, '?', ' ' that is there,
    else id 0: a character that the model knows serves it better than a row it never saw.
    """

    def __init__(self, characters: str, unk: bool = False) -> None:
        """characters: sorted and distinct; unk: whether id V − 1 is `<unk>`."""
        super().__init__([char.encode() for char in characters] + [UNK.encode()] * unk)
        self.characters = characters
        self.unk = unk
        codes = _code_points(characters)
        self._id_of = np.full(int(codes[-1]) + 2, -1, np.int64)  # the last is for all above it
        self._id_of[codes] = np.arange(len(codes))
        stand_ins = [characters.index(char) for char in "\ufffd? " if char in characters]
        self.replacement_id = len(characters) if unk else (stand_ins or [0])[0]

    @classmethod
    def train(cls, text: str, unk: bool = False) -> "CharTokenizer":
        """The tokenizer of the characters in `text`.

        Raises: UserError where there are none, or one is a lone surrogate.
        """
        if not text:
            raise UserError("a vocabulary needs text, got none: name a corpus that is not empty")
        check_surrogates(text)
        return cls("".join(map(chr, np.unique(_code_points(text)).tolist())), unk)

    def encode(self, text: str, unknown: Unknown = "error") -> np.ndarray:
        """text → ids: (len(text),) int64.

        Raises: UserError naming the first character that the vocabulary lacks, if unknown="error".
        """
        codes = _code_points(text)
        ids = self._id_of[np.minimum(codes, len(self._id_of) - 1)]
        missing = ids < 0
        if missing.any():
            if unknown != "replace":
                raise unknown_character(text, int(missing.argmax()))
            ids[missing] = self.replacement_id
        return ids

    def to_json(self) -> str:
        fields = {"type": "char", "version": 1, "unk": self.unk, "characters": self.characters}
        return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "CharTokenizer":
        """The inverse of to_json. Raises: ValueError where the fields are no vocabulary."""
        characters, unk = fields.get("characters"), fields.get("unk")
        if not isinstance(characters, str) or not characters or not isinstance(unk, bool):
            raise ValueError("'characters' must be a string and 'unk' true or false")
        if any(a >= b for a, b in pairwise(characters)):
            raise ValueError("'characters' must be sorted and distinct")
        return cls(characters, unk)


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a lone surrogate is then an unknown character like any other
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
