"""The forms for a queue's numbers: change them, and add a queue that belongs to the site."""

from collections.abc import Callable
from collective.zcasync import queueactions
from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.browser.panelfields import bounds
from collective.zcasync.browser.panelfields import fingerprint
from collective.zcasync.browser.panelfields import is_name
from collective.zcasync.browser.panelfields import ISeen
from collective.zcasync.browser.policies import duration
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.queueactions import QUEUE_NUMBERS
from collective.zcasync.zopeapp.overview import number_text
from functools import cached_property
from typing import Any
from z3c.form import button
from z3c.form import field
from z3c.form import form
from z3c.form.interfaces import ActionExecutionError
from z3c.form.interfaces import HIDDEN_MODE
from zExceptions import Forbidden
from zope import schema
from zope.interface import Invalid


class IQueueNumbers(ISeen):
    """What a queue's record says, as its form asks for it."""

    default_priority = schema.Int(
        title=_("queue_priority", default="Default priority"),
        description=_(
            "queue_priority_help",
            default="Of jobs that name none: from -16 to 15, higher ones go first. Each step counts as if the job had"
            " been put ten minutes earlier. It holds for jobs that are put from now on.",
        ),
        **bounds(QUEUE_NUMBERS["default_priority"]),
    )
    time_limit = schema.Float(
        title=_("queue_time_limit", default="Time limit (seconds)"),
        description=_(
            "queue_time_limit_help",
            default="A job that runs longer is asked to stop, and is shown as overdue; a limit of its task goes before."
            " Leave empty for no limit. It holds for jobs that are put from now on.",
        ),
        **bounds(QUEUE_NUMBERS["time_limit"]),
        required=False,
    )
    retention_days = schema.Float(
        title=_("queue_retention_days", default="Keep finished jobs (days)"),
        description=_("queue_retention_days_help", default="Jobs that succeeded or were cancelled are deleted then."),
        **bounds(QUEUE_NUMBERS["retention_days"]),
    )
    failed_days = schema.Float(
        title=_("queue_failed_days", default="Keep failed jobs (days)"),
        description=_("queue_failed_days_help", default="Failed jobs are deleted then, with their tracebacks."),
        **bounds(QUEUE_NUMBERS["failed_days"]),
    )
    retention_jobs = schema.Int(
        title=_("queue_retention_jobs", default="Keep at most (jobs)"),
        description=_(
            "queue_retention_jobs_help",
            default="So many of each kind (finished, failed, cancelled) are kept at most, whatever their age.",
        ),
        **bounds(QUEUE_NUMBERS["retention_jobs"]),
    )


class INewQueue(IQueueNumbers):
    """A queue that is being added."""

    name = schema.ASCIILine(
        title=_("queue_name", default="Name"),
        description=_("queue_name_help", default='What tasks and puts call it: options(queue="name").'),
        constraint=is_name,
    )


#: Names of the fields in the order of the forms.
NUMBERS = ("default_priority", "time_limit", "retention_days", "failed_days", "retention_jobs")


def number_texts(queue: Any, translate: Callable[[Any], str]) -> list[tuple[Any, str]]:
    """The numbers of a queue as label and text."""
    limit = queue.time_limit
    texts = {
        "default_priority": str(queue.default_priority),
        "time_limit": translate(_("no_limit", default="no limit")) if limit is None else duration(limit),
        "retention_days": f"{queue.retention_days:g}",
        "failed_days": f"{queue.failed_days:g}",
        "retention_jobs": number_text(queue.retention_jobs),
    }
    return [(IQueueNumbers[name].title, text) for name, text in texts.items()]


