"""Byte-level byte-pair encoding, trained here (Sennrich et al. 2016; Radford et al. 2019, GPT-2).

The ids 0 … 255 are the bytes; id 256 + i is the i-th merge, a pair of earlier ids. Text is first
split into words with their leading space, and no merge crosses the border of a word.
"""

import heapq
import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
from tqdm import tqdm

from minillm.data.tokenizers.base import Tokenizer, Unknown, check_surrogates
from minillm.errors import UserError

Pair = tuple[int, int]

# GPT-2's split with the classes of Python's re: English endings, letters, digits, the rest, and
# white space, whose last blank goes with the word behind it. Runs are cut at 64 characters, so
# that text without spaces stays fast.
WORD = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\w\s]|_){1,64}"
    r"|\s{1,64}(?!\S)|\s{1,64}"
)


class BPETokenizer(Tokenizer):
    """Byte-level BPE: every string of bytes has ids, and decode_bytes gives it back."""

    def __init__(self, merges: list[Pair]) -> None:
        tokens = [bytes([byte]) for byte in range(256)]
        for left, right in merges:
            tokens.append(tokens[left] + tokens[right])
        super().__init__(tokens)
        self.merges = merges
        self._merged = {pair: 256 + i for i, pair in enumerate(merges)}

    @classmethod
    def train(cls, text: str, vocab_size: int, progress: bool = False) -> "BPETokenizer":
        """Merge the most frequent pair of neighbours, again and again, up to vocab_size ids.

        Of equally frequent pairs the one with the smaller ids is merged. Training stops early
        where no pair occurs twice. progress: show a bar.

        Raises: UserError where vocab_size has no room for the bytes or text has a lone surrogate.
        """
        if vocab_size < 256:
            raise UserError(f"vocab_size must be at least 256, one for each byte, got {vocab_size}")
        check_surrogates(text)
        occurrences = Counter(WORD.findall(text))
        words = [list(word.encode()) for word in occurrences]
        return cls(_learn_merges(words, list(occurrences.values()), vocab_size - 256, progress))

    def encode(self, text: str, unknown: Unknown = "error") -> np.ndarray:
        """text → ids: (N,) int64. Only a lone surrogate is unknown; its replacement is '?'.

        Raises: UserError naming it, if unknown="error".
        """
        if unknown != "replace":
            check_surrogates(text)
        return self.encode_bytes(text.encode("utf-8", "replace"))

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """data → ids: (N,) int64, for any bytes, UTF-8 or not."""
        words = WORD.findall(data.decode("utf-8", "surrogateescape"))
        ids_of = {word: self._merge(word.encode("utf-8", "surrogateescape")) for word in set(words)}
        return np.array([i for word in words for i in ids_of[word]], dtype=np.int64)

    def _merge(self, word: bytes) -> list[int]:
        """Merges in the order in which they were learned: the earliest has the smallest id."""
        ids = list(word)
        while len(ids) > 1:
            new_id, pair = min((self._merged.get(p, self.vocab_size), p) for p in pairwise(ids))
            if new_id == self.vocab_size:
                break
            ids = _replace(ids, pair, new_id)
        return ids

    def to_json(self) -> str:
        return json.dumps({"type": "bpe", "version": 1, "merges": self.merges}) + "\n"

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "BPETokenizer":
        """The inverse of to_json. Raises: ValueError where the fields are no list of merges."""
        merges = fields.get("merges")
        if not isinstance(merges, list) or not all(map(_is_pair, merges)):
            raise ValueError("'merges' must be a list of pairs of ids")
        for i, pair in enumerate(merges):
            if max(pair) >= 256 + i:
                raise ValueError(f"merge {i} must join ids below {256 + i}, got {pair}")
        if len(set(map(tuple, merges))) < len(merges):
            raise ValueError("'merges' must not hold a pair twice")
        return cls([(left, right) for left, right in merges])


def _learn_merges(
    words: list[list[int]], occurrences: list[int], n_merges: int, progress: bool
) -> list[Pair]:
    """The merges, in order. words: the ids of each distinct word, rewritten as merges are made."""
    counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)  # may name words that lost the pair
    for i, ids in enumerate(words):
        for pair in pairwise(ids):
            counts[pair] += occurrences[i]
            words_with[pair].add(i)
    # An entry whose count is out of date is skipped: a changed count pushes another entry.
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    with tqdm(total=n_merges, desc="BPE merges", disable=not progress) as bar:
        while heap and len(merges) < n_merges:
            count, pair = heapq.heappop(heap)
            if -count != counts[pair]:
                continue
            if -count < 2:
                break
            changed = set()
            for i in words_with.pop(pair):
                for old in pairwise(words[i]):
                    counts[old] -= occurrences[i]
                    changed.add(old)
                words[i] = _replace(words[i], pair, 256 + len(merges))
                for new in pairwise(words[i]):
                    counts[new] += occurrences[i]
                    words_with[new].add(i)
                    changed.add(new)
            for other in changed:
                heapq.heappush(heap, (-counts[other], other))
            merges.append(pair)
            bar.update()
    return merges


def _replace(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """ids with each occurrence of the pair, from the left, replaced by new_id."""
    out: list[int] = []
    i = 0
    while i < len(ids):
        if ids[i] == pair[0] and i + 1 < len(ids) and ids[i + 1] == pair[1]:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(i) is int and i >= 0 for i in value)
    )
