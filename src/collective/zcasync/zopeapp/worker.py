"""A worker: Zope without HTTP, with a dispatcher in the foreground until a signal comes."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import schema
from collective.zcasync import signals
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.reactor import RunningDispatcher
from collective.zcasync.signals import leave_at_once
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp import jsonlog
from collective.zcasync.zopeapp import starting
from collective.zcasync.zopeapp import supervised
from collective.zcasync.zopeapp.config import describe_queues
from collective.zcasync.zopeapp.config import missing_section_hint
from collective.zcasync.zopeapp.config import read_settings
from collective.zcasync.zopeapp.config import SECTION
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.database import get_database
from collective.zcasync.zopeapp.exitcodes import FAILED
from collective.zcasync.zopeapp.exitcodes import HUNG
from collective.zcasync.zopeapp.exitcodes import RECYCLED
from collective.zcasync.zopeapp.limits import Drained
from collective.zcasync.zopeapp.limits import Limits
from collective.zcasync.zopeapp.newdatabase import wait_for_setup
from collective.zcasync.zopeapp.opening import configured
from collective.zcasync.zopeapp.opening import numbered
from collective.zcasync.zopeapp.opening import read_zope_conf
from collective.zcasync.zopeapp.opening import unusable
from collective.zcasync.zopeapp.opening import wait_for_storage
from collective.zcasync.zopeapp.signs import Signs
from collective.zcasync.zopeapp.supervisor import supervise
from contextlib import contextmanager
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gc
import logging
import signal
import ZConfig

logger = logging.getLogger("collective.zcasync.zopeapp.worker")

#: Job threads of a worker, unless the command line or zope.conf says otherwise.
THREADS = 3


def run_worker(zope_conf: str, arguments: list[str], once: bool = False, **given: Any) -> int:
    """Run jobs until SIGTERM or SIGINT; returns the exit code, see docs/reference/cli.md.

    ``arguments``: of the command that this is, for more processes of its kind. ``once``: only until nothing is due.
    ``given``: fields of Settings that go before zope.conf, unless they are None.
    """
    # SIGTERM's default leaves the databases as they are; once the dispatcher runs, its own handler takes over.
    signal.signal(signal.SIGTERM, leave_at_once)
    if given.get("log_format") == "json":  # also what is wrong with zope.conf
        jsonlog.install()
    try:
        root = read_zope_conf(zope_conf)
        settings = worker_settings(read_settings(root.product_config.get(SECTION) or {}), **given)
        if settings.log_format == "json" and not jsonlog.is_on():
            jsonlog.install()
        if settings.processes > 1:
            return supervise(arguments, settings, once)
        shown: dict[str, Callable[[], health.Page]] = {
            "/live": lambda: health.verdict(""),
            **dict.fromkeys(("/ready", "/metrics"), lambda: health.verdict("starting")),
        }
        state = State()
        with ExitStack() as stack:
            if settings.health_port:
                stack.enter_context(health.serving(settings.health_host, settings.health_port, shown))
            signs = Signs(settings.health_file, state)
            stack.callback(signs.stop)
            wait_for_storage(root)
            stack.enter_context(zope_started(zope_conf, supervised.number))
            with get_database(settings).transaction() as connection:
                schema.check_database(connection)
            keep_loaded()
            running = starting.run(settings, replaceable=True)
            if signals.asked_early:
                return 0  # what was opened is closed in its order, the dispatcher first
            state.dispatchers = running.dispatchers
            shown.update(health.pages(running.dispatchers))
            signs.soon()
            logger.info(
                "Worker %s runs jobs (role %s, job threads: %s, queues: %s)%s",
                running.dispatcher.UUID,
                settings.role,
                settings.threads,
                describe_queues(settings),
                f"; {hint}: all settings have their defaults" if (hint := missing_section_hint()) else "",
            )
            return _until_the_end(running, settings, once)
    except KeyboardInterrupt:
        return 0


def keep_loaded() -> None:
    """What was loaded up to here stays as long as the process: the garbage collector need not look at it again.

    In a site that is most of what there is, and each full collection stops all job threads for a fifth of a second.
    """
    gc.collect()
    gc.freeze()


class State:
    """What a worker says of itself to those who want signs of life: as ``health`` does, once there is a dispatcher."""

    dispatchers: list[Any] | None = None

    def __call__(self) -> tuple[str, str]:
        """Two words, empty where all is well."""
        return ("", "starting") if self.dispatchers is None else health.state(self.dispatchers)


def _until_the_end(running: RunningDispatcher, settings: Settings, once: bool) -> int:
    """Wait for whatever ends the worker but a signal; the exit code."""
    limits, drained = Limits(settings, running), [Drained(one) for one in running.dispatchers]
    starting.wait_for_end(lambda: limits() or once and all(one() for one in drained))
    if limits.reached and running.hung is None and not running.idle:
        logger.info("This worker takes no more jobs because %s; those that run may end", limits.reached)
        running.drain()
        starting.wait_for_end(lambda: running.idle)
    if running.hung is not None:
        logger.error("This worker ends because job %s hangs; start a new one", running.hung)
        return HUNG
    if limits.reached:
        logger.info("This worker ends because %s; start a new one", limits.reached)
        return RECYCLED
    if once and running.dispatcher.activated:
        if reason := health.state(running.dispatchers)[1]:
            logger.error("No jobs are taken here: %s", running.dispatcher.held or reason)
            return FAILED
        logger.info("Nothing more is due: %s runs, %s jobs failed", running.ran, running.failed)
        return FAILED if running.failed else 0
    logger.error("The dispatcher ended without having been asked to; its last log lines say why")
    return FAILED


def worker_settings(settings: Settings, **given: Any) -> Settings:
    """zope.conf's settings as a worker takes them: the command line first, then zope.conf, then a worker's defaults."""
    own = {
        "dispatcher": True,
        # A server's zope.conf serves its workers too.
        "role": "worker" if settings.role == "embedded" else settings.role,
        # Those of one supervisor are several.
        "uuid_file": numbered(settings.uuid_file, supervised.number),
        "threads": settings.threads if "threads" in settings.given else THREADS,
    }
    return replace(settings, **{**own, **{name: value for name, value in given.items() if value is not None}})


@contextmanager
def zope_started(zope_conf: str, number: int = 1) -> Iterator[Any]:
    """Zope as a server starts it, without a server, and its databases closed at the end; yields the module Zope2.

    ``number``: of this process, if several use zope.conf. ConfigurationError if zope.conf is missing or wrong.
    """
    path = Path(zope_conf).absolute()
    if not path.is_file():
        raise ConfigurationError(f"there is no zope.conf at {path}; name one with -C")
    from Zope2.Startup import get_wsgi_starter

    import Zope2

    try:
        with starting.held_back():
            starter = get_wsgi_starter()
            configuration = configured(path, number)
            starter.setConfiguration(configuration)
            wait_for_setup(configuration.dbtab)
            starter.prepare()
        yield Zope2
    except ZConfig.ConfigurationError as error:
        raise unusable(path, error) from error
    finally:
        # A dispatcher stands first, so that it stops before its database closes.
        for each in Zope2.opened:
            each.close()
