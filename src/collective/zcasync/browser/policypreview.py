"""When a retry policy would try a job again: the times of the next ten attempts, for the form and as one types."""

from collections.abc import Mapping
from collective.zcasync import clock
from collective.zcasync import policyactions
from collective.zcasync.browser.panel import Moment
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.browser.policyfields import rules_of
from collective.zcasync.browser.policyfields import rules_text
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.readable import span_text
from dataclasses import dataclass
from datetime import datetime
from datetime import timedelta
from functools import cached_property
from itertools import accumulate
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any
from zope.i18n.format import NumberParseError
from zope.interface import Invalid

#: Attempts that are shown.
SHOWN = 10

#: Names of the numbers, as the form has them.
FIELDS = ("attempts", "first_wait", "growth", "longest_wait", "jitter", "age_limit")


@dataclass(frozen=True)
class Attempt:
    """One attempt after a failure. ``wait``: since the one before; ``spread``: what the jitter does to it."""

    number: int
    wait: str
    spread: str
    after: str
    moment: Moment | None


@dataclass(frozen=True)
class RuleLine:
    """What a rule does. ``after``: how long after the first failure the job is tried again; empty: never."""

    rule: str
    after: str


class Preview(PanelView):
    """A fragment of the page: the attempts that follow if a job fails now and each time again.

    ``given``: numbers and ``rules`` of a policy; None: what was typed.
    """

    template = ViewPageTemplateFile("templates/policy-preview.pt")

    def __init__(self, context: Any, request: Any, given: Mapping[str, Any] | None = None) -> None:
        super().__init__(context, request)
        self.given = given

    def __call__(self) -> Any:
        self.request.response.setHeader("Cache-Control", "no-store")
        return self.template()

    @cached_property
    def policy(self) -> ConfiguredPolicy | None:
        """A policy with the numbers and rules that were given or typed; None if they are wrong."""
        try:
            return ConfiguredPolicy("preview", **(self._typed() if self.given is None else dict(self.given)))
        except (Invalid, InvalidValueError, NumberParseError, ValueError):
            return None

    @cached_property
    def attempts(self) -> list[Attempt]:
        """The next attempts; none if the first failure is the last one."""
        assert self.policy is not None
        numbers = self.policy.numbers()
        found, after, now = [], timedelta(0), clock.utcnow()
        for failures, wait in enumerate(policyactions.waits(self.policy, SHOWN), 1):
            after += wait
            seconds = wait.total_seconds()
            spread = seconds * numbers["jitter"]
            shortest, longest = seconds - spread, min(seconds + spread, numbers["longest_wait"])
            found.append(
                Attempt(
                    failures + 1,
                    span_text(seconds),
                    f"{span_text(shortest)} – {span_text(longest)}" if spread else "",
                    span_text(after.total_seconds()),
                    self._moment(now, now + after),
                )
            )
        return found

    @cached_property
    def rules(self) -> list[RuleLine]:
        """What each rule does in place of the above."""
        assert self.policy is not None
        lines = []
        for rule in self.policy.rules:
            waits = policyactions.waits(self.policy, SHOWN, rule)
            after = [span_text(seconds) for seconds in accumulate(wait.total_seconds() for wait in waits)]
            lines.append(RuleLine(rules_text([rule]), ", ".join([*after, "…"] if len(after) == SHOWN else after)))
        return lines

    def _moment(self, now: datetime, when: datetime) -> Moment | None:
        """The time of an attempt: on this day to the second, as the first waits are short."""
        told = self.moment(when)
        here = when.astimezone(self.zone)
        if told is not None and here.date() == now.astimezone(self.zone).date():
            return Moment(f"{here:%H:%M:%S}", told.iso)
        return told

    @property
    def end(self) -> str:
        """What follows the last attempt that is shown."""
        if len(self.attempts) == SHOWN:
            return self.translate(_("preview_more", default="More attempts follow, if it fails each time."))
        return self.translate(_("preview_end", default="If it fails then too, the job ends as failed."))

    def _typed(self) -> dict[str, Any]:
        """What was typed; numbers written as the reader's language writes numbers: 0.5 in English, 0,5 in German."""
        form = self.request.form
        formatter = self.request.locale.numbers.getFormatter("decimal")
        numbers: dict[str, Any] = {"rules": rules_of(str(form.get("form.widgets.rules", "")))}
        for name in FIELDS:
            text = str(form.get(f"form.widgets.{name}", "")).strip()
            if text:
                value = float(formatter.parse(text))
                numbers[name] = int(value) if name == "attempts" and value.is_integer() else value
            elif name in ("attempts", "age_limit"):
                numbers[name] = None
            else:
                raise ValueError(name)
        return numbers
