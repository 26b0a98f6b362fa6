"""Hidden states, attention and answers, layer by layer (TinyBERT, Jiao et al. 2020, 1909.10351).

B batch, L layers, T tokens, C and D widths, H heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillctl.build import not_negative, positive
from distillctl.errors import ConfigError
from distillctl.losses.inputs import as_read
from distillctl.losses.logits import soft_cross_entropy
from distillctl.losses.pairing import Pairs, as_given, check_pairs, chosen_pairs, spread
from distillctl.losses.tokens import TokenLoss, mask_of, mean_over_texts, real, stacked
from distillctl.types import Batch, Output

EMBEDDINGS = 0
READ = (("hidden_states",), ("score_queries", "score_keys"), ("logits",))  # by hidden states, attention and prediction


def hidden_gap(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean square of the difference of hidden states [B, T, C], over width and each text's real tokens. L_hidn and L_embd, whose W is in `student` already."""
    gaps = (real(student, mask) - real(teacher, mask)).square().mean(2)
    return mean_over_texts(gaps.sum(1), mask)


def attention_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """QKᵀ / √E of each head, before the softmax: [B, T, H, E] twice -> [B, H, T, T], a row for each query."""
    return queries.transpose(1, 2) / math.sqrt(queries.shape[3]) @ keys.permute(0, 2, 3, 1)


