"""Texts, or pairs of texts: cut into tokens by each model's own reader, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from distillctl.config import CAUSAL, DatasetConfig, ModelConfig, PredictConfig, TextSetConfig
from distillctl.data.loader import Place, PlainLoader, TrainLoader
from distillctl.data.split import DataSet, Split
from distillctl.data.text import examples, lines, sets, tokenizer
from distillctl.data.text.corpus import Corpus
from distillctl.data.text.loader import PlainTexts, TextLoader
from distillctl.data.text.ragged import Strings
from distillctl.data.text.reader import IDS, LENGTHS, SECOND, TextReader
from distillctl.data.text.table import SUFFIXES
from distillctl.data.text.template import EXAMPLES, Template, columns_in, parse, read_template
from distillctl.entries import Malformed, integer, text
from distillctl.errors import CheckpointError, ConfigError, DataError
from distillctl.files import hash_of, read_text
from distillctl.inputs.contract import Contract
from distillctl.models.adapter import Adapter
from distillctl.models.net import Net
from distillctl.models.record import Record
from distillctl.models.script import Reading
from distillctl.models.text import nets, prompt, script, transformer, verbalizer
from distillctl.models.text.adapter import TextClassifier
from distillctl.paths import as_path
from distillctl.types import MARK, Inputs

KIND = "texts"
LONGEST_TEMPLATE = 2**20  # characters: with all its examples
TRACED = 8  # tokens of the sample by which a net's shapes are found


@dataclass(frozen=True)
class Texts(Contract):
    """corpus: where the texts are. reader: how the model reads them whose contract this is; None of a data set alone.

    max_tokens, vocab_size, lowercase: as the data set's config has them. length: tokens of a usual text, where the corpus holds none. called: the
    columns of texts and second texts that a record's model learned from, where somebody named them.
    """

    corpus: Corpus = field(repr=False, compare=False)
    max_tokens: int = 128
    vocab_size: int = 8000
    lowercase: bool = False
    reader: TextReader | None = field(default=None, repr=False, compare=False)
    length: int = 16
    called: tuple[str | None, str | None] = field(default=(None, None), repr=False, compare=False)

    kind: ClassVar[str] = KIND
    noun: ClassVar[str] = "texts"
    rate: ClassVar[str] = "texts/s"
    suffixes: ClassVar[tuple[str, ...]] = (*SUFFIXES, ".txt")
    steady: ClassVar[bool] = False

    @classmethod
    def load(cls, config: DatasetConfig, class_names: Sequence[str] | None) -> tuple[DataSet, Texts]:
        assert isinstance(config, TextSetConfig)
        return cls.of(sets.load(config, class_names), config)

    @classmethod
    def load_to_measure(cls, config: DatasetConfig, class_names: Sequence[str] | None, record: Record | None) -> tuple[DataSet, Texts]:
        assert isinstance(config, TextSetConfig)
        return cls.of(sets.load_to_measure(config, class_names, record.dataset if record is not None else None), config)

    @classmethod
    def of(cls, data: sets.TextSet, config: TextSetConfig) -> tuple[DataSet, Texts]:
        return data, cls(data.classes, data.corpus, config.max_tokens, config.vocab_size, config.lowercase)

    @classmethod
    def from_record(cls, record: Record) -> Texts:
        told = record.preprocessing
        most = integer(told, "max_tokens", inside="preprocessing.", low=1, high=2**24)
        length = integer(told, "tokens", 16, inside="preprocessing.", low=1, high=2**24)
        template = text(told, "template", None, "preprocessing.", LONGEST_TEMPLATE)
        text(told, "tokenizer", inside="preprocessing.")
        integer(told, "pad", 0, "preprocessing.", low=0, high=2**31 - 1)
        pairs = told.get("pairs", False)
        if not isinstance(pairs, bool):
            raise Malformed("preprocessing.pairs has to be true or false")
        names = [*("text", "pair")[: 1 + pairs], *(columns_in(template, "preprocessing.template") if template is not None else ())]
        corpus = Corpus({name: Strings.of(()) for name in names}, "text", "pair" if pairs else None)
        data = record.dataset if isinstance(record.dataset, Mapping) else {}
        first, second = (value if isinstance(value := data.get(name), str) else None for name in ("text", "pair"))
        return cls(record.classes, corpus, most, length=length, called=(first, second))

    def record(self) -> dict[str, Any]:
        assert self.reader is not None
        return {
            "kind": self.kind,
            "pairs": self.reader.pairs,
            "template": self.reader.template.spelled() if self.reader.template is not None else None,
            "max_tokens": self.reader.max_tokens,
            "tokenizer": self.reader.tokenizer_mark,
            "pad": self.reader.pad,
            "tokens": self.usual_length(self.reader),
        }

    def script(self) -> Reading:
        assert self.reader is not None
        return script.reading(self.reader)

    def beside(self, net: Net, role: str, weights: Mapping[str, Any]) -> dict[str, bytes]:
        assert self.reader is not None
        found = {tokenizer.FILE: self.reader.tokenizer.encode()}
        if net.source == "transformers":
            found["config.json"] = transformer.config_json(net.module, self.classes)
            found["model.safetensors.index.json"] = transformer.index_json(weights, f"{role}.safetensors")
            found["tokenizer_config.json"] = tokenizer.config_json(self.reader.tokenizer, self.reader.pad, self.reader.max_tokens)
        return found

    def usual_length(self, reader: TextReader) -> int:
        """Tokens of a text in the mean, by which a net is timed and counted."""
        if not len(self.corpus):
            return self.length
        return max(1, round(float(self.corpus.tokens(reader).tokens.lengths.mean())))

    def example(self, count: int, device: torch.device) -> Inputs:
        found = {MARK: torch.zeros(count, dtype=torch.int64, device=device)}
        for mark, reader in self.corpus.readers.items():
            length = self.usual_length(reader)
            found[f"{mark}.{IDS}"] = torch.full((count, length), reader.pad, dtype=torch.int64, device=device)
            found[f"{mark}.{LENGTHS}"] = torch.full((count,), length, dtype=torch.int64, device=device)
            if reader.pairs:
                found[f"{mark}.{SECOND}"] = torch.full((count,), length // 2, dtype=torch.int64, device=device)
        return found

    def net_example(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        return {"input_ids": torch.zeros(1, min(TRACED, self.max_tokens), dtype=torch.int64, device=device)}

    def rows(self, file: Path | None) -> Iterator[tuple[str, Any]]:
        """Of a table its rows, of any other file and of standard input a text a line."""
        return (
            lines.of_table(file, self.corpus.pair is not None, self.called)
            if file is not None and file.suffix.lower() in SUFFIXES
            else lines.of_lines(file)
        )

    def read(self, samples: Sequence[Any], config: PredictConfig) -> Inputs:
        """samples: rows of columns, as `rows` gives them."""
        for row in samples:
            for reader in self.corpus.readers.values():
                needed = reader.template.columns if reader.template is not None else ("text", "pair")[: 1 + reader.pairs]
                if (missing := next((name for name in needed if name not in row), None)) is not None:
                    raise DataError(f"{row['text'][:60]}: it has no {missing}, which the model reads; pass a table with that column")
        return self.read_rows(samples)

    def read_rows(self, rows: Sequence[Mapping[str, str]]) -> Inputs:
        """Rows of columns, `text` among them, and of pairs `pair`, as batches hold them."""
        names = list(dict.fromkeys(["text", *(["pair"] if self.corpus.pair is not None else []), *(name for row in rows for name in row)]))
        corpus = Corpus(
            {name: Strings.of(row.get(name, "") for row in rows) for name in names}, "text", "pair" if "pair" in names else None
        )
        for reader in self.corpus.readers.values():
            corpus.register(reader)
        return corpus.batch(torch.arange(len(rows)), torch.device("cpu"))

    def train_loader(self, config: DatasetConfig, split: Split, batch_size: int, seed: int, place: Place) -> TrainLoader:
        assert isinstance(config, TextSetConfig)
        view_seed = seed if config.view_seed is None else config.view_seed
        return TextLoader(split, self.corpus, batch_size, seed, place, config.bucket, config.augment, view_seed, config.views)

    def plain_loader(self, config: DatasetConfig, split: Split, batch_size: int, place: Place, at_once: bool = False) -> PlainLoader:
        return PlainTexts(split, self.corpus, batch_size, place)

    def build(self, config: ModelConfig, key: str) -> Net:
        reader = self.reader_for(config, key)
        if config.name == CAUSAL:
            return verbalizer.build_causal(config, self.classes, reader, key)
        return nets.build_text_net(config, self.classes, reader, key)

    def reader_for(self, config: ModelConfig, key: str) -> TextReader:
        """How a model that has no record reads: by the tokenizer that it names, by that of the net which it names, or by the one that is trained here."""
        if config.tokenizer is not None:
            content, pad = tokenizer.given(config.tokenizer, f"{key}.tokenizer")
        elif config.name in (nets.ENCODER, CAUSAL) and config.model is not None:
            content, pad = tokenizer.given(config.model, f"{key}.model")
        else:
            content, pad = self.corpus.trained(self.vocab_size, self.lowercase), 0
        return self.reader_of(config, key, content, pad, self.template_of(config, key), config.max_tokens or self.max_tokens)

    def reader_of(self, config: ModelConfig, key: str, content: str, pad: int, template: Template | None, max_tokens: int) -> TextReader:
        tokenizer.load(content, f"{key}.tokenizer")
        found = TextReader(content, pad, max_tokens, template, self.corpus.pair is not None, open_end=config.name == CAUSAL)
        found.check_template(key)
        return found

    def template_of(self, config: ModelConfig, key: str) -> Template | None:
        """The template that a config says, with examples in it where it asks for them."""
        if config.template is None:
            return None
        names, constants = tuple(self.corpus.columns), {EXAMPLES: ""}
        instead: dict[int, dict[str, str]] = {}
        if config.examples:
            words = examples.first_words(config.verbalizer)
            constants[EXAMPLES], instead = examples.examples(
                self.corpus, config.examples, config.example_template, config.examples_seed, words, key
            )
        elif EXAMPLES in names:
            constants = {}
        found = read_template(config.template, f"{key}.template", names, constants)
        if (EXAMPLES in found.constants) != bool(config.examples):
            way = "put {examples} into it" if config.examples else f"set {key}.examples=4, or leave {{examples}} out"
            raise ConfigError(f"{key}.template and {key}.examples={config.examples} do not go together: {way}")
        return replace(found, exceptions=instead)

    def reader_of_record(self, record: Record, config: ModelConfig, file: Path, key: str) -> TextReader:
        told = record.preprocessing
        content, pad = self.beside_of(record, file, key), int(told.get("pad", 0))
        if config.tokenizer is not None:
            content, pad = tokenizer.given(config.tokenizer, f"{key}.tokenizer")
        template = self.template_of(config, key)
        if template is None and told.get("template") is not None:
            known = tuple(self.corpus.columns) if len(self.corpus) else None  # without texts those that come say which columns they have
            template = parse(str(told["template"]), f"{key}.template", known, typed=False)
        if bool(told.get("pairs")) != (self.corpus.pair is not None) and template is None:
            what = ("pairs of texts", "single texts") if told.get("pairs") else ("single texts", "pairs of texts")
            way = "set dataset.pair=<column>" if told.get("pairs") else "dataset.pair='' takes the first texts alone"
            raise ConfigError(
                f"{key}.checkpoint={config.checkpoint} reads {what[0]}, and the data set has {what[1]}; {way}, or give another {key}"
            )
        found = self.reader_of(config, key, content, pad, template, config.max_tokens or int(told["max_tokens"]))
        nets.check_room(record.architecture.args, found, key)
        return found

    def beside_of(self, record: Record, file: Path, key: str) -> str:
        """The tokenizer that lies beside a model's weights. Raises CheckpointError where it is not the one that its record means."""
        place = file.parent / tokenizer.FILE
        try:
            content = read_text(place, tokenizer.LARGEST)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8"
            raise CheckpointError(
                f"{key}.checkpoint: {place} cannot be read ({reason}); keep the tokenizer beside the weights, or set {key}.tokenizer"
            ) from None
        if TextReader(content, 0, 1).tokenizer_mark != record.preprocessing["tokenizer"]:
            raise CheckpointError(f"{key}.checkpoint: {place} is not the tokenizer that the model learned with (checksum mismatch)")
        return content

    def outside(self, config: ModelConfig, key: str) -> Any:
        """The tokenizer, and the files of a folder that a net comes from; a name on the hub stands for what may change."""
        reads_anew = config.checkpoint is None or config.tokenizer is not None
        found: list[Any] = [self.reader_for(config, key).mark] if reads_anew else []
        if config.model is None:
            return found
        folder = as_path(config.model)
        if not folder.is_dir():
            return None
        try:
            return found + [[file.name, hash_of(file)] for file in sorted(folder.iterdir()) if file.suffix in (".json", ".safetensors")]
        except OSError:
            return None

    def reading_mark(self) -> str:
        return self.reader.mark if self.reader is not None else ""

    def adapt(self, net: Net) -> Adapter:
        assert isinstance(net.reader, TextReader), net.name
        self.corpus.register(net.reader)
        return TextClassifier(net.module, net.reader, nets.takes_types(net.module))

    def with_prompt(self, net: Net, count: int, seed: int, where: str) -> Net:
        return prompt.with_prompt(net, count, seed, where)

    def seen_by(self, model: Adapter | Net) -> Texts:
        reader = model.reader
        assert isinstance(reader, TextReader)
        return replace(self, reader=reader, max_tokens=reader.max_tokens)

    def settle(self, kept: str | None, place: Path | None) -> None:
        self.corpus.kept, self.corpus.place = kept, place

    def remarks(self) -> list[str]:
        found = []
        for reader in self.corpus.readers.values():
            encoded = self.corpus.encoded.get(reader.mark)
            if encoded is not None and encoded.cut:
                share = encoded.cut / max(len(self.corpus), 1)
                found.append(
                    f"{encoded.cut:,} of {len(self.corpus):,} texts ({share:.1%}) have more than {reader.max_tokens} tokens and were cut; raise dataset.max_tokens"
                )
        return found


__all__ = ["KIND", "Texts"]
