"""The content rule action that puts a job: what is stored with a rule, and what it does when the rule fires."""

from collective.zcasync import taskarguments
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.rights import Rights
from collective.zcasync.tasks import registry
from collective.zcasync.tasks import Task
from OFS.SimpleItem import SimpleItem
from plone.contentrules.rule.interfaces import IExecutable
from plone.contentrules.rule.interfaces import IRuleElementData
from typing import Any
from zope import schema
from zope.component import adapter
from zope.component.hooks import getSite
from zope.interface import implementer
from zope.interface import Interface
from zope.interface import Invalid
from zope.interface import invariant
from zope.interface import provider
from zope.schema.interfaces import IContextSourceBinder
from zope.schema.vocabulary import SimpleTerm
from zope.schema.vocabulary import SimpleVocabulary

import json
import logging

logger = logging.getLogger("collective.zcasync")


@provider(IContextSourceBinder)
def tasks_for_rules(context: Any) -> SimpleVocabulary:
    """The tasks that content rules may put, and that the user may start."""
    rights = Rights(getSite())
    found = [task for task in registry.values() if task.content_rule and rights.may_start(task)]
    return SimpleVocabulary(
        [SimpleTerm(task.name, task.name, task.title) for task in sorted(found, key=lambda task: str(task.title))]
    )


def arguments_of(task: Task, text: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the JSON says that the task gets behind the object; InvalidValueError if it does not fit."""
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"This is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise InvalidValueError('The arguments must be a JSON object, for example {"copies": 2}.')
    return taskarguments.checked(task, given, behind=1)


class IStartTask(Interface):
    """The configuration of the action."""

    task = schema.Choice(
        title=_("rule_task", default="Task"),
        description=_(
            "rule_task_help",
            default="The tasks that allow to be put by content rules. The job works on the object that the rule is"
            " about, as the person who set it off.",
        ),
        source=tasks_for_rules,
    )
    arguments = schema.Text(
        title=_("rule_arguments", default="Arguments"),
        description=_(
            "rule_arguments_help",
            default="What the task gets beside the object, as a JSON object: names in double quotes with their values."
            " Leave empty if it needs nothing else.",
        ),
        required=False,
        missing_value="",
        default="",
    )

    @invariant
    def arguments_fit(data: Any) -> None:
        task = registry.get(data.task or "")
        if task is None:
            return
        try:
            arguments_of(task, data.arguments)
        except InvalidValueError as error:
            raise Invalid(str(error)) from error


@implementer(IStartTask, IRuleElementData)
class StartTask(SimpleItem):  # type: ignore[misc]
    """What is stored with a rule. Written by its form only; conflicts are not resolved."""

    element = "zcasync.StartTask"
    task = ""
    arguments = ""

    @property
    def summary(self) -> Any:
        """What the list of a rule's actions shows."""
        known = registry.get(self.task)
        return _(
            "rule_summary",
            default="Start the background task: ${task}",
            mapping={"task": known.title if known is not None else self.task},
        )


@implementer(IExecutable)
@adapter(Interface, IStartTask, Interface)
class StartTaskExecutor:
    """Puts the job in the request that set the rule off: it runs if and when that is stored."""

    def __init__(self, context: Any, element: Any, event: Any) -> None:
        self.element = element
        self.event = event

    def __call__(self) -> bool:
        task = registry.get(self.element.task)
        if task is None or not task.content_rule:
            logger.error(
                "A content rule is to start the task %r, which is not registered for content rules in this process:"
                " install its add-on, or take the action out of the rule",
                self.element.task,
            )
            return True  # the rule's other actions are not to suffer, nor is the person who set it off
        args, kwargs = arguments_of(task, self.element.arguments)
        task.put(self.event.object, *args, **kwargs)
        return True
