"""Virtual tokens and adapters of text transformers: what they compute, what alone is learned, what ships; teacher and student as one net."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from commands import call
from language import reviews, write_reviews
from mistakes import USAGE, Row, check_refused, each
from processes import StopAfter, checkpoint, configured, same_stage, shell, step
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers")

from distillctl.data.text import tokenizer  # noqa: E402
from distillctl.data.text.reader import TextReader  # noqa: E402
from distillctl.errors import Interrupted  # noqa: E402
from distillctl.models import sharing  # noqa: E402
from distillctl.models.net import Net  # noqa: E402
from distillctl.models.text import virtual  # noqa: E402
from distillctl.models.text.prompt import with_prompt  # noqa: E402
from distillctl.models.text.transformer import build  # noqa: E402
from distillctl.runs import assemble  # noqa: E402
from distillctl.runs.session import session  # noqa: E402
from distillctl.runs.train import train  # noqa: E402

QUICK = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "trainer.batch_size=16")
SHAPES = {
    "bert": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
    "gpt2": {"n_layer": 1, "n_embd": 16, "n_head": 2, "bos_token_id": 2, "eos_token_id": 3},
}
EMBEDDING = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def content() -> str:
    return tokenizer.train([text for text, _ in reviews()], 320, False)


def prompted(content: str, kind: str, count: int = 3) -> tuple[torch.nn.Module, Net]:
    """A net as it was, and the same with virtual tokens."""
    torch.manual_seed(0)
    reader = TextReader(content, 0, 32)
    settings = {"model_type": kind, "vocab_size": reader.vocabulary, "pad_token_id": 0, **SHAPES[kind]}
    module = build(settings, 2).double().eval()
    plain = copy.deepcopy(module)
    return plain, with_prompt(
        Net(module, "transformers", kind, "large", (), settings, None, None, None, reader), count, 0, "finetune.train=prompt"
    )


# ------------------------------------------------------------------------------------------------ what they compute
def test_an_encoder_reads_learned_vectors_behind_its_first_sign(content):
    plain, net = prompted(content, "bert")
    ids = torch.tensor([tokenizer.load(content, "test").encode("a dull film").ids])
    [own] = net.reader.encoded([("a dull film",)])
    words = plain.bert.embeddings.word_embeddings(ids)
    learned = net.module.bert.embeddings.word_embeddings.prompt
    vectors = torch.cat([words[:, :1], learned[None], words[:, 1:]], 1)
    with torch.no_grad():
        expected = plain(inputs_embeds=vectors, attention_mask=torch.ones(vectors.shape[:2])).logits
        found = net.module({"input_ids": torch.tensor([own[0]]), "attention_mask": torch.ones(1, len(own[0]), dtype=torch.int64)}).logits
    assert (found - expected).abs().max() < 1e-12
    assert not torch.allclose(found, plain(ids).logits)


def test_of_a_decoder_it_is_what_peft_calls_prompt_tuning(content):
    peft = pytest.importorskip("peft")
    bare = json.loads(content) | {"post_processor": None}
    plain, net = prompted(json.dumps(bare), "gpt2")
    task = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3, num_transformer_submodules=1, token_dim=plain.config.n_embd)
    theirs = peft.get_peft_model(copy.deepcopy(plain), task).double().eval()
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(net.module.transformer.wte.prompt)
    ids = torch.tensor([tokenizer.load(json.dumps(bare), "test").encode("what a lovely book").ids])
    [own] = net.reader.encoded([("what a lovely book",)])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found = net.module({"input_ids": torch.tensor([own[0]]), "attention_mask": torch.ones(1, len(own[0]), dtype=torch.int64)}).logits
    assert (found - expected).abs().max() < 1e-12


def test_the_plain_net_that_ships_answers_as_the_one_that_learned(content):
    _, net = prompted(content, "bert")
    state = virtual.plain_state(net.module, net.module.state_dict())
    shipped = build(net.args, 2).double().eval()
    shipped.load_state_dict(state)
    [own] = net.reader.encoded([("this grim play",)])
    inputs = {"input_ids": torch.tensor([own[0]]), "attention_mask": torch.ones(1, len(own[0]), dtype=torch.int64)}
    with torch.no_grad():
        assert torch.equal(shipped(inputs).logits, net.module(inputs).logits)


def test_virtual_tokens_begin_as_entries_of_the_vocabulary(content):
    plain, net = prompted(content, "bert", count=6)
    table = plain.bert.embeddings.word_embeddings.weight
    for row in net.module.bert.embeddings.word_embeddings.prompt:
        assert (table == row).all(1).any()


# ------------------------------------------------------------------------------------------------ the tokenizer
def variants(content: str) -> dict[str, str]:
    """The same tokenizer with what others put around a text."""
    from tokenizers import processors

    found = {"template": content}
    for name, processor in {
        "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "bytes": processors.ByteLevel(),
        "end": processors.TemplateProcessing(single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 3)]),
    }.items():
        made = tokenizer.load(content, "test")
        made.post_processor = processor
        found[name] = made.to_str()
    return found


@pytest.mark.parametrize("name", ["template", "bert", "roberta", "bytes", "end"])
def test_new_signs_stand_in_front_of_a_text_and_of_a_pair(content, name):
    old = tokenizer.load(variants(content)[name], "test")
    changed, first = tokenizer.with_prompt(variants(content)[name], 4, "finetune.train=prompt")
    made = tokenizer.load(changed, "test")
    signs = list(range(first, first + 4))
    assert first == old.get_vocab_size()
    for texts in (("a dull film",), ("this play", "one lovely song")):
        was, now = old.encode(*texts), made.encode(*texts)
        front = 1 if was.ids[0] == 2 else 0
        assert now.ids == was.ids[:front] + signs + was.ids[front:]
        assert now.type_ids == was.type_ids[:front] + [0] * 4 + was.type_ids[front:]


def test_a_tokenizer_with_new_signs_takes_more(content):
    once, first = tokenizer.with_prompt(content, 2, "finetune.train=prompt")
    twice, second = tokenizer.with_prompt(once, 3, "finetune.train=prompt")
    ids = tokenizer.load(twice, "test").encode("a").ids
    assert second == first + 2
    assert sorted(ids[1:6]) == list(range(first, first + 5))


def test_texts_keep_their_room_beside_virtual_tokens(content):
    _, net = prompted(content, "bert")
    long = " ".join(["lovely"] * 60)
    [(plain, _, cut)] = TextReader(content, 0, 32).encoded([(long,)])
    [(own, _, cut_too)] = net.reader.encoded([(long,)])
    assert cut
    assert cut_too
    assert len(own) == len(plain) + 3 == 35


# ------------------------------------------------------------------------------------------------ whole runs
@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the reviews and a transformer that has learned them."""
    folder = tmp_path_factory.mktemp("parts")
    write_reviews(folder / "reviews.csv")
    words = (
        "dataset=text",
        "dataset.root=reviews.csv",
        "teacher=bert_tiny",
        "pretrain.epochs=2",
        "optimizer=adamw_text",
        "hydra.run.dir=first",
    )
    finished = call("pretrain", *words, *QUICK, cwd=folder)
    assert finished.code == 0, finished.err
    return folder


