"""Retry policies: they decide what follows trouble, and never sleep."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import MutableMapping
from collective.zcasync import callables
from collective.zcasync.configuredpolicy import ATTENTION
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.configuredpolicy import count_interruption
from collective.zcasync.configuredpolicy import keep_counts
from collective.zcasync.exceptions import PolicyNotFound
from collective.zcasync.exceptions import UnknownCallableError
from collective.zcasync.failure import convert
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.transactions import DISCONNECTS
from collective.zcasync.transactions import is_conflict
from collective.zcasync.transactions import is_disconnect
from datetime import timedelta
from transaction.interfaces import DoomedTransaction
from transaction.interfaces import TransactionError
from typing import Any
from zope.component import queryAdapter
from zope.interface import implementer

import logging

__all__ = (
    "ConfiguredPolicy",
    "NeverRetry",
    "RetryCommonForever",
    "RetryCommonFourTimes",
    "callback_retry_policy_factory",
    "policy_for",
    "retries_interruptions",
    "trouble",
)

logger = logging.getLogger("collective.zcasync.events")
tracelog = logging.getLogger("collective.zcasync.trace")

#: ``(classes or dotted names, key in the data, most attempts or None, first wait, what each adds, longest wait)``.
Rule = tuple[tuple[Any, ...], str, int | None, float, float, float]

Answer = bool | timedelta


def trouble(exception: Any) -> str:
    """What kind of trouble an exception or failure is: "away", "conflict" or "error"."""
    if is_disconnect(exception):
        return "away"
    return "conflict" if is_conflict(exception) else "error"


class _Policy:
    """Base of the policies that count by a table."""

    #: Looked at when the call raised, in this order: a disconnect is also a transaction error.
    internal_exceptions: tuple[Rule, ...] = (
        (DISCONNECTS, "zeo_disconnected", None, 5, 5, 60),
        ((TransactionError,), "transaction_error", 5, 0, 0, 0),
    )

    #: Looked at when the commit raised.
    transaction_exceptions: tuple[Rule, ...] = internal_exceptions

    #: Interruptions after which the job is run again; None: always; 0: never. Clean stops of the dispatcher count for
    #: themselves and end no job, unless this is 0.
    max_interruptions: int | None = 9

    #: The first and then each such retry is logged as a warning.
    log_every = 5

    def __init__(self, job: Any) -> None:
        self.parent = self.__parent__ = job

    @property
    def data(self) -> MutableMapping[str, Any]:
        """What is stored with the job: counts, ``last_...`` failures as text, ``first_active``."""
        return self.parent.policy_data

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy."""
        return self._decide(failure, data_cache, self.internal_exceptions, "job")

    def commitError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy."""
        return self._decide(failure, data_cache, self.transaction_exceptions, "commit")

    def interrupted(self) -> Answer:
        """See IRetryPolicy."""
        count, most = count_interruption(self.parent, self.data), self.max_interruptions
        # A stop is no fault of the job's. But where no interruption is allowed, the code must not run twice at all.
        again = most is None or most > 0 and (count is None or count <= most)
        told = self.data["interruptions"]
        what = "run again" if again else "given up"
        tracelog.info("Job %s was interrupted (%d times) and is %s", _name(self.parent), told, what)
        return again

    def updateData(self, data_cache: dict[str, Any]) -> None:
        """See IRetryPolicy."""
        keep_counts(self.parent, self.data, data_cache)

    def _decide(self, failure: Any, data_cache: dict[str, Any], rules: Iterable[Rule], where: str) -> Answer:
        failure = convert(failure)
        away = is_disconnect(failure)
        for classes, key, attempts, first, more, longest in rules:
            # A driver's error means the database only by where it was raised, which no class tells.
            if failure.check(*classes) is None and not (away and classes is DISCONNECTS):
                continue
            if key == "transaction_error" and failure.check(DoomedTransaction) is not None:
                continue  # it is one by its class, but it would be doomed again
            count = _count(data_cache, key, failure)
            if attempts is not None and count >= attempts:
                self._log("gives up", where, count, failure)
                return False
            if count == 1 or count % self.log_every == 0:
                self._log("retries", where, count, failure)
            return _answer(min(longest, first + more * (count - 1)))
        return False

    def _log(self, what: str, where: str, count: int, failure: Any) -> None:
        policy = type(self).__name__
        tracelog.warning(
            "Job %s, %s error number %d: %s; %s %s", _name(self.parent), where, count, failure.summary, policy, what
        )


@implementer(IRetryPolicy)
class RetryCommonFourTimes(_Policy):
    """Conflicts: five attempts. Disconnects: until the database is back. Other errors: none. Interruptions: nine."""


@implementer(IRetryPolicy)
class RetryCommonForever(_Policy):
    """Like RetryCommonFourTimes, but never gives up on conflicts, disconnects, interruptions or the commit."""

    internal_exceptions = (
        (DISCONNECTS, "zeo_disconnected", None, 5, 5, 60),
        ((TransactionError,), "transaction_error", None, 0, 0, 0),
    )
    transaction_exceptions = internal_exceptions
    max_interruptions = None

    other_commit_initial_backoff: float = 0
    other_commit_incremental_backoff: float = 1
    other_commit_max_backoff: float = 60

    #: Conflicts in a row that are tried again at once; after so many the thread is freed between attempts.
    patience = 25

    def commitError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy. It commits or dies trying; a commit that always fails is told as CRITICAL."""
        answer = super().commitError(failure, data_cache)
        if answer is not False:
            return answer
        failure = convert(failure)
        count = _count(data_cache, "other", failure)
        data_cache[ATTENTION] = True
        if count == 1 or count % self.log_every == 0:
            logger.critical(
                "Job %s cannot be committed (%d times), and is tried on: %s\n%s",
                _name(self.parent),
                count,
                failure.summary,
                failure.getTraceback(),
            )
        first, more = self.other_commit_initial_backoff, self.other_commit_incremental_backoff
        return _answer(min(self.other_commit_max_backoff, first + more * (count - 1)))

    def _decide(self, failure: Any, data_cache: dict[str, Any], rules: Iterable[Rule], where: str) -> Answer:
        answer = super()._decide(failure, data_cache, rules, where)
        beyond = data_cache.get("transaction_error", 0) - self.patience
        if answer is True and beyond > 0:
            data_cache[ATTENTION] = True
            return timedelta(seconds=min(60, beyond))
        return answer


