"""What a list of jobs can be searched for, on pages of Zope and of Plone."""

from collections.abc import Mapping
from collective.zcasync.interfaces import _
from typing import Any

#: Label and explanation of each field of the form, in their order.
FIELDS = {
    "task": (
        _("search_task", default="Task"),
        _("search_task_help", default="A part of its name or title, or a pattern with * and ?"),
    ),
    "user": (_("search_user", default="User"), _("search_user_help", default="A part of the user's id")),
    "object": (
        _("search_object", default="Object"),
        _("search_object_help", default="Address or path of a page, or of a folder that it is in"),
    ),
    "error": (_("search_error", default="Error"), _("search_error_help", default="A part of the error's text")),
}

#: What a list says of which nothing is shown.
NONE_MATCH = _(
    "none_match",
    default="No job of this list matches the search. Look into the other states: the search goes with you.",
)


def typed(form: Mapping[str, Any], name: str) -> str:
    """One field as it was typed; tampered ones are empty."""
    value = form.get(name, "")
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode().replace("\0", "").strip()  # half characters are in no text