def words_of(place: Path, *more: str) -> tuple[str, ...]:
    given = ("dataset=text", f"dataset.root={place / 'reviews.csv'}", "student=recorded", f"student.checkpoint={place / 'first/pretrain'}")
    return (*given, "optimizer=adamw_text", *QUICK, *more)


PROMPT = ("finetune.train=prompt", "finetune.prompt.tokens=4", "finetune.epochs=2", "finetune.lr_scale=5")
TAUGHT = ("teacher=recorded", "teacher.template='a lovely word: {text}'", "distill.epochs=2", "teacher.cache.mode=off")


def test_virtual_tokens_and_the_head_alone_are_learned_and_ship_as_a_plain_net(place, tmp_path):
    finished = call("finetune", *words_of(place, *PROMPT, "finetune.keep=always", "hydra.run.dir=run"), cwd=tmp_path)
    assert finished.code == 0, finished.err + finished.out
    assert "head, and 4 virtual tokens in front of each text\n" in finished.out
    before, after = load_file(place / "first/pretrain/teacher.safetensors"), load_file(tmp_path / "run/finetune/student.safetensors")
    entries = len(before[EMBEDDING])
    assert after[EMBEDDING].shape[0] == entries + 4
    assert torch.equal(after[EMBEDDING][:entries], before[EMBEDDING])
    assert {name for name in before if name != EMBEDDING and not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }

    text = "what a lovely film"
    (tmp_path / "new.txt").write_text(f"{text}\n")
    predicted = call("predict", "checkpoint=run", "inputs=[new.txt]", "format=jsonl", *QUICK[:-1], cwd=tmp_path)
    ours = {entry["class"]: entry["p"] for entry in json.loads(predicted.out)["answers"]}
    folder = tmp_path / "run/finetune"
    net = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        theirs = net(**tokens).logits.softmax(1)[0]
    assert ours == {net.config.id2label[place]: pytest.approx(float(p), abs=1e-5) for place, p in enumerate(theirs)}
    printed = shell(sys.executable, str(folder / "load_student.py"), text)
    assert printed.returncode == 0, printed.stderr
    name, probability = printed.stdout.split()[-2:]
    assert ours[name] == pytest.approx(float(probability), abs=1e-4)


