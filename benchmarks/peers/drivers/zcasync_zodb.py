"""The package itself, on a FileStorage or on RelStorage with PostgreSQL: a dispatcher with four job threads."""

from collective.zcasync.interfaces import IConnectionSource
from collective.zcasync.reactor import prepare
from collective.zcasync.reactor import start
from collective.zcasync.tasks import task
from collective.zcasync.threadlocal import local
from zope.component import provideUtility

import counting
import os
import sys
import threading
import transaction
import ZODB
import ZODB.FileStorage

#: "group" after the address, as in file.fs#group: with group commit.
ADDRESS, _, GROUP = sys.argv[2].partition("#")


@task(name="noop", groupable=bool(GROUP))
def noop() -> None:
    counting.count()


@task(name="long")
def long(number: int) -> None:
    """Its effect is in the database, in the job's own transaction: that is what the package promises."""
    done = local.job._p_jar.root()["done"]
    done[number] = done.get(number, 0) + 1
    threading.Event().wait(counting.LONG)


def _open() -> ZODB.DB:
    if ADDRESS.startswith("host="):
        from relstorage.adapters.postgresql import PostgreSQLAdapter
        from relstorage.options import Options
        from relstorage.storage import RelStorage

        options = Options(keep_history=False)
        return ZODB.DB(RelStorage(PostgreSQLAdapter(dsn=ADDRESS, options=options), options=options), pool_size=20)
    return ZODB.DB(ZODB.FileStorage.FileStorage(ADDRESS), pool_size=20)


def connect(address: str) -> None:
    global db
    db = _open()
    if not sys.argv[1].startswith("put"):
        return
    from BTrees.IOBTree import IOBTree

    prepare(db)
    connection = db.open()
    connection.root().setdefault("done", IOBTree())
    transaction.commit()
    provideUtility(lambda: connection, IConnectionSource)


def put(number: int | None = None) -> None:
    noop.put() if number is None else long.put(number)
    transaction.commit()


def work() -> None:
    running = start(db, threads=counting.THREADS)
    if sys.argv[1] == "work":
        file = os.environ["EFFECTS"]
        threading.Thread(target=_report, args=(file,), daemon=True).start()
    running.thread.join()


def _report(file: str) -> None:
    """What is committed, in the form in which the others leave it: a number for each time that a job had its effect."""
    connection = db.open(transaction.TransactionManager())
    while True:
        connection.sync()
        done = [f"{number}\n" * times for number, times in connection.root()["done"].items()]
        with open(f"{file}.new", "w") as lines:
            lines.writelines(done)
        os.replace(f"{file}.new", file)
        threading.Event().wait(0.2)


if __name__ == "__main__":
    counting.main(sys.modules["__main__"])
