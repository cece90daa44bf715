"""Every error of the package, under one root; each says what to do next."""


class ZCAsyncError(Exception):
    """The root of all errors of this package."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ((self.__doc__ or "").strip(),)))


# What a caller can do wrong


class InvalidTypeError(ZCAsyncError, TypeError):
    """Something of another kind is wanted here: the message names what was given and what is wanted."""


class InvalidJobError(InvalidTypeError):
    """This cannot be a job: the message names the thing and the way out."""


class InvalidArgumentError(InvalidJobError):
    """An argument of a job cannot be stored: the message names argument, type and way out."""


class InvalidValueError(ZCAsyncError, ValueError):
    """A value is out of range or of the wrong form: the message names it and what is allowed."""


class BadStatusError(ZCAsyncError):
    """The call is not allowed in the job's present status."""


class JobNotFound(ZCAsyncError, LookupError):
    """No job has that id. Finished jobs are kept for the queue's retention time only."""


class JobNotInQueue(ZCAsyncError, LookupError):
    """The job does not wait in this queue: it was claimed, has ended, or was never put here."""


class NoJob(ZCAsyncError, AttributeError):
    """No job of a dispatcher runs in this thread."""


class QueueNotFound(ZCAsyncError, LookupError):
    """No queue has that name. Create it first, for example in the profile's zcasync.xml."""


class QuotaNotFound(ZCAsyncError, ValueError):
    """No quota has that name. Create it first with queue.quotas.create(name, size)."""


class TaskNotFound(ZCAsyncError, LookupError):
    """No task is registered under that name in this process."""


class PolicyNotFound(ZCAsyncError, LookupError):
    """No retry policy has that name."""


class InUse(ZCAsyncError):
    """This cannot be removed while it is used: the message tells by whom, and the way out."""


class NotHere(ZCAsyncError, KeyError):
    """Nothing has that name here: the message names the mapping and what it holds."""

    __str__ = Exception.__str__  # KeyError's shows the repr of the message


class OutOfRange(ZCAsyncError, IndexError):
    """There is nothing at that place: the message says how many there are."""


class PutRefused(ZCAsyncError):
    """A put cannot be honoured here: the message names the task, the place and the remedy."""


class SchemaTooNew(PutRefused):
    """The queues were made ready for a newer version of this package: the message names it."""


class ConfigurationError(ZCAsyncError, ValueError):
    """A setting is wrong: the message names the key, the value and what is allowed."""


class FullError(ZCAsyncError):
    """The container is full."""


# How a job can end


class AbortedError(ZCAsyncError):
    """The job was interrupted, and its retry policy does not run it again."""


class CancelledError(AbortedError):
    """The job was cancelled before it started."""


class TimeoutError(ZCAsyncError):  # the name is zc.async's; not the builtin
    """The job did not start before its begin_by had passed."""


class UnknownCallableError(ZCAsyncError, LookupError):
    """The job's function is not found under its name. Install the code, or discard the job."""


class UnreadableArgumentsError(ZCAsyncError):
    """The job's arguments cannot be loaded: the class of one of them is gone."""


class InGroupError(ZCAsyncError):
    """A job that shares its transaction with others has committed, aborted or begun one. It then runs by itself."""


class ContentGone(ZCAsyncError, LookupError):
    """The content that the job was about was deleted, or the job's user may not see it."""


class UserGone(ZCAsyncError, LookupError):
    """The user whose job this is does not exist any more."""


# What the engine tells itself


class ReassignedError(ZCAsyncError):
    """The job has another owner now; the attempt that finds this out leaves everything alone."""


class StopRequested(BaseException):
    """The job was asked to stop. A BaseException, so that a job's ``except Exception`` lets it pass."""
