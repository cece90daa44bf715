"""Start a task: the registered ones that the user may start."""

from collective.zcasync.browser.panel import Link
from collective.zcasync.browser.panel import Panel
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.interfaces import _
from collective.zcasync.tasks import registry
from collective.zcasync.tasks import Task
from dataclasses import dataclass
from dataclasses import replace
from functools import cached_property

import inspect


@dataclass(frozen=True)
class TaskLine:
    """One task of the list."""

    name: str
    title: str
    text: str
    url: str


class StartPage(Panel):
    """Mixed into the pages for starting tasks. People without the panel come from My jobs, and go back there."""

    section = "zcasync-tasks"

    @cached_property
    def sees_panel(self) -> bool:
        """Whether the user may see the panel's other pages."""
        return self.rights.views

    def navigation(self) -> list[Link]:
        """See Panel."""
        return super().navigation() if self.sees_panel else []

    def breadcrumbs(self) -> list[Link]:
        """See Panel."""
        if self.sees_panel:
            return super().breadcrumbs()
        links = [
            Link(self.page_url("zcasync-my-jobs"), _("my_jobs", default="My jobs")),
            Link(self.page_url("zcasync-tasks"), _("nav_tasks", default="Start a task")),
        ]
        if self.label != links[-1].label:
            links.append(Link("", self.label))
        return [*links[:-1], replace(links[-1], current=True)]


class Tasks(StartPage, PanelView):
    """The list."""

    label = _("nav_tasks", default="Start a task")
    description = _(
        "tasks_description",
        default="What this site can do in the background when somebody asks for it, and you may ask for.",
    )

    @cached_property
    def lines(self) -> list[TaskLine]:
        """The tasks that the user may start, by title."""
        found = [self._line(task) for task in registry.values() if self.rights.is_offered(task)]
        return sorted(found, key=lambda line: (line.title.lower(), line.name))

    def _line(self, task: Task) -> TaskLine:
        url = self.page_url("zcasync-task", name=task.name)
        return TaskLine(task.name, self.translate(task.title), paragraphs(task)[0], url)


def paragraphs(task: Task) -> list[str]:
    """The docstring of a task's function; one empty text if it has none."""
    text = inspect.getdoc(task.handler) or ""
    return [" ".join(part.split()) for part in text.split("\n\n")]
