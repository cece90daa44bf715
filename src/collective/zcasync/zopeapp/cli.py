"""The console script ``zcasync``: a thin shell over functions.

Exit codes: 0 (well), 1 (something needs attention, or a worker failed), 2 (wrong use, or not possible here), 130
(Ctrl-C); a worker has more of them.
"""

from argparse import ArgumentParser
from argparse import ArgumentTypeError
from argparse import Namespace
from collections.abc import Callable
from collections.abc import Sequence
from collective.zcasync import bulk
from collective.zcasync import joblists
from collective.zcasync import monitordb
from collective.zcasync import transactions
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.plaindata import dumps
from collective.zcasync.zopeapp import changing
from collective.zcasync.zopeapp import jsonlog
from collective.zcasync.zopeapp import looking
from collective.zcasync.zopeapp.answers import Answer
from collective.zcasync.zopeapp.config import parser_of
from collective.zcasync.zopeapp.opening import in_a_line
from collective.zcasync.zopeapp.opening import opened
from collective.zcasync.zopeapp.worker import run_worker
from typing import Any
from zc.lockfile import LockError
from ZODB.POSException import ReadOnlyError

import logging
import os
import sys

logger = logging.getLogger("collective.zcasync.zopeapp")

IN_USE = "the database is in use by another process ({}). Stop that one, or share the database with ZEO or RelStorage"

READ_ONLY = "the storage is read-only: take read-only out of it in zope.conf, or of its server's configuration"

UNWRITABLE = "the storage is read-only for this process ({}): name one in zope.conf that it may write"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = get_parser().parse_args(arguments, Namespace(arguments=arguments))
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s [%(name)s] %(message)s")
    try:
        answer = options.command(options)
        if isinstance(answer, Answer):
            print(answer.as_json() if options.json else answer.as_text(_width()), flush=True)
            return 1 if answer.attention else 0
        return int(answer)
    except BrokenPipeError:  # who reads it, head for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # a worker stops well by it
        return _refused("stopped by Ctrl-C", 130, options)
    except ZCAsyncError as error:
        return _refused(str(error), 2, options)
    except ReadOnlyError:
        return _refused(READ_ONLY, 2, options)
    except LockError as error:
        return _refused(IN_USE.format(error), options.code_in_use, options)
    except Exception as error:
        if transactions.cannot_write(error):
            return _refused(UNWRITABLE.format(in_a_line(error)), 2, options)
        if transactions.is_conflict(error) and not transactions.is_disconnect(error):
            return _refused(f"another process has changed the same at the same time; try again ({error})", 1, options)
        if not transactions.is_disconnect(error):
            raise
        return _refused(f"the database does not answer: {in_a_line(error)}", 1, options)


def _refused(message: str, code: int, options: Namespace) -> int:
    if options.json:
        print(dumps({"error": message}))
    elif jsonlog.is_on():
        logger.critical("%s", message)
    else:
        print(f"zcasync: {message}", file=sys.stderr)
    return code


def _width() -> int | None:
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


#: What ``zcasync jobs`` looks for, see joblists.Search.
SEARCHED = {
    "task": "only of tasks with this in their name or title; or a pattern of it with * and ?",
    "user": "only of users with this in their id",
    "object": "only about the object with this path, or what is in it",
    "error": "only with this in their error",
    "cause": "only what failed so, as zcasync failures tells it",
}


#: Options of ``zcasync worker``, each before a key of zope.conf: the name of its value, the key, and what it says.
WORKER = {
    "processes": ("N", "processes", "processes, 1 to 64, of which a supervisor restarts those that end; else 1"),
    "threads": ("N", "threads", "job threads of a process, 1 to 64; 3 unless zope.conf says otherwise"),
    "queues": (
        "NAMES",
        "queues",
        "queues to serve, separated by commas; 'default' is the one without a name; else all",
    ),
    "drain-timeout": (
        "SECONDS",
        "shutdown-grace",
        "what running jobs get at a clean stop, 8 unless zope.conf says otherwise",
    ),
    "max-jobs": ("N", "max-jobs", "end with code 4 after so many jobs, to be replaced by a fresh process; 0: never"),
    "max-minutes": ("N", "max-minutes", "the same after so many minutes"),
    "max-megabytes": ("N", "max-megabytes", "the same when the process uses so much memory"),
    "health-port": ("PORT", "health-port", "port for probes, /live and /ready, and for Prometheus, /metrics; 0: none"),
    "health-host": ("HOST", "health-host", "where it listens; 127.0.0.1 unless zope.conf says otherwise"),
    "health-file": ("PATH", "health-file", "file that is touched every 5 s while the process lives"),
    "log-format": ("FORMAT", "log-format", "text, or json: one object a line, with job, task, site and attempt"),
}