def test_a_net_that_has_virtual_tokens_takes_more_and_keeps_those(place, tmp_path):
    call("finetune", *words_of(place, *PROMPT, "hydra.run.dir=one"), cwd=tmp_path)
    more = ("dataset=text", f"dataset.root={place / 'reviews.csv'}", "student=recorded", "student.checkpoint=one/finetune", *QUICK)
    finished = call("finetune", *more, *PROMPT, "optimizer=adamw_text", "finetune.keep=always", "hydra.run.dir=two", cwd=tmp_path)
    assert finished.code == 0, finished.err
    before, after = (load_file(tmp_path / run / "finetune/student.safetensors")[EMBEDDING] for run in ("one", "two"))
    assert torch.equal(after[: len(before)], before)
    assert len(after) == len(before) + 4


RESUMED = {
    "prompt": ("finetune", PROMPT),
    "averaged prompt": ("finetune", (*PROMPT, "trainer.ema_decay=0.9")),
    "one net": ("distill", (*TAUGHT, "distill.train=lora", "distill.lora.dropout=0.2")),
    "context into a prompt": ("distill", (*TAUGHT, "distill.train=prompt")),
}


def attempt(command: str, folder: Path, words: tuple[str, ...], asked: int = 10**9) -> None:
    config = configured(command, folder, *words)
    with session(config, folder, StopAfter(asked)) as running:
        train(running, step(config, command))


@pytest.mark.parametrize("variant", RESUMED)
def test_a_part_that_is_stopped_goes_on_to_the_same_bits(variant, place, tmp_path):
    if "lora" in "".join(RESUMED[variant][1]):
        pytest.importorskip("peft")
    command, more = RESUMED[variant]
    teacher = (f"teacher.checkpoint={place / 'first/pretrain'}",) if command == "distill" else ()
    words = words_of(place, *more, *teacher)
    attempt(command, tmp_path / "whole", words)
    with pytest.raises(Interrupted):
        attempt(command, tmp_path / "stopped", words, asked=13)
    attempt(command, tmp_path / "stopped", words)
    assert same_stage(tmp_path / "whole" / command, tmp_path / "stopped" / command) == []


# ------------------------------------------------------------------------------------------------ teacher and student as one net
def storages(*modules: torch.nn.Module) -> int:
    """Bytes of the parameters of modules, what is held twice counted once."""
    found = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for module in modules for value in module.parameters()}
    return sum(found.values())


