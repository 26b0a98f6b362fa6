"""What is said of a teacher behind an endpoint that speaks as OpenAI's does. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from distillctl.config.fields import branch, number, option, value

API = "api"  # the teacher that is asked over the network, before any training


@dataclass
class ApiConfig:
    """Where the model is asked (vLLM, Ollama, a hosted one), how, how fast, and what it may cost."""

    url: Optional[str] = value(None, decides="answers")
    """where a teacher=api answers: the base of its API, as in http://localhost:8000/v1"""
    model: Optional[str] = value(None, decides="answers")
    """the model's name at that endpoint"""
    endpoint: str = option("chat", "chat", "completions", decides="answers")
    """which of its doors: chat completions, or completions, as for a base model"""
    key_variable: str = value("OPENAI_API_KEY", decides="cost")
    """the variable of the environment that holds the key, a name that ends in _API_KEY; not set: asked without a key"""
    insecure_http: bool = value(False, decides="cost")
    """send the key to another machine over http, where whoever is in between can read it"""
    ask: str = option("auto", "auto", "logprobs", "votes", decides="answers")
    """how classes get probabilities: by the first token's log-probabilities, by votes, or as the endpoint can"""
    verbalizer: dict[str, Any] = branch(dict, decides="answers")
    """words that stand for a class, as in teacher.verbalizer.pos=[good,great]; else the class's name"""
    exact_words: bool = value(False, decides="answers")
    """case and leading spaces count where answers are held against label words"""
    votes: int = number(5, decides="answers", low=1, high=1000)
    """answers that are drawn of each text where it is asked by votes"""
    vote_temperature: float = number(1.0, decides="answers", low=0, high=2)
    """at which votes are drawn; 0: all alike, so take teacher.votes=1"""
    smoothing: float = number(0.5, decides="answers", low=0)
    """votes that are added in all, spread evenly over the classes"""
    answer_tokens: int = number(64, decides="answers", low=1, high=100_000)
    """the most tokens of a vote; a model that reasons before it answers needs more"""
    concurrency: int = number(8, decides="cost", low=1, high=1000)
    """requests in flight at once"""
    requests_per_minute: Optional[int] = number(None, decides="cost", low=1)
    """the most that are begun within any minute; null: no limit"""
    tokens_per_minute: Optional[int] = number(None, decides="cost", low=1)
    """the most tokens, of prompts and answers, within any minute; null: no limit"""
    retries: int = number(5, decides="cost", low=0, high=100)
    """further tries of a request that failed, before its text is given up"""
    timeout_s: float = number(60.0, decides="cost", above=0)
    """seconds that an answer may take"""
    give_up_share: float = number(0.01, decides="cost", low=0, high=1)
    """texts that may be given up, as a share of all; more end the labelling"""
    budget: Optional[float] = number(None, decides="cost", low=0)
    """the most money that the ledger may come to; no request is begun that could exceed it; needs teacher.prices"""
    prices: Optional[str] = value(None, decides="cost", path=True)
    """a YAML or JSON file of prices of a million tokens, as in {gpt-4o-mini: {input: 0.15, output: 0.60}}"""
    ledger: Optional[str] = value(None, decides="cost", path=True)
    """the folder that keeps what was paid for; null: below teacher.cache.dir"""
