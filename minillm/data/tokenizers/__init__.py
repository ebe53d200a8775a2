"""Text ↔ token ids: characters, or byte-level BPE."""

from minillm.data.tokenizers.base import TextStream, Tokenizer
from minillm.data.tokenizers.bpe import BPETokenizer
from minillm.data.tokenizers.char import CharTokenizer
from minillm.data.tokenizers.load import load_tokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "TextStream", "Tokenizer", "load_tokenizer"]
