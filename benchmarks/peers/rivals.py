"""Who is compared: how each is run, and what its users may rely on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rival:
    """One row of the table. ``store``: sqlite, redis, redis-fsync, postgresql or filestorage."""

    name: str
    driver: str
    store: str
    #: Whether a job is put in the transaction of the application's own data.
    transactional: str
    #: What its documentation promises after a kill -9 of the worker, as it is run here.
    after_kill: str
    #: Where the comparison limps.
    note: str = ""
    #: Added to the store's address.
    option: str = ""
    ours: bool = False


_REDIS = "no: Redis and the database commit apart"
_OURS = "yes: the same commit"
_ONCE = "runs again; effects in the database exactly once"

RIVALS = (
    Rival(
        *("Huey", "huey_sqlite.py", "sqlite"),
        "only if the application's data is in the same SQLite file, and by hand",
        "lost: it is taken out of the store before it runs",
        "in one process with the database, as ours on FileStorage; keeps nothing of a job that returns None",
    ),
    Rival(
        *("RQ", "rq_redis.py", "redis"),
        _REDIS,
        "listed as started; cleaned up into the failed ones later, for a person",
        "no threads: four processes, one job each at a time, without the default's fork for each job",
    ),
    Rival(*("RQ, fsync", "rq_redis.py", "redis-fsync"), _REDIS, "as above", "as above, each write flushed"),
    Rival(
        *("Celery", "celery_redis.py", "redis"),
        _REDIS,
        "lost if it had begun (acknowledged early); what was fetched comes back after an hour",
        "no result backend: it keeps nothing of a finished job",
    ),
    Rival(*("Celery, fsync", "celery_redis.py", "redis-fsync"), _REDIS, "as above", "as above, each write flushed"),
    Rival(
        *("Dramatiq", "dramatiq_redis.py", "redis"),
        _REDIS,
        "runs again once another worker takes the dead one's messages over: a minute or more, effects twice",
        "no results: it keeps nothing of a finished job",
    ),
    Rival(*("Dramatiq, fsync", "dramatiq_redis.py", "redis-fsync"), _REDIS, "as above", "as above, each write flushed"),
    Rival(
        *("Procrastinate", "procrastinate_postgres.py", "postgresql"),
        "yes, if the application's data is in the same PostgreSQL and the connection is shared",
        "stays 'doing' until the application's own periodic task retries it, effects twice",
        "its threads are those of one asyncio loop; it keeps finished jobs, as ours does",
        " client_encoding=utf8",
    ),
    Rival(*("zcasync, FileStorage", "zcasync_zodb.py", "filestorage"), _OURS, _ONCE, "one process, as Huey", "", True),
    Rival(
        *("zcasync, FileStorage, group commit", "zcasync_zodb.py", "filestorage"),
        *(_OURS, _ONCE, "up to sixteen jobs share a commit; put one by one all the same", "#group", True),
    ),
    Rival(
        *("zcasync, PostgreSQL", "zcasync_zodb.py", "postgresql"),
        *(_OURS, _ONCE, "RelStorage: the content is in PostgreSQL too, as whole objects", "", True),
    ),
    Rival(
        *("zcasync, PostgreSQL, group commit", "zcasync_zodb.py", "postgresql"),
        *(_OURS, _ONCE, "up to sixteen jobs share a commit; put one by one all the same", "#group", True),
    ),
)
