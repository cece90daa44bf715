"""Lists are shown without loading what applications have stored: a hostile pickle harms nobody who only looks."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import activity
from collective.zcasync import alarms
from collective.zcasync import bulk
from collective.zcasync import doctor
from collective.zcasync import joblists
from collective.zcasync import monitordb
from collective.zcasync.claims import Taker
from collective.zcasync.ownjobs import own_jobs
from collective.zcasync.ownjobs import Owner
from collective.zcasync.queue import get_queue
from collective.zcasync.queue import install
from collective.zcasync.zopeapp.cli import main
from foreignpickles import exploded
from foreignpickles import put
from foreignpickles import Vanishing
from pathlib import Path
from typing import Any
from ZODB.FileStorage import FileStorage

import enginejobs
import pytest
import transaction
import ZODB

ZOPE_CONF = """\
instancehome {folder}
<zodb_db main>
  mount-point /
  <filestorage>
    path {folder}/Data.fs
  </filestorage>
</zodb_db>
"""


@pytest.fixture
def vanishing() -> Iterator[Vanishing]:
    made = Vanishing()
    yield made
    made.vanish()


@pytest.fixture
def loaded(tmp_path: Path, vanishing: Vanishing) -> Iterator[Any]:
    """A connection to a database with such jobs in all states, of which nothing was loaded yet."""
    db = ZODB.DB(FileStorage(str(tmp_path / "Data.fs")), database_name="main")
    connection = db.open()
    install(connection)
    queue = get_queue(connection)
    for state in ("ended", "cancelled", "running", "set aside", "waiting"):
        jobs = put(connection, vanishing)
        transaction.commit()
        agent = enginejobs.make_agent(queue)
        for job in jobs:
            if state == "ended":
                enginejobs.perform(agent)
            elif state == "cancelled":
                queue.cancel(job, callbacks=False)
            elif state == "running":
                assert agent.claimJob() is job
            elif state == "set aside":
                Taker(queue, queue.any_slot()).set_aside(queue._find(job), "its process died")
        if state == "ended":
            agent.parent.deactivate()  # files them away
        transaction.commit()
    connection.close()
    db.close()
    vanishing.vanish()
    db = ZODB.DB(FileStorage(str(tmp_path / "Data.fs")), database_name="main")
    connection = db.open()
    exploded.clear()
    yield connection
    transaction.abort()
    connection.close()
    db.close()


def every_list(connection: Any) -> list[Any]:
    return [joblists.jobs(connection, state, limit=50).rows for state in joblists.LISTS]


LOOKS: dict[str, Callable[[Any], Any]] = {
    "every list": every_list,
    "the counts": joblists.counts,
    "the queues": joblists.queues,
    "the failures by their error": joblists.failures,
    "a search": lambda c: [joblists.jobs(c, state, search=joblists.Search(error="argument")) for state in ("failed",)],
    "the last day": activity.last_day,
    "the alarms": alarms.examine,
    "the doctor": doctor.examine,
    "one's own jobs": lambda c: own_jobs(c, Owner("", "somebody", ("foreignpickles.swallow",))),
    "a count in the monitor": lambda c: monitordb.count(c, "completed", "pending", "active"),
    "the ids in the monitor": lambda c: list(monitordb.jobs(c, "completed", "pending", "active")),
    "a cancel of all": lambda c: bulk.cancel_all(c, ("waiting",)),
}


@pytest.mark.parametrize("name", LOOKS)
def test_whoever_looks_at_lists_loads_nothing_that_applications_have_stored(name: str, loaded: Any) -> None:
    assert LOOKS[name](loaded) is not None
    assert exploded == []


def test_what_these_jobs_hold_goes_off_when_somebody_asks_for_it(loaded: Any) -> None:
    row = next(row for row in joblists.jobs(loaded, "waiting").rows if row.task == "foreignpickles.swallow")
    assert exploded == []
    assert len(joblists.find(loaded, row.id).args) == 2 and "argument" in exploded


def test_the_lists_hold_the_jobs_of_all_states(loaded: Any) -> None:
    found = {state: len(joblists.jobs(loaded, state).rows) for state in joblists.LISTS}
    assert (found["waiting"], found["running"], found["quarantined"]) == (3, 3, 3)
    assert (found["failed"], found["finished"], found["cancelled"]) == (1, 2, 3)
    assert exploded == []


def test_a_job_whose_code_is_gone_is_told_all_about_and_its_arguments_are_named(loaded: Any) -> None:
    rows = joblists.jobs(loaded, "waiting").rows
    (gone,) = [row for row in rows if row.task.startswith("foreignpickles_gone")]
    assert "Thing" in str(joblists.job(loaded, gone.id))


@pytest.mark.parametrize("words", [("jobs", *joblists.LISTS), ("status",), ("failures",), ("queues",), ("doctor",)])
def test_the_console_script_lists_jobs_without_loading_what_is_in_them(
    words: tuple[str, ...], loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zope.conf").write_text(ZOPE_CONF.format(folder=tmp_path))
    assert main([*words, "-C", str(tmp_path / "zope.conf")]) in (0, 1)
    assert capsys.readouterr().out
    assert exploded == []
