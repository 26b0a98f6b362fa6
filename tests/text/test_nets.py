"""Nets of texts: what is filled up behind a text changes nothing, and ours are what their papers say, computed another way."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from distillctl.models.text import transformer
from distillctl.models.text.bag import Bag
from distillctl.models.text.bilstm import BiLstm
from distillctl.models.text.textcnn import TextCnn

VOCABULARY, CLASSES = 40, 3
LENGTHS = (7, 1, 4, 12)


def bert(**more: object) -> nn.Module:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return transformer.build({"model_type": "bert", **sizes, "vocab_size": VOCABULARY, "pad_token_id": 0, **more}, CLASSES)


NETS = {
    "bilstm": lambda: BiLstm(CLASSES, VOCABULARY, 8, 6, 5),
    "textcnn": lambda: TextCnn(CLASSES, VOCABULARY, 8, 6),
    "bag": lambda: Bag(CLASSES, VOCABULARY, 8),
    "bert": bert,
    "distilbert": lambda: transformer.build(
        {"model_type": "distilbert", "n_layers": 1, "dim": 16, "n_heads": 2, "hidden_dim": 32, "vocab_size": VOCABULARY}, CLASSES
    ),
}


def texts(filled: int = 0, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    """Texts of some lengths, behind them and `filled` places more what the seed draws."""
    shape = len(lengths), max(lengths)
    own = torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(99))
    ids = torch.randint(1, VOCABULARY, (shape[0], shape[1] + filled), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    ids[mask] = own[mask[:, : shape[1]]]
    return {"input_ids": ids, "attention_mask": mask.long()}


def logits(net: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    answer = net(inputs)
    return answer if isinstance(answer, Tensor) else answer.logits


@pytest.fixture(params=NETS)
def net(request) -> nn.Module:
    torch.manual_seed(0)
    return NETS[request.param]().eval()


@pytest.mark.parametrize("double", [False, True])
def test_what_lies_behind_a_text_and_how_much_changes_nothing(net, double):
    tolerance = 1e-12 if double else 1e-5
    net = net.double() if double else net
    expected = logits(net, texts())
    assert expected.std(0).min() > 1e-4, "the texts are told apart"
    for filled, seed in ((0, 1), (1, 2), (20, 3)):
        torch.testing.assert_close(logits(net, texts(filled, seed)), expected, rtol=0, atol=tolerance)


def test_a_text_alone_is_answered_as_among_others(net):
    together, net = logits(net.double(), texts()), net.double()
    for row, length in enumerate(LENGTHS):
        alone = {"input_ids": texts()["input_ids"][row : row + 1, :length], "attention_mask": torch.ones(1, length, dtype=torch.int64)}
        torch.testing.assert_close(logits(net, alone)[0], together[row], rtol=0, atol=1e-12)


def test_its_gradients_do_not_depend_on_what_is_filled_up(net):
    net = net.double()

    def gradients(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        net.zero_grad()
        logits(net, inputs).square().sum().backward()
        return {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}

    plain, junk = gradients(texts()), gradients(texts(9, 5))
    assert plain.keys() == junk.keys()
    for name, value in plain.items():
        torch.testing.assert_close(junk[name], value, rtol=0, atol=1e-10, msg=name)


def test_without_a_mask_all_places_are_the_texts(net):
    inputs = texts(lengths=(6, 6))
    torch.testing.assert_close(logits(net, {"input_ids": inputs["input_ids"]}), logits(net, inputs))


def test_the_bilstm_is_a_packed_bidirectional_lstm():
    torch.manual_seed(0)
    net = BiLstm(CLASSES, VOCABULARY, 8, 6, 5).double().eval()
    theirs = nn.LSTM(8, 6, batch_first=True, bidirectional=True).double()
    for name, value in net.onward.named_parameters():
        theirs.get_parameter(name).data = value.data
    for name, value in net.returning.named_parameters():
        theirs.get_parameter(f"{name}_reverse").data = value.data
    inputs = texts(5, 1)
    lengths = inputs["attention_mask"].sum(1)
    packed = pack_padded_sequence(net.embedding(inputs["input_ids"]), lengths, batch_first=True, enforce_sorted=False)
    _, (last, _) = theirs(packed)
    expected = net.head(torch.relu(net.hidden(torch.cat([last[0], last[1]], 1))))
    torch.testing.assert_close(net(inputs), expected, rtol=0, atol=1e-12)


def test_the_convolutions_are_windows_over_the_words_and_zeros_behind_them():
    torch.manual_seed(0)
    net = TextCnn(CLASSES, VOCABULARY, 8, 6, (2, 3, 5)).double().eval()
    inputs = texts(4, 1)
    for row, length in enumerate(LENGTHS):
        words = net.embedding(inputs["input_ids"][row, :length])  # [T, D]
        seen = torch.cat([words, torch.zeros(8, 8).double()])
        best = []
        for convolution in net.convolutions:
            size = convolution.kernel_size[0]
            windows = [(convolution.weight * seen[begin : begin + size].T).sum((1, 2)) + convolution.bias for begin in range(length)]
            best.append(torch.stack(windows).relu().amax(0))
        torch.testing.assert_close(net(inputs)[row], net.head(torch.cat(best)), rtol=0, atol=1e-12)


def test_the_bag_is_the_mean_of_a_text_s_words():
    torch.manual_seed(0)
    net = Bag(CLASSES, VOCABULARY, 8).double().eval()
    inputs = texts(4, 1)
    for row, length in enumerate(LENGTHS):
        mean = net.embedding(inputs["input_ids"][row, :length]).mean(0)
        torch.testing.assert_close(net(inputs)[row], net.head(net.hidden(mean).relu()), rtol=0, atol=1e-12)


def test_a_text_without_any_token_is_answered_by_finite_numbers():
    for make in (NETS["bilstm"], NETS["textcnn"], NETS["bag"]):
        inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "attention_mask": torch.tensor([[0, 0, 0], [1, 1, 0]])}
        assert make().eval()(inputs).isfinite().all()
