"""A causal language model as a classifier: each class is told by words, and scored by how likely the model goes on with them.

B texts, T tokens, V entries of the vocabulary, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Tokens = tuple[int, ...]
EMPTY = -1  # behind the tokens of shorter words


class ByWords(nn.Module):
    """{input_ids, attention_mask} int64 [B, T], filled up behind, as logits [B, K] in float32, or float64 where the model is.

    A word w of n tokens scores s_w = (1/n) Σ_i log p(w_i | prompt, w_1 ... w_{i-1}), and a class of m words log (1/m) Σ_w exp s_w: the mean
    log-probability of a token, and the log of the mean over words. It is one pass, with the words of one token alone, else one for each of
    the longer words that is not the beginning of another.

    free: the template filled with texts that say nothing. Where there are any, the logits are log p_k - log p̄_k (contextual calibration,
    Zhao et al. 2021, with W = diag(p̄)^-1 and b = 0): p̄ is the mean of their class probabilities exp(score), the p_cf of the paper; it and p
    are theirs up to the factor that makes them sum to 1. Their code takes the largest entry of W p; softmax of these logits is W p brought to
    sum 1. They add the probabilities of a class's words where these are averaged: in W p that cancels.
    """

    words: Tensor
    owners: Tensor
    free: Tensor

    def __init__(self, language: nn.Module, classes: Sequence[Sequence[Tokens]], free: Sequence[Tokens] = ()):
        super().__init__()
        self.language = language
        self.plain_words = [word for words in classes for word in words]
        # what no state dict holds is told by buffers: kept answers are found by these too
        self.register_buffer("words", filled_up(self.plain_words), persistent=False)
        self.register_buffer("owners", torch.tensor([k for k, words in enumerate(classes) for _ in words]), persistent=False)
        self.register_buffer("free", filled_up(free), persistent=False)
        self.sizes = [len(words) for words in classes]
        self.routes = routes(self.plain_words)
        self.chosen = Chosen()
        language.get_output_embeddings().register_forward_pre_hook(self.chosen)  # type: ignore[operator]
        self.prior: tuple[Any, Tensor] | None = None

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        scores = self.scores(inputs["input_ids"], inputs["attention_mask"].sum(1))
        return scores - self.prior_scores(scores) if len(self.free) else scores

    def scores(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """[B, K] before calibration. lengths: int64 [B], tokens of each prompt."""
        found: dict[Tokens, Tensor] = {}
        for route in self.routes:
            given, places = appended(ids, lengths, route)
            logits = self.logits_at(given, lengths + len(route), places)
            norm = logits.logsumexp(-1)
            for word in set(self.plain_words) - found.keys():
                if word[:-1] == route[: len(word) - 1]:
                    picked = [logits[:, place, token] - norm[:, place] for place, token in enumerate(word)]
                    found[word] = torch.stack(picked).mean(0)
        by_class = torch.stack([found[word] for word in self.plain_words], 1).split(self.sizes, 1)
        return torch.stack([mean_of_exponentials(words) for words in by_class], 1)

    def logits_at(self, ids: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
        """[B, N, V] at places int64 [B, N] of texts int64 [B, T]. The output layer sees these alone: over all places it would fill the memory."""
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        self.chosen.places = places
        try:
            logits: Tensor = self.language(input_ids=ids, attention_mask=real.long(), use_cache=False).logits
        finally:
            self.chosen.places = None
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def prior_scores(self, scores: Tensor) -> Tensor:
        """[K] of the texts that say nothing, in the precision that is computed in; once for each place and precision."""
        place = (scores.device, scores.dtype, torch.is_autocast_enabled(scores.device.type), scores.is_meta)
        if self.prior is None or self.prior[0] != place:
            lengths = (self.free != EMPTY).sum(1)
            with torch.no_grad():
                self.prior = place, mean_of_exponentials(self.scores(self.free.clamp(min=0), lengths).T)
        return self.prior[1]

    def extra_repr(self) -> str:
        return f"classes={self.sizes}, calibrated={bool(len(self.free))}"


class Chosen:
    """In front of an output layer: lets the chosen places through. An object and no closure, so that a copy of the net chooses for the copy."""

    places: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if self.places is None:
            return None
        states = inputs[0]
        return (states.gather(1, self.places[..., None].expand(-1, -1, states.shape[-1])), *inputs[1:])


def routes(words: Sequence[Tokens]) -> list[Tokens]:
    """What has to be put behind a prompt to see all tokens of all words: their beginnings, without those that begin another."""
    beginnings = sorted({word[:-1] for word in words})
    return [each for each in beginnings if not any(other != each and other[: len(each)] == each for other in beginnings)]


def appended(ids: Tensor, lengths: Tensor, route: Tokens) -> tuple[Tensor, Tensor]:
    """Texts with tokens behind each, int64 [B, T + R], and where the first of them, the next and what follows are predicted, int64 [B, R + 1]."""
    behind = torch.arange(len(route) + 1, device=ids.device)
    # a text without any token has no place before the first; its answer means nothing, and is no error
    places = (lengths[:, None] - 1 + behind).clamp(min=0)
    if not route:
        return ids, places
    longer = torch.cat([ids, ids.new_zeros(len(ids), len(route))], 1)
    tokens = torch.tensor(route, device=ids.device).expand(len(ids), -1)
    return longer.scatter(1, lengths[:, None] + behind[:-1], tokens), places


def mean_of_exponentials(scores: Tensor) -> Tensor:
    """log (1/N) Σ exp of the last axis, [..., N] -> [...]."""
    return scores.logsumexp(-1) - torch.tensor(scores.shape[-1], dtype=scores.dtype, device=scores.device).log()


def filled_up(rows: Sequence[Tokens]) -> Tensor:
    """int64 [N, longest]."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[EMPTY] * (longest - len(row))] for row in rows], dtype=torch.int64).reshape(len(rows), longest)
