"""The form that puts a failed job once more with other arguments: that of its task, filled in."""

from collective.zcasync import actions
from collective.zcasync import jsonvalues
from collective.zcasync import taskarguments
from collective.zcasync.browser.job import JobPage
from collective.zcasync.browser.panel import Link
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.browser.task import StartForm
from collective.zcasync.browser.taskfields import Json
from collective.zcasync.browser.tasks import StartPage
from collective.zcasync.interfaces import _
from collective.zcasync.readable import is_secret
from collective.zcasync.tasks import registry
from collective.zcasync.tasks import Task
from functools import cached_property
from typing import Any

import json

#: Characters of all arguments together that a form may carry: Zope takes no forms of more than a megabyte.
MOST_CHARACTERS = 100_000


class RetryForm(StartForm):
    """See the module. The new job runs as the user who retries."""

    section = "zcasync-jobs"
    ignoreContext = False

    @cached_property
    def page(self) -> JobPage:
        """The page about the job, which knows who may see it."""
        return JobPage(self.context, self.request)

    @property
    def action(self) -> str:
        """The form comes back to the same job."""
        return self.page.change_url if self.page.found else ""

    @cached_property
    def task(self) -> Task | None:
        """The task of the job, if the user may retry it with other arguments."""
        return registry[self.page._job._task] if self.page.found and self.page.change_url else None

    def getContent(self) -> dict[str, Any]:
        """The arguments of the job by name, as the fields show them."""
        return {
            name: json.dumps(value, ensure_ascii=False) if isinstance(self.fields[name].field, Json) else value
            for name, value in self.values.items()
        }

    @cached_property
    def values(self) -> dict[str, Any]:
        """The arguments of the job by name; without secrets, and what no form can show."""
        assert self.task is not None
        job, names = self.page._job, [one.name for one in taskarguments.parameters(self.task)]
        values = {**dict(zip(names, job.args, strict=False)), **dict(job.kwargs)}
        return {
            name: value
            for name, value in values.items()
            if name in self.fields and not is_secret(name) and jsonvalues.is_json(value)
        }

    @cached_property
    def refusal(self) -> Any:
        """Why the job cannot be retried so (any more), or None."""
        if self.task is None:
            return _("not_changeable", default="This job cannot be retried with other arguments.")
        if sum(len(json.dumps(value)) for value in self.values.values()) > MOST_CHARACTERS:
            return _(
                "arguments_too_long",
                default="The arguments of this job are too long for a form. It can be retried as it is, or put again by"
                " code.",
            )
        return None

    @property
    def label(self) -> Any:
        """What the page is for."""
        mapping = {"title": self.translate(self.page.row.title or self.page.row.task)} if self.page.found else {}
        return _("retry_changed_title", default="Retry with other arguments: ${title}", mapping=mapping)

    @property
    def description(self) -> Any:
        """What will happen."""
        return _("retry_changed_help", default="Puts this job once more with other arguments. The new one runs as you.")

    @property
    def notes(self) -> list[str]:
        """Why it failed, and what the docstring says of the arguments."""
        if self.task is None or not self.page.row.error:
            return super().notes
        failed = _("retry_failed_with", default="It failed with ${error}", mapping={"error": self.page.row.error})
        return [self.translate(failed), *super().notes]

    @property
    def back_url(self) -> str:
        """Where one came from: the job."""
        return self.page.url_of_job(self.page.row.id)

    def put(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put the new job in place of the old one."""
        assert self.task is not None
        return actions.retry_changed(self.page._job, self.task, args, kwargs, self.user_id)

    def updateActions(self) -> None:
        """The button says what it does here."""
        super().updateActions()
        self.actions["start"].title = _("button_retry", default="Retry")

    def update(self) -> None:
        """Back to the job if it cannot be retried so (any more)."""
        if self.refusal is not None:
            self.say(self.refusal, "error")
            self.request.response.redirect(self.back_url if self.page.found else self.page_url("zcasync-jobs"))
            return
        super().update()


class RetryPage(StartPage, PanelFormWrapper):
    """The form in its frame."""

    form = RetryForm
    section = "zcasync-jobs"  # type: ignore[assignment]

    def breadcrumbs(self) -> list[Link]:
        """See Panel: with the job before the last."""
        *links, here = super().breadcrumbs()
        page = self.form_instance.page
        return [*links, Link(page.url_of_job(page.row.id), page.label), here] if page.found else [*links, here]
