"""The list of named retry policies, with their numbers and rules in words."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync import policyactions
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.interfaces import _
from collective.zcasync.retry import ConfiguredPolicy
from collective.zcasync.zopeapp.overview import count_text
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Jobs of each kind in each queue that the pages look at for who uses a policy; the deletion itself looks at more.
LOOK = 1_000

#: Tasks that the list names with a policy.
NAMED = 3

#: Headings of the numbers, by field; the order is that of the list.
COLUMNS = {
    "attempts": _("column_attempts", default="Attempts"),
    "first_wait": _("column_first_wait", default="First wait"),
    "longest_wait": _("column_longest_wait", default="Longest wait"),
    "growth": _("column_growth", default="Growth"),
    "jitter": _("column_jitter", default="Jitter"),
    "age_limit": _("column_age_limit", default="Age limit"),
    "log_every": _("column_log_every", default="Log every"),
}

#: The kinds of trouble that a rule can be about.
TROUBLES = {
    "conflict": _("trouble_conflict", default="Write conflicts"),
    "away": _("trouble_away", default="Database away"),
    "interruption": _("trouble_interruption", default="Interruptions"),
    "error": _("trouble_error", default="Errors in the job"),
    "commit": _("trouble_commit", default="Errors at the commit"),
}


@dataclass(frozen=True)
class PolicyLine:
    """One line of the list."""

    name: str
    url: str
    numbers: tuple[str, ...]
    #: The numbers in one text, for narrow screens.
    summary: str
    rules: list[str]
    shared: bool
    use: str


class Policies(PanelView):
    """The list."""

    section = "zcasync-policies"
    label = _("nav_policies", default="Retry policies")
    description = _(
        "policies_description",
        default="What happens to a job that fails: how often and when it is tried again. A change also holds for"
        " jobs that wait already.",
    )

    @property
    def add_url(self) -> str:
        """URL of the form for a new policy."""
        return self.page_url("zcasync-policy-add")

    @property
    def columns(self) -> list[Any]:
        """Headings of the columns with numbers."""
        return list(COLUMNS.values())

    @cached_property
    def lines(self) -> list[PolicyLine]:
        """All policies by name."""
        if not self.installed:
            return []
        uses = policyactions.policy_uses(self.queues, LOOK)
        return [self._line(name, policy, uses[name]) for name, policy in self.queues.policies.items()]

    def _line(self, name: str, policy: ConfiguredPolicy, use: policyactions.PolicyUse) -> PolicyLine:
        numbers = number_texts({field: getattr(policy, field) for field in COLUMNS}, self.translate)
        return PolicyLine(
            name=name,
            url=self.page_url("zcasync-policy", name=name) if self.may_edit(policy.owner) else "",
            numbers=tuple(text for _label, text in numbers),
            summary=" · ".join(f"{label}: {text}" for label, text in numbers),
            rules=rule_texts(policy, self.translate),
            shared=not policy.owner,
            use=" · ".join(use_texts(use, self.translate, NAMED)),
        )


def rule_texts(policy: ConfiguredPolicy, translate: Callable[[Any], str]) -> list[str]:
    """The rules of a policy in words, for example "Errors in the job (smtplib.SMTPException). Attempts: 9"."""
    texts = []
    for rule in policy.rules:
        told = dict(rule)
        about = translate(TROUBLES[told.pop("trouble")])
        exception = told.pop("exception", "")
        numbers = [f"{label}: {text}" for label, text in number_texts(told, translate)]
        texts.append(f"{about}{f' ({exception})' if exception else ''}. {', '.join(numbers)}")
    return texts


def use_texts(use: policyactions.PolicyUse, translate: Callable[[Any], str], most: int | None = None) -> list[str]:
    """Who uses a policy: a text for each task, ``most`` of them at most, and one for the jobs."""
    lines = [translate(_("use_task", default="Task ${name}", mapping={"name": name})) for name in use.tasks[:most]]
    more = len(use.tasks) - len(lines)
    if more:
        lines.append(translate(_("use_more_tasks", default="Other tasks: ${number}", mapping={"number": more})))
    if use.jobs.number:
        number = count_text(use.jobs)
        lines.append(
            translate(_("use_jobs", default="Jobs that have not ended: ${number}", mapping={"number": number}))
        )
    return lines


def number_texts(numbers: Mapping[str, Any], translate: Callable[[Any], str]) -> list[tuple[str, str]]:
    """Some numbers of a policy, each with its label."""
    return [(translate(COLUMNS[field]), number_text(field, value, translate)) for field, value in numbers.items()]


def number_text(field: str, value: Any, translate: Callable[[Any], str]) -> str:
    """One number of a policy with its unit."""
    if value is None:
        return translate(_("no_limit", default="no limit"))
    if field == "growth":
        return f"× {value:g}"
    if field == "jitter":
        return f"± {value:.0%}"
    return duration(value) if field in ("first_wait", "longest_wait", "age_limit") else str(value)


def duration(seconds: float) -> str:
    """A number of seconds in the largest unit that gives a round number."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
