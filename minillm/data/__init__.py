"""Text in, batches of token ids out: corpora, tokenizers and batches; arrays only, no autograd."""

from minillm.data.batches import (
    fixed_batches,
    sample_batch,
    sequential_windows,
    train_val_split,
)
from minillm.data.corpora import Corpus, CorpusInfo, catalogue, load
from minillm.data.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    TextStream,
    Tokenizer,
    load_tokenizer,
)

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "Corpus",
    "CorpusInfo",
    "TextStream",
    "Tokenizer",
    "catalogue",
    "fixed_batches",
    "load",
    "load_tokenizer",
    "sample_batch",
    "sequential_windows",
    "train_val_split",
]
