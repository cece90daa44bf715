"""A worker: Zope without HTTP, with a dispatcher in the foreground until a signal comes."""

from collections.abc import Iterator
from collective.zcasync import schema
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.signals import leave_at_once
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp import starting
from collective.zcasync.zopeapp.config import describe_queues
from collective.zcasync.zopeapp.config import get_settings
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.database import get_database
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import logging
import signal
import ZConfig

logger = logging.getLogger("collective.zcasync.zopeapp.worker")

#: Job threads of a worker, unless the command line or zope.conf says otherwise.
THREADS = 3

#: Exit code of a worker that leaves because a job hangs in it: a new process is wanted, and the log says which job.
HUNG = 3


def run_worker(zope_conf: str, threads: int | None = None, queues: tuple[str, ...] | None = None) -> int:
    """Run jobs until SIGTERM or SIGINT; the exit code: 0 after a signal, 1 if the dispatcher ended by itself, 3 (HUNG)
    if a job hangs, so that its thread is lost and a supervisor should start a new worker."""
    # SIGTERM's default leaves the databases as they are; once the dispatcher runs, its own handler takes over.
    signal.signal(signal.SIGTERM, leave_at_once)
    try:
        with zope_started(zope_conf):
            settings = worker_settings(get_settings(), threads, queues)
            with get_database(settings).transaction() as connection:
                schema.check_database(connection)
            running = starting.run(settings, replaceable=True)
            logger.info(
                "Worker %s runs jobs (role %s, job threads: %s, queues: %s)",
                running.dispatcher.UUID,
                settings.role,
                settings.threads,
                describe_queues(settings),
            )
            with _health(settings, running.dispatcher):
                starting.wait_for_end()
            if running.dispatcher.hung is not None:
                logger.error("This worker ends because job %s hangs; start a new one", running.dispatcher.hung)
                return HUNG
            logger.error("The dispatcher ended without having been asked to; its last log lines say why")
            return 1
    except KeyboardInterrupt:
        return 0


@contextmanager
def _health(settings: Settings, dispatcher: Any) -> Iterator[None]:
    """Tell probes how the worker is, if zope.conf wants that."""
    if not settings.health_port:
        yield
        return
    with health.serving(settings.health_host, settings.health_port, health.pages(dispatcher)):
        yield


def worker_settings(settings: Settings, threads: int | None, queues: tuple[str, ...] | None) -> Settings:
    """zope.conf's settings as a worker takes them: the command line first, then zope.conf, then a worker's defaults."""
    if threads is None:
        threads = settings.threads if "threads" in settings.given else THREADS
    return replace(
        settings,
        dispatcher=True,
        # A server's zope.conf serves its workers too.
        role="worker" if settings.role == "embedded" else settings.role,
        threads=threads,
        queues=settings.queues if queues is None else queues,
    )


@contextmanager
def zope_started(zope_conf: str) -> Iterator[Any]:
    """Zope as a server starts it, without a server, and its databases closed at the end; yields the module Zope2.

    ConfigurationError if zope.conf is missing or wrong.
    """
    path = Path(zope_conf).absolute()
    if not path.is_file():
        raise ConfigurationError(f"there is no zope.conf at {path}; name one with -C")
    from Zope2.Startup.run import make_wsgi_app

    import Zope2

    try:
        with starting.held_back():
            make_wsgi_app({}, str(path))
        yield Zope2
    except ZConfig.ConfigurationError as error:
        raise ConfigurationError(f"{path} cannot be used: {error}") from error
    finally:
        # A dispatcher stands first, so that it stops before its database closes.
        for each in Zope2.opened:
            each.close()
