"""Reading tokenizer.json: JSON with a type and a version, validated, never pickle."""

import json
import os
from pathlib import Path

from minillm.data.tokenizers.base import Tokenizer
from minillm.data.tokenizers.bpe import BPETokenizer
from minillm.data.tokenizers.char import CharTokenizer
from minillm.errors import UserError

TYPES: dict[str, type[CharTokenizer] | type[BPETokenizer]] = {
    "bpe": BPETokenizer,
    "char": CharTokenizer,
}


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer that `save` wrote to this file.

    Raises: UserError, one line naming the file, where it is missing, damaged or of a later version.
    """
    name = os.fspath(path)
    try:
        fields = json.loads(Path(path).read_bytes())
        if not isinstance(fields, dict) or fields.get("type") not in list(TYPES):
            raise ValueError(f"'type' must be one of {', '.join(TYPES)}")
        if fields.get("version") != 1:
            raise ValueError(f"version must be 1, got {fields.get('version')!r}")
        return TYPES[fields["type"]].from_fields(fields)
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {name!r} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{name!r} is not a tokenizer that minillm can read ({error}): train again, or "
            "restore the file"
        ) from None
