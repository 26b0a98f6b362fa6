"""What a loading script says of texts: `python load_student.py "a text"` answers without this package."""

from __future__ import annotations

from distillctl.data.text.reader import TextReader
from distillctl.models.script import Reading


def reading(reader: TextReader) -> Reading:
    pieces = reader.template.script_pieces() if reader.template is not None else None
    constants = f"MAX_TOKENS, PAIRS, TEMPLATE = {reader.max_tokens}, {reader.pairs}, {pieces!r}"
    file = '"a text" {"text": "a text", "pair": "another"}' if reader.pairs else '"a text"'
    return Reading(
        file, "tokenizers", "import json\n", "from tokenizers import Tokenizer\n", constants, PREPROCESS, "path", "texts", "answer(net, {})"
    )


PREPROCESS = '''TOKENIZER = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
TOKENIZER.no_padding()
TOKENIZER.enable_truncation(MAX_TOKENS, strategy="longest_first")


def preprocess(text):
    """A text, or JSON of the columns that are read, as {input_ids, attention_mask, token_type_ids} int64 [1, T]."""
    row = json.loads(text) if text.lstrip().startswith("{") else {"text": text}
    if TEMPLATE is not None:
        found = TOKENIZER.encode("".join(words + (row[name] if name is not None else "") for words, name in TEMPLATE))
    else:
        found = TOKENIZER.encode(row["text"], row["pair"]) if PAIRS else TOKENIZER.encode(row["text"])
    names = {"input_ids": found.ids, "attention_mask": [1] * len(found.ids), **({"token_type_ids": found.type_ids} if PAIRS else {})}
    return {name: torch.tensor([value]) for name, value in names.items()}


def answer(net, inputs):
    """Logits [1, K]."""
    if hasattr(net, "config"):
        return net(**inputs).logits
    return net(inputs)
'''