@implementer(IRetryPolicy)
class NeverRetry:
    """One attempt, whatever happens: for work whose effects no abort takes back."""

    def __init__(self, job: Any) -> None:
        self.parent = self.__parent__ = job

    def jobError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy."""
        return False

    def commitError(self, failure: Any, data_cache: dict[str, Any]) -> Answer:
        """See IRetryPolicy."""
        return False

    def interrupted(self) -> Answer:
        """See IRetryPolicy."""
        return False

    def updateData(self, data_cache: dict[str, Any]) -> None:
        """See IRetryPolicy."""


BUILTIN: dict[str, Any] = {cls.__name__: cls for cls in (RetryCommonFourTimes, RetryCommonForever, NeverRetry)}


def callback_retry_policy_factory(job: Any) -> Any:
    """The policy of callbacks that name none: the adapter to IRetryPolicy named "callback", else RetryCommonForever.

    Other jobs may have it as their ``retry_policy_factory``.
    """
    adapter = queryAdapter(job, IRetryPolicy, "callback")
    return RetryCommonForever(job) if adapter is None else adapter


def policy_for(job: Any) -> Any:
    """The policy that decides about the job, looked up anew at each call.

    What the job names holds; then the adapter to IRetryPolicy, the configured policy "default", RetryCommonFourTimes.
    Raises PolicyNotFound for a name that this process does not know: another policy in its place might run twice what
    must not.
    """
    configured = _configured(job)
    for asked in (getattr(job, "retry_policy_factory", None), getattr(job, "policy", None)):
        if asked is None or asked == "":
            continue
        return _named(job, asked, configured) if isinstance(asked, str) else _made(asked, job)
    if getattr(job, "is_callback", False):
        return callback_retry_policy_factory(job)
    adapter = queryAdapter(job, IRetryPolicy)
    if adapter is not None:
        return adapter
    return _made(configured.get("default", RetryCommonFourTimes), job)


def retries_interruptions(job: Any) -> bool:
    """Whether the job would surely be run again after an interruption; asked before claims, changes nothing.

    False where it cannot be known: then the job's start is committed before its first line runs.
    """
    try:
        policy = policy_for(job)
    except Exception:  # the run itself will tell what is wrong with the policy
        return False
    told = getattr(policy, "retries_interruptions", None)
    if told is not None:
        return bool(told)
    if not isinstance(policy, _Policy) or type(policy).interrupted is not _Policy.interrupted:
        return False
    return policy.max_interruptions is None or policy.max_interruptions > 0


def _configured(job: Any) -> Mapping[str, Any]:
    policies = getattr(job, "policies", None)
    return (policies() if policies is not None else None) or {}


def _named(job: Any, name: str, configured: Mapping[str, Any]) -> Any:
    """The policy of that name."""
    found = configured.get(name)
    if found is not None:
        return _made(found, job)
    adapter = queryAdapter(job, IRetryPolicy, name)
    if adapter is not None:
        return adapter
    reason = "no policy has that name"
    if name in BUILTIN:
        return BUILTIN[name](job)
    if ":" in name:
        try:
            return _made(callables.resolve(name), job)
        except UnknownCallableError as e:
            reason = str(e)
    raise PolicyNotFound(
        f"retry policy {name!r}, which job {_name(job)} asks for, is not found ({reason}); add a policy under that"
        " name, in zcasync.xml or in the control panel, or cancel the job"
    )


def _made(factory: Any, job: Any) -> Any:
    """The policy that ``factory`` makes for the job; it may be one already."""
    if isinstance(factory, ConfiguredPolicy):
        return factory.bind(job)
    if IRetryPolicy.providedBy(factory):
        return factory
    policy = factory(job)
    return policy.bind(job) if isinstance(policy, ConfiguredPolicy) else policy


def forget_conflicts(data_cache: dict[str, Any]) -> None:
    """Count conflicts anew, under whatever policy: the job has come further since the last one."""
    for key in ("transaction_error", "conflict"):
        for known in [known for known in data_cache if known.partition(":")[0] == key]:
            del data_cache[known]


def _count(data_cache: dict[str, Any], key: str, failure: Any) -> int:
    count = data_cache[key] = data_cache.get(key, 0) + 1
    data_cache[f"last_{key}"] = failure.summary
    return count


def _answer(seconds: float) -> Answer:
    return timedelta(seconds=seconds) if seconds > 0 else True


def _name(job: Any) -> str:
    return f"{getattr(job, 'id', None) or '?'} ({getattr(job, 'task', None) or '?'})"
