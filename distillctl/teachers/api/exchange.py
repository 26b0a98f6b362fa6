"""A request until it is answered or given up: within the budget and the pace, tried again where that helps, and kept once it is paid for."""

from __future__ import annotations

from decimal import Decimal

from distillctl.errors import MachineError, UserError
from distillctl.teachers.api.client import Post
from distillctl.teachers.api.clock import Clock
from distillctl.teachers.api.crew import Crew
from distillctl.teachers.api.failures import Failed, GivenUp, Refused
from distillctl.teachers.api.ledger import Ledger
from distillctl.teachers.api.money import NOTHING, Price, Purse
from distillctl.teachers.api.pace import Pace
from distillctl.teachers.api.replies import Answer, answer_of
from distillctl.teachers.api.requests import Request
from distillctl.teachers.api.retries import PATIENCE_S, backoff_s
from distillctl.teachers.api.secret import Secret
from distillctl.teachers.api.tokens import Usage


class Exchange:
    """Asks one model. price: None where there is none, so that tokens alone are counted. seed: of the waits between tries."""

    def __init__(
        self, post: Post, ledger: Ledger, purse: Purse, pace: Pace, crew: Crew, clock: Clock, secret: Secret, model: str, price: Price | None,
        retries: int, seed: int,
    ):  # fmt: skip
        self.post, self.ledger, self.purse, self.pace, self.crew, self.clock = post, ledger, purse, pace, crew, clock
        self.secret, self.model, self.price, self.retries, self.seed = secret, model, price, retries, seed
        self.requests = self.tries_failed = 0
        self.usage, self.money = Usage(), NOTHING
        self.beyond: str | None = None

    async def ask(self, request: Request) -> Answer:
        """The answer, from the ledger where it is there. Raises GivenUp, Refused, Overdrawn, Halted and UserError."""
        kept = self.ledger.book.answers.get(request.key)
        if kept is not None:
            return kept
        attempt = 1
        while True:
            self.crew.check()
            try:
                return await self.once(request)
            except Failed as failure:
                self.tries_failed += 1
                if failure.wait_s is not None:
                    self.respect(failure)
                if attempt > self.retries:
                    raise GivenUp(f"{failure.why}; tried {attempt} times") from None
                wait_s = backoff_s(attempt, self.seed, int(request.key[:15], 16))
            await self.clock.sleep(wait_s)
            attempt += 1

    def respect(self, failure: Failed) -> None:
        """Everybody waits as long as a server asks for. Raises MachineError where that is longer than anybody would."""
        assert failure.wait_s is not None
        if failure.wait_s > PATIENCE_S:
            hours = failure.wait_s / 3600
            raise MachineError(f"the endpoint wants to be left alone for {hours:.1f} h ({failure.why}); go on then, by the same command")
        self.pace.hold(failure.wait_s)

    async def once(self, request: Request) -> Answer:
        """One try. What it may cost is put aside before, and what it has cost is written down before anybody sees the answer."""
        most = self.cost(request.most)
        await self.purse.reserve(most or NOTHING)
        cost = NOTHING
        try:
            admission = await self.pace.admit(request.most.total)
            self.crew.check()
            with self.crew.in_flight():
                number = await self.ledger.begin(self.model, request.most, most)
                cost = most or NOTHING  # until something else is known
                try:
                    self.requests += 1
                    answer = self.clean(answer_of(await self.post(request.path, request.content), request.n))
                except (Failed, Refused, UserError) as failure:
                    maybe_paid = isinstance(failure, Failed) and failure.maybe_paid
                    if isinstance(failure, Failed):
                        failure.why = self.secret.scrub(failure.why)
                    await self.ledger.failed(number, self.secret.scrub(str(failure)), maybe_paid)
                    if not maybe_paid:
                        cost, admission.tokens = NOTHING, 0
                    raise
                usage = answer.usage or request.most
                paid = self.cost(usage)
                cost, admission.tokens = paid or NOTHING, usage.total
                self.note(usage, request.most)
                await self.ledger.answered(number, self.model, request, answer, paid)
            return answer
        finally:
            self.money += cost
            self.purse.settle(most or NOTHING, cost)

    def cost(self, usage: Usage) -> Decimal | None:
        return None if self.price is None else self.price.of(usage)

    def clean(self, answer: Answer) -> Answer:
        """Without the key, should an endpoint echo it."""
        choices = []
        for choice in answer.choices:
            top = choice.top and tuple((self.secret.scrub(token), value) for token, value in choice.top)
            choices.append(type(choice)(self.secret.scrub(choice.text), top))
        return Answer(tuple(choices), answer.usage)

    def note(self, usage: Usage, most: Usage) -> None:
        self.usage += usage
        if usage.prompt > most.prompt or usage.answer > most.answer:
            self.beyond = (
                f"the endpoint counted {usage.prompt:,} + {usage.answer:,} tokens for a request of at most {most.prompt:,} + {most.answer:,}; "
                "the budget is held by its count, and the last requests may exceed it"
            )
