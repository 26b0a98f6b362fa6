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
TOKENIZER.no_truncation()
COLUMNS = list(dict.fromkeys(name for _, name in TEMPLATE if name is not None)) if TEMPLATE is not None else ["text", "pair"][: 1 + PAIRS]


def preprocess(text):
    """A text, or JSON of the columns that are read, as {input_ids, attention_mask, token_type_ids} int64 [1, T]."""
    row = json.loads(text) if text.lstrip().startswith("{") else {"text": text}
    if missing := [name for name in COLUMNS if name not in row]:
        raise SystemExit(f"{text[:60]}: it has no {missing[0]}; pass JSON of {', '.join(COLUMNS)}")
    if TEMPLATE is not None:
        found = filled(row)
    else:
        TOKENIZER.enable_truncation(MAX_TOKENS, strategy="longest_first")
        found = TOKENIZER.encode(*(row[name] for name in COLUMNS))
    names = {"input_ids": found.ids, "attention_mask": [1] * len(found.ids), **({"token_type_ids": found.type_ids} if PAIRS else {})}
    return {name: torch.tensor([value]) for name, value in names.items()}


def filled(row):
    """The template with columns so far as they fit, the longest cut first; its own words are never cut."""
    row = {name: row[name] for name in COLUMNS}
    while True:
        found = TOKENIZER.encode("".join(words + (row[name] if name is not None else "") for words, name in TEMPLATE))
        excess = len(found.ids) - MAX_TOKENS
        if excess <= 0:
            return found
        parts = {name: TOKENIZER.encode(value, add_special_tokens=False).offsets for name, value in row.items()}
        longest = max(parts, key=lambda name: len(parts[name]))
        offsets, kept = parts[longest], len(parts[longest]) - excess
        if not offsets:
            raise SystemExit(f"the template alone has more than {MAX_TOKENS} tokens")
        row[longest] = row[longest][: min(offsets[kept - 1][1], offsets[kept][0], len(row[longest]) - 1)] if kept > 0 else ""


def answer(net, inputs):
    """Logits [1, K]."""
    if hasattr(net, "config"):
        return net(**inputs).logits
    return net(inputs)
'''