def get_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = ArgumentParser(prog="zcasync", description="Background jobs of Zope and Plone.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, help: str, command: Callable[[Namespace], Any], **defaults: Any) -> ArgumentParser:
        made = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        made.add_argument("-C", "--configuration", required=True, metavar="ZOPE_CONF", help="the server's zope.conf")
        made.set_defaults(
            **{"command": command, "json": False, "log_level": logging.WARNING, "code_in_use": 2, **defaults}
        )
        return made

    _add_looking(add)
    _add_changing(add)
    starts_zope = {"log_level": logging.INFO, "code_in_use": 1}
    worker = add("worker", "run jobs in this process, without HTTP, until SIGTERM or Ctrl-C", _worker, **starts_zope)
    for option, (metavar, key, help) in WORKER.items():
        worker.add_argument(
            f"--{option}",
            dest=key.replace("-", "_"),
            type=_setting(key),
            metavar=metavar,
            help=f"{help} (zope.conf: {key})",
        )
    worker.add_argument(
        "--once", action="store_true", help="run what is due, then end: with 0, or with 1 if a job has failed"
    )
    purge = add("purge", "delete all jobs of one site, and all that it owns in the queues", _purge, **starts_zope)
    purge.add_argument("--site", required=True, metavar="PATH", help="path of the site, for example /Plone")
    return parser


def _add_looking(add: Callable[..., ArgumentParser]) -> None:
    """Commands that look. They work beside a running server, also on its FileStorage."""

    def look(name: str, help: str, command: Callable[..., Answer], *names: str) -> ArgumentParser:
        def run(options: Namespace) -> Answer:
            with opened(options.configuration, database=_database_of(options)) as place:
                return command(place, **{key: getattr(options, key) for key in names})

        return _with_database(_with_json(add(name, help, run)))

    look("status", "tell how many jobs are in each state, and whether something needs attention", looking.status)
    listed = ("states", "queue", "site", "start", "limit", "skip", "oldest", "since", "until")
    jobs = look("jobs", "list jobs", looking.jobs, *listed, *SEARCHED)
    jobs.add_argument(
        "states",
        nargs="*",
        type=_state,
        metavar="STATE",
        help=f"{', '.join(joblists.LISTS)} (those that have not ended)",
    )
    _add_place(jobs)
    jobs.add_argument("--start", type=_number, default=0, metavar="N", help="leave out the first N (0)")
    jobs.add_argument("--limit", type=_number, default=50, metavar="N", help="list N of each state at most (50)")
    for name, help in SEARCHED.items():
        jobs.add_argument(f"--{name}", metavar="TEXT", help=help)
    jobs.add_argument("--since", metavar="AGO", help="not before that time ago: [nD][nH][nM][nS], for example 1D12H")
    jobs.add_argument("--until", metavar="AGO", help="not after that time ago")
    jobs.add_argument("--oldest", action="store_true", help="finished jobs oldest first")
    jobs.add_argument("--skip", type=_number, default=0, metavar="N", help="do not look at the first N entries (0)")
    job = look("job", "tell all about one job", looking.job, "id")
    job.add_argument("id", metavar="ID", help="the job's id, as lists and logs show it")
    _add_place(look("failures", "count failed jobs by what they failed with", looking.failures, "queue", "site"))
    traceback = look("traceback", "show the traceback of a failed job", looking.traceback, "id", "detail")
    traceback.add_argument("id", metavar="ID", help="the job's id")
    traceback.add_argument("--detail", choices=monitordb.DETAILS, default="default", help="how much (default)")
    look("queues", "list the queues with their numbers, quotas and agents", looking.queues)
    look("dispatchers", "list the dispatchers with their pings, versions, memory and clocks", looking.dispatchers)
    look("doctor", "list all that keeps jobs from running, each with the way out", looking.examine)


def _add_changing(add: Callable[..., ArgumentParser]) -> None:
    """Commands that change. They need ZEO or RelStorage, or a database that no other process uses."""

    def change(name: str, help: str, command: Callable[..., Answer], *names: str) -> ArgumentParser:
        def run(options: Namespace) -> Answer:
            with opened(options.configuration, writes=True, database=_database_of(options)) as place:
                return command(place, **{key: getattr(options, key) for key in names})

        return _with_database(_with_json(add(name, help, run)))

    def of_jobs(name: str, help: str, command: Callable[..., Answer]) -> None:
        change(name, help, command, "ids").add_argument("ids", nargs="+", metavar="ID", help="ids of jobs")

    def of_many(name: str, help: str, command: Callable[..., Answer], states: tuple[str, ...], usual: int) -> None:
        made = change(name, help, command, "states", "queue", "site", "task")
        told = f"{', '.join(states)} ({' and '.join(states[:usual])})"
        made.add_argument("states", nargs="*", type=_state, metavar="STATE", help=told)
        _add_place(made)
        made.add_argument("--task", metavar="PATTERN", help="only of tasks with such a name; it may have * and ? in it")

    def of_queues(name: str, help: str, command: Callable[..., Answer]) -> None:
        change(name, help, command, "names").add_argument(
            "names", nargs="+", metavar="QUEUE", help="names of queues; 'default' is the one without a name"
        )

    of_jobs("retry", "put failed or cancelled jobs once more", changing.retry)
    of_jobs("cancel", "end jobs that have not started, and ask those that run to stop", changing.cancel)
    of_many("retry-all", "put all jobs once more that failed and match", changing.retry_all, bulk.RETRIABLE, 1)
    of_many("cancel-all", "end all jobs that have not started and match", changing.cancel_all, bulk.CANCELLABLE, 2)
    of_queues("pause", "let no job of these queues begin; what runs goes on", changing.pause)
    of_queues("resume", "let jobs of these queues begin again", changing.resume)
    release = change(
        "release",
        "let jobs run that were set aside, or whose site or database is held",
        changing.release,
        *("ids", "group", "deployment"),
    )
    release.add_argument("ids", nargs="*", metavar="ID", help="ids of jobs that were set aside")
    release.add_argument("--group", metavar="PATH", help="path of a site whose jobs are held")
    release.add_argument("--deployment", action="store_true", help="let all jobs of this held database run here")
    discard = change(
        "discard",
        "remove jobs that were set aside, or all that wait in a held database, for good",
        changing.discard,
        *("ids", "deployment", "yes"),
    )
    discard.add_argument("ids", nargs="*", metavar="ID", help="ids of jobs that were set aside")
    discard.add_argument("--deployment", action="store_true", help="remove all that waits in this held database")
    discard.add_argument("--yes", action="store_true", help="do not ask before all is removed")
    move = _with_database(_with_json(add("move-queue", "move what waits in a queue to another database", _move)))
    move.add_argument("name", metavar="QUEUE", help="name of the queue; 'default' is the one without a name")
    move.add_argument("--to", required=True, metavar="DATABASE", help="name of the other database in zope.conf")
    of_jobs("delete", "forget jobs that have ended, or were set aside, for good", changing.delete)
    of_jobs("run-now", "let waiting jobs begin before all others, also those for later", changing.run_now)
    later = change("reschedule", "let waiting jobs begin at another time", changing.reschedule, "when", "ids")
    later.add_argument(
        "when",
        metavar="WHEN",
        help="from now: [nD][nH][nM][nS], for example 1D12H; or a time, for example 2026-12-24T20:00+01:00",
    )
    priority = change("priority", "give waiting jobs another priority", changing.change_priority, "priority", "ids")
    priority.add_argument("priority", type=int, metavar="N", help="-16 to 15; higher ones begin sooner")
    for made in (later, priority):
        made.add_argument("ids", nargs="+", metavar="ID", help="ids of jobs")
    for name, help, command in (
        ("pause-dispatcher", "let dispatchers take no more jobs; what runs goes on", changing.pause_dispatchers),
        ("resume-dispatcher", "let dispatchers take jobs again", changing.resume_dispatchers),
    ):
        change(name, help, command, "uuids").add_argument(
            "uuids", nargs="+", metavar="UUID", help="dispatchers, as zcasync dispatchers lists them"
        )
    change("migrate", "raise the schema of the stored queues, when all processes have been upgraded", changing.migrate)
    run = _with_json(add("run", "run one waiting job in the foreground", _run, log_level=logging.INFO))
    run.add_argument("id", metavar="ID", help="the job's id")
    run.add_argument("--pdb", action="store_true", help="open the debugger where the job's code raises an error")


def _add_place(parser: ArgumentParser) -> None:
    parser.add_argument("--queue", metavar="NAME", help="only of this queue; 'default' is the one without a name")
    parser.add_argument("--site", metavar="PATH", help="only of the site with this path, for example /Plone")


def _with_json(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _with_database(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument(
        "--database", metavar="NAME", help="queues of that database of zope.conf (as ids say, else those of the root)"
    )
    return parser


def _database_of(options: Namespace) -> str | None:
    """The database that the command line names; else the one that all ids name."""
    ids = [*getattr(options, "ids", ()), *filter(None, [getattr(options, "id", None)])]
    names = {id.partition("@")[2] for id in ids}
    return options.database or (names.pop() if len(names) == 1 else None) or None


def _worker(options: Namespace) -> int:
    given = {name: getattr(options, name) for name in (key.replace("-", "_") for _, key, _ in WORKER.values())}
    return run_worker(options.configuration, options.arguments, once=options.once, **given)


def _purge(options: Namespace) -> int:
    from collective.zcasync.zopeapp.purge import purge_site  # it loads what only Zope needs

    print(f"zcasync: {purge_site(options.configuration, options.site)}")
    return 0


def _move(options: Namespace) -> Answer:
    zope_conf = options.configuration
    with (
        opened(zope_conf, writes=True, database=options.database) as old,
        opened(zope_conf, writes=True, database=options.to) as new,
    ):
        return changing.move_queue(old, new, options.name)


def _run(options: Namespace) -> Answer:
    return changing.run(options.configuration, options.id, use_pdb=options.pdb)


def _setting(key: str) -> Callable[[str], Any]:
    """What reads an option as zope.conf's key is read."""
    parse = parser_of(key)

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r}: {error}") from error

    return read


def _state(text: str) -> str:
    if text not in joblists.LISTS:
        raise ArgumentTypeError(f"{text!r}: states are {', '.join(joblists.LISTS)}")
    return text


def _number(text: str) -> int:
    if not text.isdigit():
        raise ArgumentTypeError(f"{text!r}: a whole number of at least 0 is wanted")
    return int(text)
