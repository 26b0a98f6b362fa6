"""A causal language model teaches by words for classes: scores against a loop over single texts and tokens, calibration by hand, and whole runs."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from commands import call
from language import TEMPLATE, WORDS, language_model, reviews, saved, write_reviews
from mistakes import CHECKPOINT, DATA, USAGE, Row, check_refused, each
from processes import StopAfter, configured, same_stage, step

transformers = pytest.importorskip("transformers")

from distillctl.config import CAUSAL, ModelConfig  # noqa: E402
from distillctl.data.text import tokenizer  # noqa: E402
from distillctl.data.text.corpus import Corpus  # noqa: E402
from distillctl.data.text.ragged import Strings  # noqa: E402
from distillctl.errors import Interrupted  # noqa: E402
from distillctl.inputs.text import Texts  # noqa: E402
from distillctl.models.obtain import obtain  # noqa: E402
from distillctl.models.text.causal import ByWords, mean_of_exponentials, routes  # noqa: E402
from distillctl.runs.keys import preprocessing  # noqa: E402
from distillctl.runs.session import session  # noqa: E402
from distillctl.runs.train import train  # noqa: E402

CLASSES = ("negative", "positive")
TEXTS = ("a dull film", "what a lovely and warm song about nothing at all", "one book", "this grim play")
LONG = {"negative": [" bad", " terrible", " terribly clumsy"], "positive": [" good", " lovely and bright", " lovely and warm"]}
QUICK = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1", "trainer.batch_size=16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("reviews") / "reviews.csv")


def contract(texts=TEXTS) -> Texts:
    return Texts(CLASSES, Corpus({"text": Strings.of(texts)}, "text", None))


def teacher(folder: Path, texts=TEXTS, words=LONG, **more):
    """The model, and a batch of the texts as it reads them."""
    inputs = contract(texts)
    config = ModelConfig(name=CAUSAL, model=str(folder), template=TEMPLATE, verbalizer=words, **more)
    model = obtain(config, inputs, "teacher", seed=0).classifier.eval()
    return model, inputs.corpus.batch(torch.arange(len(texts)), torch.device("cpu"))


def log_probability(net, prompt: list[int], word: list[int]) -> float:
    """The mean over the tokens of a word of log p(token | all before it), a pass for each, by plain transformers."""
    found = []
    for place, token in enumerate(word):
        logits = net(input_ids=torch.tensor([prompt + word[:place]])).logits[0, -1]
        found.append(float(logits[token] - logits.logsumexp(0)))
    return sum(found) / len(found)


def by_hand(folder: Path, text: str, dtype: torch.dtype, words=LONG) -> list[float]:
    """The score of each class, by nothing of ours."""
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(dtype).eval()
    library = tokenizer.load((folder / "tokenizer.json").read_text(), "test")
    prompt = library.encode(TEMPLATE.replace("{text}", text)).ids[:-1]  # [SEP] would end it
    found = []
    for name in CLASSES:
        own = [log_probability(net, prompt, library.encode(word, add_special_tokens=False).ids) for word in words[name]]
        found.append(math.log(sum(map(math.exp, own)) / len(own)))
    return found


# ------------------------------------------------------------------------------------------------ scores
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("words", [WORDS, LONG], ids=["short", "long"])
def test_scores_are_those_of_a_loop_over_texts_and_tokens(folder, dtype, close, words):
    model, batch = teacher(folder, words=words)
    with torch.no_grad():
        logits = model.to(dtype)(batch).logits
        expected = torch.tensor([by_hand(folder, text, dtype, words) for text in TEXTS], dtype=torch.float64)
    assert logits.dtype == dtype
    assert logits.shape == (len(TEXTS), 2)
    assert (logits.double() - expected).abs().max() < close


def test_it_has_learned_which_reviews_are_good(folder):
    texts = [text for text, _ in reviews()]
    model, batch = teacher(folder, texts, WORDS)
    with torch.no_grad():
        answers = model(batch).logits.argmax(1).tolist()
    right = sum(CLASSES[answer] == label for answer, (_, label) in zip(answers, reviews(), strict=True))
    assert right > 0.9 * len(texts)


def test_a_batch_of_texts_of_any_length_is_answered_as_each_alone(folder):
    model, batch = teacher(folder)
    with torch.no_grad():
        together = model(batch).logits
        for row, text in enumerate(TEXTS):
            alone, single = teacher(folder, (text,))
            assert (alone(single).logits[0] - together[row]).abs().max() < 1e-5


def test_what_lies_behind_a_text_changes_nothing(folder):
    model, batch = teacher(folder)
    [ids] = [name for name in batch if name.endswith(".ids")]
    lengths = batch[ids.replace(".ids", ".lengths")]
    junk = copy.deepcopy(batch)
    junk[ids] = torch.cat([batch[ids], torch.full((len(TEXTS), 5), 7)], 1)
    behind = torch.arange(junk[ids].shape[1]) >= lengths[:, None]
    junk[ids][behind] = torch.arange(int(behind.sum())) % 200 + 20
    with torch.no_grad():
        assert (model(batch).logits - model(junk).logits).abs().max() < 1e-5


def test_positions_are_told_from_the_front_by_learned_places_too(folder, tmp_path):
    content = (folder / "tokenizer.json").read_text()
    torch.manual_seed(1)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "vocab_size": 400, "bos_token_id": 2, "eos_token_id": 3}
    saved(transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval(), content, tmp_path / "gpt2")
    model, batch = teacher(tmp_path / "gpt2")
    with torch.no_grad():
        logits = model(batch).logits
        expected = torch.tensor([by_hand(tmp_path / "gpt2", text, torch.float32) for text in TEXTS])
    assert (logits - expected).abs().max() < 1e-5


def test_a_pass_is_taken_for_each_beginning_that_begins_no_other():
    assert routes([(1,), (2,)]) == [()]
    assert routes([(1,), (2, 3)]) == [(2,)]
    assert routes([(1,), (2, 3), (2, 3, 4), (2, 3, 5), (6, 7)]) == [(2, 3), (6,)]


def test_the_output_layer_sees_the_chosen_places_alone(folder):
    model, batch = teacher(folder, words=WORDS)
    seen = []
    layer = model.net.language.get_output_embeddings()
    layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    with torch.no_grad():
        model(batch)
        model.net.language(input_ids=torch.tensor([[1, 2, 3]]))
    words = max(len(word) for word in model.net.plain_words)
    assert seen == [(len(TEXTS), words, layer.out_features), (1, 3, layer.out_features)]


def test_a_copy_chooses_for_itself(folder):
    model, batch = teacher(folder)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(batch).logits
        model.net.language.get_output_embeddings()._forward_pre_hooks.clear()
        assert torch.equal(twin(batch).logits, expected)


# ------------------------------------------------------------------------------------------------ calibration
def test_calibration_divides_by_the_mean_probability_of_texts_that_say_nothing(folder):
    plain, batch = teacher(folder)
    calibrated, _ = teacher(folder, calibrate=True)
    with torch.no_grad():
        probabilities = torch.tensor([by_hand(folder, text, torch.float64) for text in ("N/A", "", "[MASK]")], dtype=torch.float64).exp()
        p_cf = probabilities.mean(0) / probabilities.mean(0).sum()
        p = plain.double()(batch).logits.softmax(1)
        expected = p @ torch.diag(1 / p_cf).double()  # W p, and b = 0
        found = calibrated.double()(batch).logits
    assert (found.softmax(1) - expected / expected.sum(1, keepdim=True)).abs().max() < 1e-7
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_a_text_that_says_nothing_is_answered_evenly_where_it_is_the_only_one():
    language = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
        )
    ).double()
    net = ByWords(language.eval(), [[(3,), (4, 5)], [(6,)]], [(1, 2)])
    with torch.no_grad():
        logits = net({"input_ids": torch.tensor([[1, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])})
    assert logits.abs().max() < 1e-12


def test_the_mean_of_exponentials_is_taken_in_logs():
    assert torch.allclose(mean_of_exponentials(torch.tensor([[0.0, math.log(3.0)]]).double()), torch.tensor([math.log(2.0)]).double())


# ------------------------------------------------------------------------------------------------ whole runs
def words(folder: Path, table: Path, *more: str) -> tuple[str, ...]:
    verbalizer = 'teacher.verbalizer={negative:[" bad"," terrible"],positive:[" good"]}'
    own = (f"teacher={CAUSAL}", f"teacher.model={folder}", f"teacher.template={TEMPLATE}", verbalizer, "student=bag")
    return ("dataset=text", f"dataset.root={table}", *own, *QUICK, "hydra.run.dir=run", *more)


def summary(place: Path) -> dict[str, dict]:
    return {row["model"]: row for row in json.loads((place / "run/summary.json").read_text())["rows"]}


def test_a_student_learns_by_it_and_its_answers_are_kept_as_they_are_live(folder, table, tmp_path):
    weights = []
    for name, more in (("kept", ()), ("live", ("teacher.cache.mode=off",))):
        (tmp_path / name).mkdir()
        asked = words(folder, table, "distill.epochs=3", "teacher.cache.dtype=fp32", "teacher.calibrate=true", *more)
        finished = call("distill", *asked, cwd=tmp_path / name)
        assert finished.code == 0, finished.err + finished.out
        assert ("answers were read" in finished.out) == (name == "kept")
        assert "teacher: answers negative by ' bad', ' terrible'" in finished.out
        weights.append((tmp_path / name / "run/distill/student.safetensors").read_bytes())
        assert summary(tmp_path / name)["teacher"]["top1"] > 0.9
    assert weights[0] == weights[1]


def test_kept_answers_are_found_by_words_calibration_and_template(folder):
    def told(template: str = TEMPLATE, **more) -> str:
        config = ModelConfig(name=CAUSAL, model=str(folder), template=template, **{"verbalizer": WORDS, **more})
        model = obtain(config, contract(), "teacher", seed=0).classifier
        return json.dumps(preprocessing(model))

    swapped = {"negative": WORDS["positive"], "positive": WORDS["negative"]}
    variants = [told(), told(verbalizer=LONG), told(verbalizer=swapped), told(calibrate=True), told("{text} was"), told(max_tokens=64)]
    assert len(set(variants)) == len(variants)
    assert told() == variants[0]


def test_what_decides_kept_answers_stays_when_it_has_answered(folder):
    model, batch = teacher(folder, calibrate=True)
    before = json.dumps(preprocessing(model))
    with torch.no_grad():
        model(batch)
    assert json.dumps(preprocessing(model)) == before


def test_it_is_one_of_several_teachers_and_evaluate_measures_agreement(folder, table, tmp_path):
    member = {f"teacher.members.a.{key}={value}" for key, value in (("name", CAUSAL), ("model", folder), ("template", f'"{TEMPLATE}"'))}
    several = (
        "teacher=ensemble",
        *sorted(member),
        'teacher.members.a.verbalizer={negative:[" bad"],positive:" good"}',
        "teacher.members.b=bag",
    )
    plain = words(folder, table, "pretrain.epochs=1", "distill.epochs=1", "finetune.epochs=0", "baseline=false")
    finished = call("train", *(word for word in plain if not word.startswith("teacher")), *several, cwd=tmp_path)
    assert finished.code == 0, finished.err + finished.out
    assert set(summary(tmp_path)) == {"teacher", "teacher a", "teacher b", "distilled"}
    asked = [word for word in plain if word.startswith("teacher")]
    finished = call("evaluate", "checkpoint=run", *asked, *QUICK, "hydra.run.dir=seen", cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert 0 < json.loads((tmp_path / "seen/evaluation.json").read_text())["measured"]["agreement"] <= 1


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(folder, table, tmp_path):
    examples = ("teacher.examples=2", "teacher.example_template=Review: {text} It was{label}. ", f"teacher.template={{examples}}{TEMPLATE}")
    asked = words(folder, table, "distill.epochs=3", "teacher.cache.mode=off", "optimizer=adamw_text", *examples, "teacher.calibrate=true")
    asked = [f"++{word}" if word.startswith("teacher.verbalizer") else word for word in asked if not word.startswith("hydra")]
    asked = [f"{key}='{value}'" if "template" in key else word for word in asked for key, _, value in [word.partition("=")]]
    for name, stops in (("whole", (10**9,)), ("stopped", (11, 10**9))):
        for after in stops:
            config = configured("distill", tmp_path / name, *asked)
            with session(config, tmp_path / name, StopAfter(after)) as running:
                if after < 100:
                    with pytest.raises(Interrupted):
                        train(running, step(config, "distill"))
                else:
                    train(running, step(config, "distill"))
    assert same_stage(tmp_path / "whole/distill", tmp_path / "stopped/distill") == []


def test_classes_that_are_numbers_are_named_in_a_mapping(folder, table, tmp_path):
    numbered = tmp_path / "numbers.csv"
    numbered.write_text(table.read_text().replace("negative", "0").replace("positive", "1"))
    plain = [word for word in words(folder, numbered, "distill.epochs=1") if not word.startswith("teacher.verbalizer")]
    finished = call("distill", *plain, 'teacher.verbalizer={0:[" bad"],1:" good"}', cwd=tmp_path)
    assert finished.code == 0, finished.err
    assert summary(tmp_path)["teacher"]["top1"] > 0.9


# ------------------------------------------------------------------------------------------------ what is wrong is told in a line
VERBALIZER = '\'teacher.verbalizer={negative:[" bad"],positive:[" good"]}\''
ASKED = f"distill dataset=text dataset.root=reviews.csv student=bag teacher=causal_lm teacher.model=lm 'teacher.template={TEMPLATE}'"
WRONG = [
    Row("no model", ASKED.replace("teacher.model=lm", "") + f" {VERBALIZER}", USAGE, ("teacher=causal_lm: which one is not said",)),
    Row("no template", f"{ASKED} teacher.template=null {VERBALIZER}", USAGE, ("goes on where a template ends", "set teacher.template=")),
    Row("no words", ASKED, USAGE, ("no words stand for the classes; set teacher.verbalizer.<class>=",)),
    Row("a class without words", f"{ASKED} {VERBALIZER} teacher.verbalizer.negative=[]", USAGE, ("teacher.verbalizer.negative=[]",)),
    Row("a class that is not named", f"{ASKED} 'teacher.verbalizer.positive=[\" good\"]'", USAGE, ("no word stands for negative",)),
    Row("a class that is not there", f"{ASKED} {VERBALIZER} teacher.verbalizer.neutral=so", USAGE, ("has no class neutral", "negative, positive")),
    Row("a number for a word", f"{ASKED} {VERBALIZER} teacher.verbalizer.positive=[7]", USAGE, ("positive=[7]: expected words",)),
    Row(
        "one word for two classes",
        f"{ASKED} {VERBALIZER} 'teacher.verbalizer.negative=[\" good\"]'",
        USAGE,
        ("teacher.verbalizer.positive=' good': it has the tokens of ' good', which stands for negative",),
    ),
    Row("two words alike", f"{ASKED} {VERBALIZER} 'teacher.verbalizer.negative=[\" bad\",bad]'", USAGE, ("'bad': it has the tokens of ' bad'",)),
    Row("no folder", f"{ASKED} teacher.model=./nowhere {VERBALIZER}", USAGE, ("teacher.model=./nowhere: no such file or folder",)),
    Row("a classifier", f"{ASKED} teacher.model=encoder {VERBALIZER}", CHECKPOINT, ("so it is no causal language model", "teacher=transformer")),
    Row("an encoder", f"{ASKED} teacher.model=masked {VERBALIZER}", CHECKPOINT, ("it looks at what comes after a word",)),
    Row("pickled weights", f"{ASKED} teacher.model=pickled {VERBALIZER}", CHECKPOINT, ("no causal language model that can be used",)),
    Row("too long for it", f"{ASKED} dataset.max_tokens=999 {VERBALIZER}", USAGE, ("has places for 256 tokens", "teacher.max_tokens=256")),
    Row("features of it", f"{ASKED} {VERBALIZER} loss=fitnet", USAGE, ("it answers with logits alone", "student: it has no tap"), lines=2),
    Row("as a student", "distill dataset=text dataset.root=reviews.csv student=causal_lm", USAGE, ("student=causal_lm: a causal language model",)),
    Row(
        "trained",
        f"pretrain {ASKED.removeprefix('distill').replace('student=bag', '')} {VERBALIZER}",
        USAGE,
        ("teacher=causal_lm: it teaches as it is, and pretrain would train it",),
    ),
    Row("words for another net", "distill dataset=text dataset.root=reviews.csv teacher=bag teacher.calibrate=true", USAGE, ("belongs to teacher=causal_lm",)),
    Row("no column", f"{ASKED} teacher.template=so {VERBALIZER}", USAGE, ("teacher.template: it has no column in braces",)),
    Row("no data", f"{ASKED} dataset.root=nowhere.csv {VERBALIZER}", DATA, ("nowhere.csv",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(folder, table, tmp_path_factory) -> Path:
    """A folder with the reviews, the language model, and nets that are none."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "reviews.csv").symlink_to(table)
    (place / "lm").symlink_to(folder)
    content = (folder / "tokenizer.json").read_text()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 400}
    shape = transformers.BertConfig(**size)
    saved(transformers.BertForSequenceClassification(shape), content, place / "encoder")
    saved(transformers.BertLMHeadModel(shape), content, place / "masked")
    saved(transformers.BertLMHeadModel(shape), content, place / "pickled")
    (place / "pickled/model.safetensors").unlink()
    torch.save({}, place / "pickled/pytorch_model.bin")
    return place


@each(WRONG)
def test_a_mistake_is_one_line(row, workshop):
    check_refused(row, workshop)