@pytest.mark.parametrize("part", ["lora", "prompt", "head"])
def test_what_a_student_does_not_train_it_and_its_teacher_hold_once(part, place, tmp_path, monkeypatch):
    if part == "lora":
        pytest.importorskip("peft")
    words = words_of(place, *TAUGHT, f"teacher.checkpoint={place / 'first/pretrain'}", f"distill.train={part}")
    config, weights = configured("distill", tmp_path / "one", *words), []
    for name, shared in (("one", True), ("two", False)):
        if not shared:
            monkeypatch.setattr(assemble, "share", lambda student, teacher: 0)
        with session(config, tmp_path / name, StopAfter(10**9)) as running:
            made = assemble.assemble(running, step(config, "distill"))
            student, teacher = made.pupils["student"].classifier, made.teacher.model
            net, learned = storages(teacher), sum(value.nbytes for value in student.parameters() if value.requires_grad)
            together = storages(student, teacher)
            assert together <= net + learned if shared else together >= 2 * net - learned
            answer = made.teacher(made.bundle.few(8)).logits
            train(running, step(config, "distill"))
            assert torch.equal(made.teacher(made.bundle.few(8)).logits, answer)
        weights.append((tmp_path / name / "distill/student.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_what_learns_is_shared_with_nobody():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    other.requires_grad_(False)
    holder = sharing.Adapter(other)
    one.weight.requires_grad_(False)
    assert sharing.share(one, holder) == 4
    assert other.weight.data_ptr() == one.weight.data_ptr()
    assert other.bias.data_ptr() != one.bias.data_ptr()


def test_weights_that_differ_are_not_shared():
    one, other = torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(2, 2).requires_grad_(False)
    assert sharing.share(one, sharing.Adapter(other)) == 0


def test_only_adapters_are_in_the_optimizer_of_a_student_that_distils(place, tmp_path):
    pytest.importorskip("peft")
    attempt("distill", tmp_path / "run", words_of(place, *TAUGHT, f"teacher.checkpoint={place / 'first/pretrain'}", "distill.train=lora"))
    groups = checkpoint(tmp_path / "run/distill")["optimizers"]["student"]["param_groups"]
    before, after = load_file(place / "first/pretrain/teacher.safetensors"), load_file(tmp_path / "run/distill/student.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert EMBEDDING not in changed
    assert {"classifier.weight", "bert.encoder.layer.0.attention.self.query.weight"} <= changed
    assert sum(len(group["params"]) for group in groups) == 2 * 12 + 2  # A and B of 12 layers, and the head


# ------------------------------------------------------------------------------------------------ what is wrong is told in a line
TEXTS = "dataset=text dataset.root=reviews.csv"
FIRST = f"{TEXTS} student=recorded student.checkpoint=first/pretrain"
WRONG = [
    Row(
        "another net",
        f"finetune {TEXTS} student=recorded student.checkpoint=bag/pretrain finetune.train=prompt",
        USAGE,
        ("finetune.train=prompt: bag is no net of the transformers library", "use finetune.train=head"),
    ),
    Row("images", "finetune dataset=digits student=resnet8 student.checkpoint=weights.pt finetune.train=prompt", USAGE, ("virtual tokens stand in front of texts",)),
    Row("random weights", f"distill {TEXTS} teacher=recorded teacher.checkpoint=first student=bert_tiny distill.train=lora", USAGE, ("distill.train=lora freezes weights that are random",)),
    Row("tokens of nothing", f"finetune {FIRST} finetune.prompt.tokens=3", USAGE, ("finetune.prompt.tokens=3 works with finetune.train=prompt only",)),
    Row("no tokens", f"finetune {FIRST} finetune.train=prompt finetune.prompt.tokens=0", USAGE, ("finetune.prompt.tokens=0 must be >= 1",)),
    Row("too many", f"finetune {FIRST} finetune.train=prompt finetune.prompt.tokens=999", USAGE, ("has places for 512 tokens",)),
    Row(
        "assistants",
        f"distill {FIRST} teacher=recorded teacher.checkpoint=first distill.train=lora assistants=[bert_mini]",
        USAGE,
        ("distill.train=lora freezes most weights", "assistants=['bert_mini'] are random"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(place) -> Path:
    from distillctl.models.cifar.resnet import resnet8

    torch.save(resnet8(num_classes=10).state_dict(), place / "weights.pt")
    words = ("dataset=text", "dataset.root=reviews.csv", "teacher=bag", "pretrain.epochs=1", "hydra.run.dir=bag")
    assert call("pretrain", *words, *QUICK, cwd=place).code == 0
    return place


@each(WRONG)
def test_a_mistake_is_one_line(row, workshop):
    check_refused(row, workshop)
