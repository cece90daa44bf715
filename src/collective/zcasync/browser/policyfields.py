"""The fields of the forms for retry policies: numbers, and rules as lines of text."""

from collections.abc import Iterable
from collective.zcasync.browser.panelfields import bounds
from collective.zcasync.browser.panelfields import is_name
from collective.zcasync.browser.panelfields import ISeen
from collective.zcasync.configuredpolicy import make_rule
from collective.zcasync.configuredpolicy import RANGES
from collective.zcasync.configuredpolicy import RULE_FIELDS
from collective.zcasync.configuredpolicy import TROUBLES
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.profilexml import UNLIMITED
from typing import Any
from zope import schema
from zope.interface import Invalid
from zope.interface import invariant


def rules_of(text: str) -> list[Any]:
    """The rules that lines such as ``error smtplib.SMTPException attempts=9 first-wait=60`` say; Invalid if none."""
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rules.append(_rule_of(line.split()))
            except (InvalidValueError, ValueError) as error:
                mapping = {"number": number, "error": str(error)}
                raise Invalid(_("rule_wrong", default="Line ${number}: ${error}", mapping=mapping)) from error
    return rules


def rules_text(rules: Iterable[Any]) -> str:
    """The rules of a policy, as the form shows them."""
    lines = []
    for rule in rules:
        told = dict(rule)
        words = [told.pop("trouble"), told.pop("exception", "")]
        words += [
            f"{name.replace('_', '-')}={UNLIMITED if value is None else f'{value:g}'}" for name, value in told.items()
        ]
        lines.append(" ".join(word for word in words if word))
    return "\n".join(lines)


def are_rules(text: str) -> bool:
    """Constraint of the field for the rules."""
    rules_of(text)
    return True


def _rule_of(words: list[str]) -> Any:
    trouble, *rest = words
    exception = rest.pop(0) if rest and "=" not in rest[0] else ""
    numbers: dict[str, Any] = {}
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals or name.replace("-", "_") not in RULE_FIELDS:
            known = ", ".join(field.replace("_", "-") for field in RULE_FIELDS)
            raise ValueError(f"{word!r} is not understood; write name=number, with one of {known}")
        number = None if value == UNLIMITED else float(value)
        whole = name == "attempts" and number is not None and number.is_integer()
        numbers[name.replace("-", "_")] = int(number) if whole and number is not None else number
    return make_rule(trouble, exception, **numbers)


def _bounds(name: str) -> dict[str, Any]:
    _kind, least, most, _optional = RANGES[name]
    return bounds((least, most))


class IPolicyNumbers(ISeen):
    """The numbers of a retry policy, as its form asks for them. Waits are in seconds."""

    attempts = schema.Int(
        title=_("policy_attempts", default="Attempts"),
        description=_(
            "policy_attempts_help",
            default="How often a job is run at most, the first time included. Leave empty for no limit.",
        ),
        **_bounds("attempts"),
        required=False,
    )
    first_wait = schema.Float(
        title=_("policy_first_wait", default="First wait (seconds)"),
        description=_("policy_first_wait_help", default="Time between the first failure and the second attempt."),
        **_bounds("first_wait"),
    )
    growth = schema.Float(
        title=_("policy_growth", default="Growth"),
        description=_(
            "policy_growth_help",
            default="Each wait is so many times as long as the one before: 1 for equal waits, 2 to double.",
        ),
        **_bounds("growth"),
    )
    longest_wait = schema.Float(
        title=_("policy_longest_wait", default="Longest wait (seconds)"),
        description=_("policy_longest_wait_help", default="No wait grows beyond this."),
        **_bounds("longest_wait"),
    )
    jitter = schema.Float(
        title=_("policy_jitter", default="Jitter"),
        description=_(
            "policy_jitter_help",
            default="By which part a wait may be longer or shorter at random, so that jobs that failed together are not"
            " tried together again: 0.2 for a fifth, 0 for none.",
        ),
        **_bounds("jitter"),
    )
    age_limit = schema.Float(
        title=_("policy_age_limit", default="Age limit (seconds)"),
        description=_(
            "policy_age_limit_help",
            default="A job that was put longer ago is not tried again. Leave empty for no limit.",
        ),
        **_bounds("age_limit"),
        required=False,
    )
    log_every = schema.Int(
        title=_("policy_log_every", default="Log every"),
        description=_(
            "policy_log_every_help",
            default="The first retry is logged, and then each so many: 1 to log all of them.",
        ),
        **_bounds("log_every"),
    )

    rules = schema.Text(
        title=_("policy_rules", default="Rules"),
        description=_(
            "policy_rules_help",
            default="What goes before the numbers above for one kind of trouble: one rule a line. First the kind"
            " (${troubles}), then the exception class if the rule is about one, then what differs, for example: error"
            " smtplib.SMTPException attempts=9 first-wait=60",
            mapping={"troubles": ", ".join(TROUBLES)},
        ),
        constraint=are_rules,
        required=False,
        missing_value="",
    )

    @invariant
    def waits_are_ordered(numbers: Any) -> None:
        if numbers.first_wait is not None and numbers.longest_wait is not None:
            if numbers.first_wait > numbers.longest_wait:
                raise Invalid(_("policy_waits_wrong", default="The first wait is longer than the longest wait."))


class INewPolicy(IPolicyNumbers):
    """A policy that is being added."""

    name = schema.ASCIILine(
        title=_("policy_name", default="Name"),
        description=_(
            "policy_name_help",
            default='What jobs call it: options(policy="name"). The one named "default" holds for jobs that name none.',
        ),
        constraint=is_name,
    )
