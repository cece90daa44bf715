"""The forms of the content rule action that puts a job."""

from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.contentrule import IStartTask
from collective.zcasync.ploneapp.contentrule import StartTask
from plone.app.contentrules.actions import ActionAddForm
from plone.app.contentrules.actions import ActionEditForm
from plone.app.contentrules.browser.formhelper import ContentRuleFormWrapper


class StartTaskAddForm(ActionAddForm):
    """Add the action to a rule."""

    schema = IStartTask
    label = _("rule_add_title", default="Add an action that starts a background task")
    description = _(
        "rule_form_description",
        default="The job is put together with what the person did, and runs after that is stored.",
    )
    Type = StartTask


class StartTaskEditForm(ActionEditForm):
    """Change the action."""

    schema = IStartTask
    label = _("rule_edit_title", default="Edit the action that starts a background task")
    description = StartTaskAddForm.description


class StartTaskAddView(ContentRuleFormWrapper):
    """The form in its frame."""

    form = StartTaskAddForm


class StartTaskEditView(ContentRuleFormWrapper):
    """The form in its frame."""

    form = StartTaskEditForm
