"""Tokenizers: one that is trained on the texts at hand, and those that others made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distillctl import extras
from distillctl.errors import ConfigError, MachineError, first_line
from distillctl.files import read_json, read_text
from distillctl.paths import as_path

FILE = "tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")
LARGEST = 2**27  # bytes; of models in many languages it has tens of millions


def train(texts: Iterable[str], vocab_size: int, lowercase: bool) -> str:
    """A tokenizer.json of byte pairs (Sennrich et al. 2016), the same for the same texts; WordPiece and Unigram as they are trained here are not.

    Between [CLS] and [SEP] as BERT has it, every byte is known, and a word is the same at the beginning and within a text.
    """
    tokenizers = library()
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = tokenizers.Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(iter(texts), trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(sign, made.token_to_id(sign)) for sign in ("[CLS]", "[SEP]")],
    )
    return str(made.to_str())


def given(place: str, key: str) -> tuple[str, int]:
    """The tokenizer.json of a file, a folder or a name on the hub, and the id that fills up. Raises ConfigError and MachineError."""
    path = as_path(place)
    file = path / FILE if path.is_dir() else path
    if file.is_file():
        try:
            content = read_text(file, LARGEST)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}={place}: cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'})") from None
        return content, pad_of(content, file.parent, f"{key}={place}")
    if not path.exists() and place.startswith((".", "/", "~")):
        raise ConfigError(f"{key}={place}: no such file or folder")
    if path.exists():
        raise ConfigError(f"{key}={place}: there is no {FILE} in it; save the fast tokenizer there (save_pretrained)")
    return of_hub(place, key)


def of_hub(name: str, key: str) -> tuple[str, int]:
    """By way of the transformers library, from its cache or the network."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise extras.missing(f"{key}={name}", "transformers", "text") from None
    try:
        found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of the hub, of the network, of the file
        raise MachineError(f"{key}={name}: no such folder here, and the hub does not give it ({first_line(error)[:160]})") from None
    fast = getattr(found, "backend_tokenizer", None)
    if fast is None:
        raise ConfigError(f"{key}={name}: it has no fast tokenizer (tokenizer.json); convert it, or name another")
    content = str(fast.to_str())
    pad = found.pad_token_id if found.pad_token_id is not None else found.eos_token_id
    return content, int(pad) if pad is not None else 0


def pad_of(content: str, folder: Path, where: str) -> int:
    """The id that fills up: what the files beside say, else the first usual sign that is known, else 0; nets are told which positions are real."""
    made = load(content, where)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            told = read_json(folder / name).get("pad_token")
        except (OSError, ValueError, AttributeError):
            continue
        sign = told.get("content") if isinstance(told, dict) else told
        if isinstance(sign, str) and (found := made.token_to_id(sign)) is not None:
            return int(found)
    return next((int(found) for sign in PADS if (found := made.token_to_id(sign)) is not None), 0)


def load(content: str, where: str) -> Any:
    """The library's object. Raises ConfigError where the content is none."""
    try:
        return library().Tokenizer.from_str(content)
    except MachineError:
        raise
    except Exception as error:  # of the library, of its own kinds
        raise ConfigError(f"{where}: no tokenizer.json that can be read ({first_line(error)[:160]})") from None


def with_prompt(content: str, count: int, where: str) -> tuple[str, int]:
    """A tokenizer that puts so many new signs in front of every text, behind its own such as [CLS]; and the id of the first of them.

    where: the key that asks for it. Raises ConfigError where a tokenizer cannot be changed so.
    """
    library()
    from tokenizers import AddedToken, processors

    old, made = load(content, where), load(content, where)
    for each in (old, made):
        each.no_padding()
        each.no_truncation()
    known = made.get_vocab(with_added_tokens=True)
    before = sum(sign.startswith("[PROMPT_") for sign in known)
    signs = [f"[PROMPT_{before + number}]" for number in range(1, count + 1)]
    made.add_special_tokens([AddedToken(sign, special=True, normalized=False) for sign in signs])
    ids = [made.token_to_id(sign) for sign in signs]
    single, pair = old.encode("a"), old.encode("a", "a")
    front = leading(single)
    named = dict(zip([*single.tokens, *pair.tokens], [*single.ids, *pair.ids], strict=True))
    own = {sign: named[sign] for found in (single, pair) for sign in specials(found)}
    made.post_processor = processors.TemplateProcessing(
        single=[*spelled(single, front, signs)],
        pair=[*spelled(pair, front, signs)],
        special_tokens=[*own.items(), *zip(signs, ids, strict=True)],
    )
    for texts in (("a",), ("one, two 3",), ("",), ("a", "b"), ("one two", "three")):
        was, now = old.encode(*texts), made.encode(*texts)
        expected = ([*was.ids[:front], *ids, *was.ids[front:]], [*was.type_ids[:front], *[0] * count, *was.type_ids[front:]])
        if (now.ids, now.type_ids) != expected or ids != list(range(ids[0], ids[0] + count)) or set(ids) & set(known.values()):
            raise ConfigError(f"{where}: nothing can be put in front of what this tokenizer reads; use {where.partition('=')[0]}=lora")
    return str(made.to_str()), int(ids[0])


def leading(found: Any) -> int:
    """How many signs the tokenizer itself puts in front."""
    return next((place for place, special in enumerate(found.special_tokens_mask) if not special), 0)


def specials(found: Any) -> list[str]:
    return [token for token, special in zip(found.tokens, found.special_tokens_mask, strict=True) if special]


def spelled(found: Any, front: int, signs: list[str]) -> list[str]:
    """What a tokenizer makes of one text or two, as a template: its own signs, the new ones, and $A and $B for the texts."""
    pieces: list[str] = []
    for place, (token, special, kind, which) in enumerate(
        zip(found.tokens, found.special_tokens_mask, found.type_ids, found.sequence_ids, strict=True)
    ):
        if place == front:
            pieces += [f"{sign}:0" for sign in signs]
        piece = f"{token}:{kind}" if special else f"${'AB'[which or 0]}:{kind}"
        if special or piece not in pieces:
            pieces.append(piece)
    return pieces


def library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise extras.missing("a data set of texts", "tokenizers", "text") from None
    return tokenizers


def config_json(content: str, pad: int, max_tokens: int) -> bytes:
    """tokenizer_config.json, by which plain transformers opens the tokenizer beside it."""
    made = load(content, FILE)
    known = made.get_vocab(with_added_tokens=True)
    signs = {id_: sign for sign, id_ in known.items()}
    told: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens, "pad_token": signs.get(pad)}
    for name, usual in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("mask_token", "[MASK]"), ("unk_token", "[UNK]")):
        if usual in known:
            told[name] = usual
    return json.dumps({name: value for name, value in told.items() if value is not None}, indent=1).encode()
