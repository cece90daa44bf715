"""The form that starts one task: made from the signature of its function."""

from collective.zcasync import taskarguments
from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.browser.taskfields import fields_of
from collective.zcasync.browser.taskfields import json_value
from collective.zcasync.browser.tasks import paragraphs
from collective.zcasync.browser.tasks import StartPage
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.interfaces import _
from collective.zcasync.tasks import registry
from collective.zcasync.tasks import Task
from functools import cached_property
from typing import Any
from z3c.form import button
from z3c.form import field
from z3c.form import form
from z3c.form.interfaces import ActionExecutionError
from z3c.form.interfaces import WidgetActionExecutionError
from zope.interface import Invalid


class StartForm(StartPage, PanelForm, form.Form):
    """Asks for the arguments, checks them, and puts the job as the user."""

    ignoreContext = True
    colors = {"start": "primary", "cancel": "secondary"}

    @property
    def action(self) -> str:
        """The form comes back to the same task."""
        return self.page_url("zcasync-task", name=self.task.name if self.task else "")

    @cached_property
    def task(self) -> Task | None:
        """The task, if there is one of that name that the user may start."""
        found = registry.get(str(self.request.form.get("name", "")))
        return found if found is not None and self.rights.is_offered(found) else None

    @property
    def label(self) -> Any:
        """The task's title."""
        return self.translate(self.task.title) if self.task is not None else _("nav_tasks", default="Start a task")

    @property
    def description(self) -> Any:
        """The first paragraph of the docstring."""
        return paragraphs(self.task)[0] if self.task is not None else ""

    @property
    def notes(self) -> list[str]:
        """The other paragraphs."""
        return paragraphs(self.task)[1:] if self.task is not None else []

    @cached_property
    def fields(self) -> Any:
        """One for each argument."""
        return field.Fields(*(fields_of(self.task) if self.task is not None else ()))

    def update(self) -> None:
        """Leave for the list if there is no such task for this user."""
        if self.task is None:
            self.say(_("task_gone", default="There is no task of that name that you may start."), "error")
            self.request.response.redirect(self.page_url("zcasync-tasks"))
            return
        super().update()

    @button.buttonAndHandler(_("button_start", default="Start"), name="start")
    def handle_start(self, action: Any) -> None:
        """Put the job."""
        data = self.extracted()
        if data is None:
            return
        assert self.task is not None
        given = {
            name: json_value(self.fields[name].field, value, self.zone)
            for name, value in data.items()
            if value is not None
        }
        try:
            args, kwargs = taskarguments.checked(self.task, given)
            job = self.put(args, kwargs)
        except taskarguments.WrongArguments as error:
            name, fault = next(iter(error.faults.items()))
            raise WidgetActionExecutionError(name, Invalid(fault)) from error
        except ZCAsyncError as error:
            raise ActionExecutionError(Invalid(str(error))) from error
        self.log(f"started {self.task.name!r} as job {job.id}")
        self.say(_("task_started", default="The job was put. It begins as soon as a job thread is free."))
        self.request.response.redirect(self._next_url(job))

    @property
    def back_url(self) -> str:
        """Where one came from: the list."""
        return self.page_url("zcasync-tasks")

    def put(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put the job."""
        assert self.task is not None
        return self.task.put(*args, **kwargs)

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to where one came from."""
        self.request.response.redirect(self.back_url)

    def _next_url(self, job: Any) -> str:
        """Where the user can watch the job."""
        if self.sees_panel:
            return self.page_url("zcasync-job", id=job.id)
        assert self.task is not None
        return self.page_url("zcasync-my-jobs" if self.task.visible else "zcasync-tasks")


class TaskPage(StartPage, PanelFormWrapper):
    """The form in its frame."""

    form = StartForm
