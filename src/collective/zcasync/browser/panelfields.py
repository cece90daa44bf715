"""What the fields of the panel's forms have in common: bounds that the engine holds, and names that it takes."""

from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.queueactions import check_name
from typing import Any
from zope import schema
from zope.interface import Interface
from zope.interface import Invalid

import hashlib


class ISeen(Interface):
    """What a form carries hidden, so that of two people who change something the second is told."""

    seen = schema.TextLine(title="seen", required=False)


def fingerprint(*values: Any) -> str:
    """What stands in the hidden field: another text whenever one of the values is another one."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def bounds(limits: tuple[float, float]) -> dict[str, Any]:
    """``min`` and ``max`` of a field. ``limits``: the least and the most that the engine allows."""
    least, most = limits
    return {"min": least, "max": most}


def is_name(value: str) -> bool:
    """Constraint of a field for the name of a queue or a policy."""
    try:
        check_name(value, "name")
    except InvalidValueError as error:
        raise Invalid(
            _("policy_name_wrong", default="Use letters, digits, dots, dashes and underscores; begin with a letter.")
        ) from error
    return True