def attention_gap(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Mean square of the difference of attention scores, over heads and each text's pairs of real tokens. L_attn: scores, not the softmax of them.

    Each net as (queries, keys), [B, T, H, E]; E may differ. Where either token of a pair is none, both scores are 0, and so is their gap.
    """
    ours, theirs = (attention_scores(real(queries, mask), real(keys, mask)) for queries, keys in (student, teacher))
    return mean_over_texts((ours - theirs).square().mean(1).sum((1, 2)), mask, power=2)


def name_of(layer: int) -> str:
    """Of the projection of a layer's hidden states."""
    return "embeddings" if layer == EMBEDDINGS else "states"


def check_embeddings(pairs: Pairs, attention: float) -> None:
    """Whether embeddings are paired with embeddings, and something else with attention. Raises ValueError as `build` wants it."""
    if any((ours == EMBEDDINGS) != (theirs == EMBEDDINGS) for ours, theirs in pairs):
        raise ValueError(f"layers={as_given(pairs)}: 0 is the embeddings, which go with embeddings: [0,0]")
    if attention and set(pairs) == {(EMBEDDINGS, EMBEDDINGS)}:
        raise ValueError(f"layers={as_given(pairs)}: embeddings have no attention; name a layer besides, or set attention=0")


class TinyBert(TokenLoss):
    """The sum of L_embd, L_hidn and L_attn over layers, each with λ of 1, and of L_pred, the cross-entropy with the teacher's answers.

    layers: auto pairs layer l with l · L_t / L_s; or pairs [student, teacher], where [0, 0] is the embeddings. hidden, attention, prediction:
    the weights of the three; one of 0 is not read. One W of the embeddings and one of all hidden states are learned where widths differ; the
    paper has them always. All three terms are minimised at once, where the paper learns the prediction in a stage after the others.
    """

    key = "loss.tinybert"

    def __init__(
        self,
        layers: str | Sequence[Sequence[int]] = "auto",
        hidden: float = 1.0,
        attention: float = 1.0,
        prediction: float = 1.0,
        temperature: float = 1.0,
    ):
        weights = (not_negative(hidden=hidden), not_negative(attention=attention), not_negative(prediction=prediction))
        taps = tuple(tap for weight, names in zip(weights, READ, strict=True) if weight for tap in names)
        if not hidden and not attention:
            raise ValueError(
                f"hidden={hidden} and attention={attention} leave answers alone, which is loss=soft_ce; give one of them a weight > 0"
            )
        super().__init__(taps, taps)
        self.hidden, self.attention, self.prediction = weights
        self.temperature = positive(temperature=temperature)
        self.layers = chosen_pairs(layers, ("auto",))
        if not isinstance(self.layers, str):
            check_embeddings(self.layers, attention)
        self.pairs: Pairs = ()
        self.projections = nn.ModuleDict()

    def prepare(self, student: Output, teacher: Output, samples: int) -> None:
        tap, dims, extra = ("hidden_states", 4, 1) if "hidden_states" in self.student_taps else ("score_queries", 5, 0)
        ours, theirs = stacked(student, tap, dims), stacked(teacher, tap, dims)
        self.check_tokens(student, teacher, ours[:, 0], theirs[:, 0])
        depths = ours.shape[1] - extra, theirs.shape[1] - extra
        if isinstance(self.layers, str):
            self.pairs = ((EMBEDDINGS, EMBEDDINGS), *spread(*depths, self.key))
        else:
            self.pairs = check_pairs(self.layers, *depths, self.key)
        if "score_queries" in self.student_taps:
            self.check_heads(student, teacher)
        if tap == "hidden_states" and ours.shape[3] != theirs.shape[3]:
            for name in sorted({name_of(layer) for layer, _ in self.pairs}):
                self.projections[name] = nn.Linear(ours.shape[3], theirs.shape[3], bias=False).to(ours.device)

    def check_heads(self, student: Output, teacher: Output) -> None:
        heads = {tap: [stacked(output, tap, 5).shape[3] for output in (student, teacher)] for tap in ("score_queries", "score_keys")}
        ours, theirs = heads["score_queries"]
        if ours != theirs or heads["score_keys"] != heads["score_queries"]:
            raise ConfigError(
                f"{self.key}.attention={self.attention}: attention is compared head by head, and the student has {ours} heads where the teacher has "
                f"{theirs} (of keys {' and '.join(map(str, heads['score_keys']))}); leave it out by {self.key}.attention=0, or take loss=minilmv2"
            )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        assert self.pairs, "prepare comes first"
        terms = []
        if "hidden_states" in self.student_taps:
            terms.append(self.hidden * self.hidden_term(student, teacher))
        if "score_queries" in self.student_taps:
            terms.append(self.attention * self.attention_term(student, teacher))
        if "logits" in self.student_taps:
            terms.append(self.prediction * soft_cross_entropy(student.logits, teacher.logits, self.temperature))
        return torch.stack(terms).sum()

    def hidden_term(self, student: Output, teacher: Output) -> Tensor:
        """Σ over pairs of layers, the embeddings among them."""
        ours, theirs = stacked(student, "hidden_states", 4), stacked(teacher, "hidden_states", 4)
        mask = mask_of(student, teacher, ours[:, 0], theirs[:, 0], self.key)
        gaps = [hidden_gap(self.projected(ours[:, one], one, mask), theirs[:, other], mask) for one, other in self.pairs]
        return torch.stack(gaps).sum()

    def projected(self, states: Tensor, layer: int, mask: Tensor) -> Tensor:
        """W h, at the precision of h: [B, T, C] -> [B, T, D]. Padding is left out before, so that W's gradient does not see it."""
        if not self.projections:
            return states
        with as_read(states):
            return self.projections[name_of(layer)](real(states, mask))

    def attention_term(self, student: Output, teacher: Output) -> Tensor:
        """Σ over pairs of layers that have attention."""
        (q_s, k_s), (q_t, k_t) = ([stacked(output, tap, 5) for tap in ("score_queries", "score_keys")] for output in (student, teacher))
        mask = mask_of(student, teacher, q_s[:, 0], q_t[:, 0], self.key)
        gaps = [
            attention_gap((q_s[:, one - 1], k_s[:, one - 1]), (q_t[:, other - 1], k_t[:, other - 1]), mask)
            for one, other in self.pairs
            if one != EMBEDDINGS
        ]
        return torch.stack(gaps).sum()
