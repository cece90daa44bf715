"""The forms for one retry policy: change it, copy it, reset it to what the add-on ships, add one, delete one."""

from collective.zcasync import policyactions
from collective.zcasync.browser import policies
from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.browser.panelfields import fingerprint
from collective.zcasync.browser.policyfields import INewPolicy
from collective.zcasync.browser.policyfields import IPolicyNumbers
from collective.zcasync.browser.policyfields import rules_of
from collective.zcasync.browser.policyfields import rules_text
from collective.zcasync.browser.policypreview import Preview
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.configuredpolicy import RANGES
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.shipped import shipped_policies
from functools import cached_property
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any
from z3c.form import button
from z3c.form import field
from z3c.form import form
from z3c.form.interfaces import ActionExecutionError
from z3c.form.interfaces import HIDDEN_MODE
from zExceptions import Forbidden
from zope.interface import Invalid

#: The fields of a policy in their order.
NUMBERS = tuple(RANGES)


class PolicyForm(PanelForm, form.EditForm):
    """Change one policy."""

    section = "zcasync-policies"
    fields = field.Fields(IPolicyNumbers).select(*NUMBERS, "rules", "seen")
    fields["seen"].mode = HIDDEN_MODE
    colors = {
        "save": "primary",
        "preview": "outline-secondary",
        "copy": "outline-secondary",
        "reset": "outline-secondary",
        "delete": "outline-danger",
        "cancel": "secondary",
    }
    ignoreContext = False
    #: The numbers and rules that are to be previewed; None: the stored ones.
    typed: dict[str, Any] | None = None

    @property
    def action(self) -> str:
        """The form comes back to the same policy."""
        return self.url("zcasync-policy")

    @property
    def name(self) -> str:
        """The policy's name."""
        return str(self.request.form.get("name", ""))

    def url(self, page: str) -> str:
        """URL of a page about this policy."""
        return self.page_url(page, name=self.name)

    @property
    def label(self) -> Any:
        """The page's heading."""
        return _("policy_title", default="Retry policy: ${name}", mapping={"name": self.name})

    description = _(
        "policy_form_description",
        default="The change holds from the next failure on, also for jobs that wait already.",
    )

    @cached_property
    def policy(self) -> ConfiguredPolicy | None:
        """The policy, or None if there is none of that name."""
        return self.queues.policies.get(self.name) if self.queues is not None else None

    @cached_property
    def shipped(self) -> dict[str, Any] | None:
        """Numbers and rules that the add-on ships under that name, or None."""
        return shipped_policies().get(self.name)

    @cached_property
    def use(self) -> policyactions.PolicyUse:
        """Which tasks and jobs name the policy."""
        return policyactions.policy_use(self.queues, self.name, policies.LOOK)

    def getContent(self) -> dict[str, Any]:
        """The numbers as a dict, for z3c.form."""
        assert self.policy is not None
        return {**self.policy.numbers(), "rules": rules_text(self.policy.rules), "seen": self.shown}

    @property
    def shown(self) -> str:
        """The fingerprint of the policy."""
        assert self.policy is not None
        return fingerprint(self.policy.numbers(), self.policy.rules)

    def update(self) -> None:
        """Leave for the list if there is no such policy; Forbidden if it is not the user's, or was sent by others."""
        if self.request.method == "POST":
            self.check_post()  # also where the button is not there that would have checked it
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
        """Store the numbers and rules."""
        data = self.extracted()
        if data is None or self.policy is None:
            return
        self.check_seen(data, self.shown)
        try:
            done = policyactions.change_policy(self.policy, rules_of(data.pop("rules") or ""), **data)
        except InvalidValueError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        if done:
            self.log(f"changed retry policy {self.name!r}")
            self.say(_("policy_saved", default="The policy ${name} was changed.", mapping={"name": self.name}))
        else:
            self.say(_("policy_same", default="Nothing was changed."))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_preview", default="Preview"), name="preview")
    def handle_preview(self, action: Any) -> None:
        """Show when jobs would be tried with what was typed, and store nothing."""
        data = self.extracted()
        if data is not None:
            self.typed = {**{name: data[name] for name in NUMBERS}, "rules": rules_of(data["rules"] or "")}

    @button.buttonAndHandler(_("button_copy", default="Copy…"), name="copy")
    def handle_copy(self, action: Any) -> None:
        """The form for a new policy, with what this one has."""
        self.request.response.redirect(self.page_url("zcasync-policy-add", copy=self.name))

    @button.buttonAndHandler(
        _("button_reset", default="Reset to what is shipped"),
        name="reset",
        condition=lambda form: form.shipped is not None,
    )
    def handle_reset(self, action: Any) -> None:
        """Give it the numbers and rules that the add-on ships."""
        if self.shipped is None or self.policy is None:
            return
        numbers = dict(self.shipped)
        policyactions.change_policy(self.policy, numbers.pop("rules"), **numbers)
        self.log(f"reset retry policy {self.name!r}")
        self.say(_("policy_reset", default="The policy ${name} is as it was shipped.", mapping={"name": self.name}))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_delete_policy", default="Delete…"), name="delete")
    def handle_delete(self, action: Any) -> None:
        """Ask once more, on a page of its own."""
        self.request.response.redirect(self.url("zcasync-policy-delete"))

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-policies"))


