"""The console script ``zcasync``: a thin shell over functions; exit codes 0 (well), 1 (failed), 2 (wrong use)."""

from argparse import ArgumentParser
from argparse import ArgumentTypeError
from argparse import Namespace
from collections.abc import Sequence
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.zopeapp.config import queue_names
from collective.zcasync.zopeapp.config import thread_count
from collective.zcasync.zopeapp.purge import purge_site
from collective.zcasync.zopeapp.worker import run_worker
from zc.lockfile import LockError

import logging
import sys


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = get_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s [%(name)s] %(message)s")
    try:
        return options.command(options)
    except ConfigurationError as error:
        print(f"zcasync: {error}", file=sys.stderr)
        return 2
    except LockError as error:
        print(
            f"zcasync: the database is in use by another process ({error}). Stop that one, or share the database with"
            " ZEO or RelStorage",
            file=sys.stderr,
        )
        return 1


def get_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = ArgumentParser(prog="zcasync", description="Background jobs of Zope and Plone.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    worker = commands.add_parser("worker", help="run jobs in this process, without HTTP, until SIGTERM or Ctrl-C")
    _add_configuration(worker)
    worker.add_argument("--threads", type=_threads, metavar="N", help="job threads, 1 to 64 (as in zope.conf, else 3)")
    worker.add_argument(
        "--queues",
        type=_queues,
        metavar="NAMES",
        help="queues to serve, separated by commas; 'default' is the one without a name (as in zope.conf, else all)",
    )
    worker.set_defaults(command=_worker)

    purge = commands.add_parser("purge", help="delete all jobs of one site, and all that it owns in the queues")
    _add_configuration(purge)
    purge.add_argument("--site", required=True, metavar="PATH", help="path of the site, for example /Plone")
    purge.set_defaults(command=_purge)
    return parser


def _add_configuration(parser: ArgumentParser) -> None:
    parser.add_argument("-C", "--configuration", required=True, metavar="ZOPE_CONF", help="the server's zope.conf")


def _worker(options: Namespace) -> int:
    return run_worker(options.configuration, threads=options.threads, queues=options.queues)


def _purge(options: Namespace) -> int:
    print(f"zcasync: {purge_site(options.configuration, options.site)}")
    return 0


def _threads(text: str) -> int:
    try:
        return thread_count(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from error


def _queues(text: str) -> tuple[str, ...]:
    try:
        return queue_names(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from error
