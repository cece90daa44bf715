"""Jobs that are ``async def``: their code runs in the job's thread, which waits for each Deferred that they await."""

from collections.abc import Callable
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.threadlocal import local
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from typing import Any

import inspect
import logging
import threading

logger = logging.getLogger("collective.zcasync.events")

#: Seconds between two looks, by a thread that waits for a Deferred, at whether it should rather stop.
GLANCE = 0.2

#: Seconds that a thread without a reactor waits for a Deferred: nobody might ever fire it.
PATIENCE = 6.0

_WAY_OUT = "a job can await Deferreds only; run asyncio code inside the job with asyncio.run(...)"


def result_of(result: Any, job: Any, around: Any) -> Any:
    """What a call has returned; of a coroutine what it returns when it has been run to its end.

    InvalidJobError for what is in the middle of its work and cannot be run: an async generator, a second coroutine.
    """
    if inspect.iscoroutine(result):
        result = drive(result, around)
    if inspect.iscoroutine(result):
        result.close()
        raise InvalidJobError(f"{job.task} returned a coroutine, {result.__qualname__}: write 'await' before it")
    if inspect.isasyncgen(result):
        raise InvalidJobError(
            f"{job.task} returned an async generator: return a list of what it yields, [item async for item in ...]"
        )
    return result


def drive(coroutine: Any, around: Any) -> Any:
    """Run a coroutine to its end in this thread. Its Deferreds are fired by others meanwhile.

    What it raises is raised; a Deferred's Failure is thrown into it. If its job is asked to stop while it waits,
    StopRequested is; if the process ends, it is closed, and SystemExit raised.
    """
    step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        except RuntimeError as error:
            if "no running event loop" in str(error):
                raise InvalidJobError(f"asyncio has no event loop in a job's thread: {_WAY_OUT}") from error
            raise
        if not isinstance(awaited, Deferred):
            wrong = InvalidJobError(f"the job awaits {awaited!r} ({type(awaited).__name__}): {_WAY_OUT}")
            step = _throwing(coroutine, wrong)
            continue
        try:
            fired = wait_for(awaited, around)
        except SystemExit:
            coroutine.close()
            raise
        except BaseException as error:
            step = _throwing(coroutine, error)
            continue
        if isinstance(fired, Failure):
            step = _throwing_failure(coroutine, fired)
        else:
            step = lambda: coroutine.send(None)  # noqa: E731  # the Deferred itself gives its result to the await


def _throwing(coroutine: Any, error: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(error)


def _throwing_failure(coroutine: Any, failure: Failure) -> Callable[[], Any]:
    return lambda: failure.throwExceptionIntoGenerator(coroutine)


def wait_for(deferred: Any, around: Any) -> Any:
    """Wait in this thread until the Deferred fires; return its result, or its Failure, which then counts as handled.

    The Deferred is touched by the dispatcher's reactor only. Raises StopRequested if the running job is asked to stop,
    SystemExit if the process stops.
    """
    fired = threading.Event()
    outcome: list[Any] = []

    def note(result: Any) -> Any:
        outcome.append(result)
        fired.set()
        return None if isinstance(result, Failure) else result

    reactor = around.reactor
    if reactor is None:
        deferred.addBoth(note)
    else:
        reactor.callFromThread(deferred.addBoth, note)
    waited = 0.0
    while not fired.wait(GLANCE):
        waited += GLANCE
        try:
            if around.stopping.is_set():
                raise SystemExit("stopped while it waited for a Deferred")
            if local.running is not None:
                local.running.look()
            if reactor is None and waited >= PATIENCE:
                raise InvalidJobError(
                    f"no reactor runs here, and nobody has fired the Deferred that the job waits for in {PATIENCE} s:"
                    " run the job with a dispatcher"
                )
        except BaseException:
            cancel(deferred, reactor)
            raise
    return outcome[0]


def fired_result(deferred: Any) -> tuple[bool, Any]:
    """(whether the Deferred has fired, its result or Failure). True only if nobody can be changing it just now."""
    if not deferred.called or deferred.paused or deferred._runningCallbacks or deferred._callbacks:
        return False, None
    result = deferred.result
    if isinstance(result, Failure):
        deferred.addErrback(lambda _failure: None)  # it is handled: the job has it
    return True, result


def cancel(deferred: Any, reactor: Any) -> None:
    """Nobody waits for the Deferred any more: let it stop its work, and let nobody complain of the Failure."""

    def give_up() -> None:
        deferred.addErrback(lambda _failure: None)
        deferred.cancel()

    if reactor is None:
        give_up()
    else:
        reactor.callFromThread(give_up)