class PolicyAddForm(PanelForm, form.Form):
    """Add a policy that belongs to the site; with ``copy`` in the query, one like that."""

    section = "zcasync-policies"
    label = _("policy_add_title", default="Add a retry policy")
    description = _(
        "policy_add_description",
        default="A policy takes effect for the tasks and jobs that name it.",
    )
    fields = field.Fields(INewPolicy).select("name", *NUMBERS, "rules")
    colors = {"add": "primary", "preview": "outline-secondary", "cancel": "secondary"}
    ignoreContext = False
    typed: dict[str, Any] | None = None
    use = policyactions.PolicyUse()

    @cached_property
    def policy(self) -> ConfiguredPolicy:
        """The policy to begin with."""
        named = self.queues.policies.get(str(self.request.form.get("copy", ""))) if self.queues is not None else None
        return named if named is not None else ConfiguredPolicy("new")

    def getContent(self) -> dict[str, Any]:
        """The numbers to begin with."""
        return {"name": None, **self.policy.numbers(), "rules": rules_text(self.policy.rules)}

    @button.buttonAndHandler(_("button_add", default="Add"), name="add")
    def handle_add(self, action: Any) -> None:
        """Store the new policy."""
        data = self.extracted()
        if data is None:
            return
        name = data.pop("name")
        if name in self.queues.policies:
            raise ActionExecutionError(Invalid(_("policy_name_taken", default="There is a retry policy of that name.")))
        rules = rules_of(data.pop("rules") or "")
        try:
            policyactions.create_policy(self.queues, name, self.own_group, rules, **data)
        except InvalidValueError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        self.log(f"added retry policy {name!r}")
        self.say(_("policy_added", default="The policy ${name} was added.", mapping={"name": name}))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_preview", default="Preview"), name="preview")
    def handle_preview(self, action: Any) -> None:
        """Show when jobs would be tried with what was typed, and store nothing."""
        data = self.extracted()
        if data is not None:
            self.typed = {**{name: data[name] for name in NUMBERS}, "rules": rules_of(data["rules"] or "")}

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-policies"))


class PolicyDeleteForm(PolicyForm):
    """Ask before a policy is deleted; refuse it while somebody uses it."""

    fields = field.Fields()
    colors = {"delete": "danger", "cancel": "secondary"}

    @property
    def action(self) -> str:
        """The form comes back to the same policy."""
        return self.url("zcasync-policy-delete")

    @property
    def label(self) -> Any:
        """The page's heading."""
        return _("policy_delete_title", default="Delete the retry policy ${name}?", mapping={"name": self.name})

    @property
    def description(self) -> Any:
        """What follows from it, or why it is refused."""
        if self.policy is not None and self.use:
            return _(
                "policy_in_use",
                default="It cannot be deleted while it is used. Let the tasks name another policy, and the jobs end.",
            )
        return _(
            "policy_delete_description",
            default="Jobs that name it are then treated by the built-in policy: write conflicts are tried again up to"
            " four times, other errors are not. This cannot be undone.",
        )

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        """Who uses it."""
        lines = policies.use_texts(self.use, self.translate) if self.policy is not None else []
        return [self.translate(_("policy_used", default="It is used:")), *lines] if lines else []

    buttons = button.Buttons()
    handlers = button.Handlers()

    @button.buttonAndHandler(
        _("button_delete_policy_sure", default="Delete policy"), name="delete", condition=lambda form: not form.use
    )
    def handle_delete(self, action: Any) -> None:
        """Delete it."""
        try:
            policyactions.remove_policy(self.queues, self.name)
        except InUse as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        self.log(f"deleted retry policy {self.name!r}")
        self.say(_("policy_deleted", default="The policy ${name} was deleted.", mapping={"name": self.name}))
        self.request.response.redirect(self.page_url("zcasync-policies"))

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-policies"))


class PolicyPage(PanelFormWrapper):
    """The form in its frame, with a preview and who uses the policy."""

    form = PolicyForm
    index = ViewPageTemplateFile("templates/policy.pt")
    script = "++resource++zcasync/policy.js"

    @property
    def preview_url(self) -> str:
        """URL that the script asks for another preview."""
        return self.page_url("zcasync-policy-preview")

    @property
    def preview(self) -> Any:
        """When a job would be tried again."""
        shown = self.form_instance.typed
        if shown is None:
            policy = self.form_instance.policy
            shown = {**policy.numbers(), "rules": policy.rules}
        return Preview(self.context, self.request, shown).template()

    @property
    def use(self) -> list[str]:
        """Who uses the policy, in words."""
        return policies.use_texts(self.form_instance.use, self.translate)


class PolicyAddPage(PolicyPage):
    """The form in its frame, with a preview."""

    form = PolicyAddForm


class PolicyDeletePage(PanelFormWrapper):
    """The form in its frame."""

    form = PolicyDeleteForm
