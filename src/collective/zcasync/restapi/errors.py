"""Errors as HTTP answers, in the form in which plone.rest has them: a type, a message, and a status that fits."""

from collective.zcasync import exceptions
from zExceptions import BadRequest
from zExceptions import Forbidden
from zExceptions import NotFound
from zExceptions import Unauthorized

#: Of each error its status and its type; the first one that fits holds.
ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (exceptions.JobNotFound, 404, "NotFound"),
    (exceptions.QueueNotFound, 404, "NotFound"),
    (exceptions.TaskNotFound, 404, "NotFound"),
    (exceptions.PolicyNotFound, 404, "NotFound"),
    (exceptions.NotHere, 404, "NotFound"),
    (exceptions.BadStatusError, 409, "Conflict"),
    (exceptions.InUse, 409, "Conflict"),
    (exceptions.ZCAsyncError, 400, "BadRequest"),
    (BadRequest, 400, "BadRequest"),
    (Unauthorized, 401, "Unauthorized"),
    (Forbidden, 403, "Forbidden"),
    (NotFound, 404, "NotFound"),
)

#: What ``answer_to`` knows of.
KNOWN = tuple(kind for kind, _status, _type in ANSWERS)


class Conflict(exceptions.BadStatusError):
    """What is asked for cannot be done in the present state."""


def answer_to(error: Exception) -> tuple[int, dict[str, str]]:
    """Status and body for one of KNOWN. Its message says what is wrong, and the way out."""
    status, name = next((status, name) for kind, status, name in ANSWERS if isinstance(error, kind))
    return status, {"type": name, "message": " ".join(map(str, error.args))}