class QueueForm(PanelForm, form.EditForm):
    """Change the numbers of one queue."""

    section = "zcasync-queues"
    fields = field.Fields(IQueueNumbers).select(*NUMBERS, "seen")
    fields["seen"].mode = HIDDEN_MODE
    colors = {"save": "primary", "cancel": "secondary"}
    ignoreContext = False
    description = _(
        "queue_form_description",
        default="A change holds at once, without a restart. The page of the queue shows which dispatchers know of it.",
    )

    @property
    def name(self) -> str:
        """The queue's name."""
        return str(self.request.form.get("name", ""))

    @property
    def action(self) -> str:
        """The form comes back to the same queue."""
        return self.page_url("zcasync-queue-settings", name=self.name)

    @property
    def back_url(self) -> str:
        """URL of the queue's page."""
        return self.page_url("zcasync-queue", name=self.name)

    @property
    def label(self) -> Any:
        """The page's heading."""
        mapping = {"name": self.queue_label(self.name)}
        return _("queue_form_title", default="Settings of the queue: ${name}", mapping=mapping)

    @cached_property
    def queue(self) -> Any:
        """The queue, or None."""
        return self.queues.get(self.name) if self.queues is not None else None

    def getContent(self) -> dict[str, Any]:
        """The numbers as a dict, for z3c.form."""
        return {**self._numbers, "seen": fingerprint(self._numbers)}

    @property
    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self.queue, name) for name in NUMBERS}

    def update(self) -> None:
        """Leave for the list if there is no such queue; Forbidden if it is not the user's."""
        if self.queue is None:
            self.say(_("queue_gone", default="There is no queue of that name; it may have been removed."), "error")
            self.request.response.redirect(self.page_url("zcasync-queues"))
            return
        if not self.may_edit(self.queue.owner):
            raise Forbidden("This queue is shared by all sites; only a Manager of the Zope root can change it.")
        super().update()

    @button.buttonAndHandler(_("button_save", default="Save"), name="save")
    def handle_save(self, action: Any) -> None:
        """Store the numbers."""
        data = self.extracted()
        if data is None:
            return
        self.check_seen(data, fingerprint(self._numbers))
        try:
            changed = queueactions.change_queue(self.queue, **data)
        except InvalidValueError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        if changed:
            self.log(f"changed the settings of queue {self.name!r}")
            self.say(_("queue_saved", default="The settings of the queue were changed."))
        else:
            self.say(_("policy_same", default="Nothing was changed."))
        self.request.response.redirect(self.back_url)

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the queue."""
        self.request.response.redirect(self.back_url)


class QueueAddForm(PanelForm, form.Form):
    """Add a queue that belongs to the site."""

    section = "zcasync-queues"
    label = _("queue_add_title", default="Add a queue")
    description = _(
        "queue_add_description",
        default="Jobs of a queue of their own do not wait behind others. Dispatchers that serve all queues serve it"
        " from their next look on; it belongs to this site.",
    )
    fields = field.Fields(INewQueue).select("name", *NUMBERS)
    colors = {"add": "primary", "cancel": "secondary"}
    ignoreContext = False

    def getContent(self) -> dict[str, Any]:
        """The numbers to begin with: those of the default queue."""
        numbers = {name: getattr(self.queues[""], name) for name in NUMBERS} if "" in (self.queues or ()) else {}
        return {"name": None, **dict.fromkeys(NUMBERS), **numbers}

    @button.buttonAndHandler(_("button_add", default="Add"), name="add")
    def handle_add(self, action: Any) -> None:
        """Make the queue."""
        data = self.extracted()
        if data is None:
            return
        name = data.pop("name")
        try:
            queueactions.create_queue(self.context._p_jar, name, self.own_group, **data)
        except InvalidValueError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        self.log(f"added queue {name!r}")
        self.say(_("queue_added", default="The queue ${name} was added.", mapping={"name": name}))
        self.request.response.redirect(self.page_url("zcasync-queue", name=name))

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the list."""
        self.request.response.redirect(self.page_url("zcasync-queues"))


class QueueSettingsPage(PanelFormWrapper):
    """The form in its frame."""

    form = QueueForm


class QueueAddPage(PanelFormWrapper):
    """The form in its frame."""

    form = QueueAddForm
