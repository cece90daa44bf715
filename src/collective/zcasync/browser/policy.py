"""The forms for one retry policy: change its numbers, add one, delete one."""

from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.browser.policies import rule_texts
from collective.zcasync.configuredpolicy import check_numbers
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.retry import ConfiguredPolicy
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from z3c.form import button
from z3c.form import field
from z3c.form import form
from z3c.form.interfaces import ActionExecutionError
from zExceptions import Forbidden
from zope import schema
from zope.interface import Interface
from zope.interface import Invalid
from zope.interface import invariant

import re

#: What a policy may be called: it is written in code, in zcasync.xml and in URLs.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")

# The bounds that configuredpolicy.check_numbers holds, said again so that each field can name its own.
MONTH = 30 * 86400.0
YEAR = 366 * 86400.0


def is_name(value: str) -> bool:
    """Constraint of the field for the name."""
    if NAME.match(value):
        return True
    raise Invalid(
        _("policy_name_wrong", default="Use letters, digits, dots, dashes and underscores; begin with a letter.")
    )


class IPolicyNumbers(Interface):
    """The numbers of a retry policy, as its form asks for them. Waits are in seconds."""

    attempts = schema.Int(
        title=_("policy_attempts", default="Attempts"),
        description=_(
            "policy_attempts_help",
            default="How often a job is run at most, the first time included. Leave empty for no limit.",
        ),
        min=1,
        max=100_000,
        required=False,
    )
    first_wait = schema.Float(
        title=_("policy_first_wait", default="First wait (seconds)"),
        description=_("policy_first_wait_help", default="Time between the first failure and the second attempt."),
        min=0.0,
        max=MONTH,
    )
    growth = schema.Float(
        title=_("policy_growth", default="Growth"),
        description=_(
            "policy_growth_help",
            default="Each wait is so many times as long as the one before: 1 for equal waits, 2 to double.",
        ),
        min=1.0,
        max=100.0,
    )
    longest_wait = schema.Float(
        title=_("policy_longest_wait", default="Longest wait (seconds)"),
        description=_("policy_longest_wait_help", default="No wait grows beyond this."),
        min=0.0,
        max=MONTH,
    )
    jitter = schema.Float(
        title=_("policy_jitter", default="Jitter"),
        description=_(
            "policy_jitter_help",
            default="By which part a wait may be longer or shorter at random, so that jobs that failed together are not"
            " tried together again: 0.2 for a fifth, 0 for none.",
        ),
        min=0.0,
        max=1.0,
    )
    age_limit = schema.Float(
        title=_("policy_age_limit", default="Age limit (seconds)"),
        description=_(
            "policy_age_limit_help",
            default="A job that was put longer ago is not tried again. Leave empty for no limit.",
        ),
        min=1.0,
        max=YEAR,
        required=False,
    )
    log_every = schema.Int(
        title=_("policy_log_every", default="Log every"),
        description=_(
            "policy_log_every_help",
            default="The first retry is logged, and then each so many: 1 to log all of them.",
        ),
        min=1,
        max=1000,
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


class PolicyForm(PanelForm, form.EditForm):
    """Change the numbers of one policy, or delete it."""

    section = "zcasync-policies"
    fields = field.Fields(IPolicyNumbers)
    ignoreContext = False

    @property
    def action(self) -> str:
        """The form comes back to the same policy."""
        return f"{self.page_url('zcasync-policy')}?{urlencode({'name': self.name})}"

    @property
    def name(self) -> str:
        """The policy's name."""
        return str(self.request.form.get("name", ""))

    @property
    def label(self) -> Any:
        """The page's heading."""
        return _("policy_title", default="Retry policy: ${name}", mapping={"name": self.name})

    @property
    def notes(self) -> list[str]:
        """The rules that go before the numbers of the form."""
        rules = rule_texts(self.policy, self.translate) if self.policy is not None else []
        if not rules:
            return []
        intro = _("policy_rules_intro", default="These rules of the policy go before the numbers below:")
        return [self.translate(intro), *rules]

    description = _(
        "policy_form_description",
        default="The change holds from the next failure on, also for jobs that wait already.",
    )

    @cached_property
    def policy(self) -> ConfiguredPolicy | None:
        """The policy, or None if there is none of that name."""
        return self.queues.policies.get(self.name) if self.queues is not None else None

    def getContent(self) -> dict[str, Any]:
        """The numbers as a dict, for z3c.form."""
        return self.policy.numbers()

    def update(self) -> None:
        """Leave for the list if there is no such policy, or if it is not the user's."""
        if self.policy is None:
            self.say(
                _("policy_gone", default="There is no retry policy of that name; it may have been deleted."), "error"
            )
            self.request.response.redirect(self.page_url("zcasync-policies"))
            return
        if not self.may_edit(self.policy.owner):
            raise Forbidden("This retry policy is shared by all sites; only a Manager of the Zope root can change it.")
        super().update()

    @button.buttonAndHandler(_("button_save", default="Save"), name="save")
    def handle_save(self, action: Any) -> None:
        """Store the numbers."""
        data, errors = self.extractData()
        if errors:
            self.status = self.formErrorsMessage
            return
        try:
            changed = self.policy.update(**data)
        except InvalidValueError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        if changed:
            self.say(_("policy_saved", default="The policy ${name} was changed.", mapping={"name": self.name}))
        else:
            self.say(_("policy_same", default="Nothing was changed."))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_delete_policy", default="Delete…"), name="delete")
    def handle_delete(self, action: Any) -> None:
        """Ask once more, on a page of its own."""
        query = urlencode({"name": self.name})
        self.request.response.redirect(f"{self.page_url('zcasync-policy-delete')}?{query}")

    def updateActions(self) -> None:
        """Class names of the buttons."""
        super().updateActions()
        self.actions["save"].addClass("btn btn-primary")
        self.actions["cancel"].addClass("btn btn-secondary")
        self.actions["delete"].addClass("btn btn-danger")


class PolicyAddForm(PanelForm, form.Form):
    """Add a policy that belongs to the site."""

    section = "zcasync-policies"
    label = _("policy_add_title", default="Add a retry policy")
    description = _(
        "policy_add_description",
        default="A policy takes effect for the tasks and jobs that name it.",
    )
    fields = field.Fields(INewPolicy).select(
        "name", "attempts", "first_wait", "growth", "longest_wait", "jitter", "age_limit", "log_every"
    )
    ignoreContext = False

    def getContent(self) -> dict[str, Any]:
        """The numbers to begin with."""
        return {"name": None, **ConfiguredPolicy("new").numbers()}

    @button.buttonAndHandler(_("button_add", default="Add"), name="add")
    def handle_add(self, action: Any) -> None:
        """Store the new policy."""
        data, errors = self.extractData()
        if errors:
            self.status = self.formErrorsMessage
            return
        name = data.pop("name")
        if name in self.queues.policies:
            raise ActionExecutionError(Invalid(_("policy_name_taken", default="There is a retry policy of that name.")))
        try:
            numbers = check_numbers(**data)
        except InvalidValueError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        self.queues.policies[name] = ConfiguredPolicy(name, owner=self.own_group, **numbers)
        self.say(_("policy_added", default="The policy ${name} was added.", mapping={"name": name}))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-policies"))

    def updateActions(self) -> None:
        """Class names of the buttons."""
        super().updateActions()
        self.actions["add"].addClass("btn btn-primary")
        self.actions["cancel"].addClass("btn btn-secondary")


class PolicyDeleteForm(PolicyForm):
    """Ask before a policy is deleted."""

    fields = field.Fields()
    notes: list[str] = []

    @property
    def action(self) -> str:
        """The form comes back to the same policy."""
        return f"{self.page_url('zcasync-policy-delete')}?{urlencode({'name': self.name})}"

    @property
    def label(self) -> Any:
        """The page's heading."""
        return _("policy_delete_title", default="Delete the retry policy ${name}?", mapping={"name": self.name})

    description = _(
        "policy_delete_description",
        default="Jobs that name it are then treated by the built-in policy: write conflicts are tried again up to four"
        " times, other errors are not. This cannot be undone.",
    )

    buttons = button.Buttons()
    handlers = button.Handlers()

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_delete_policy_sure", default="Delete policy"), name="delete")
    def handle_delete(self, action: Any) -> None:
        """Delete it."""
        del self.queues.policies[self.name]
        self.say(_("policy_deleted", default="The policy ${name} was deleted.", mapping={"name": self.name}))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    def updateActions(self) -> None:
        """Class names of the buttons."""
        form.EditForm.updateActions(self)
        self.actions["delete"].addClass("btn btn-danger")
        self.actions["cancel"].addClass("btn btn-secondary")


class PolicyPage(PanelFormWrapper):
    """The form in its frame."""

    form = PolicyForm


class PolicyAddPage(PanelFormWrapper):
    """The form in its frame."""

    form = PolicyAddForm


class PolicyDeletePage(PanelFormWrapper):
    """The form in its frame."""

    form = PolicyDeleteForm
