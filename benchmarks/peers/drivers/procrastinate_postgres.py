"""Procrastinate: a worker that runs four jobs at once, each in a thread."""

import counting
import procrastinate
import sys

connector = procrastinate.PsycopgConnector if sys.argv[1] in ("drain", "work") else procrastinate.SyncPsycopgConnector
app = procrastinate.App(connector=connector(conninfo=sys.argv[2]))


@app.task(name="noop")
def noop() -> None:
    counting.count()


@app.task(name="long")
def long(number: int) -> None:
    counting.append(number)


def connect(address: str) -> None:
    if sys.argv[1].startswith("put"):
        app.open()
        if not app.check_connection():
            app.schema_manager.apply_schema()


def put(number: int | None = None) -> None:
    noop.defer() if number is None else long.defer(number=number)


def work() -> None:
    app.run_worker(concurrency=counting.THREADS)


if __name__ == "__main__":
    counting.main(sys.modules["__main__"])
