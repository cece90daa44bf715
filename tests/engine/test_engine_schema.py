"""Versions side by side: code that is older than the stored queues leaves them alone, and says what it needs."""

from collective.zcasync import actions
from collective.zcasync import bulk
from collective.zcasync import doctor
from collective.zcasync import instanceuuid
from collective.zcasync import interfaces
from collective.zcasync import schema
from collective.zcasync.exceptions import BadStatusError
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.exceptions import SchemaTooNew
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.testing import poll_now
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_until
from enginejobs import make_agent
from typing import Any

import enginejobs
import pytest
import transaction
import transaction.interfaces

LONG = 20


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """This code is that of the next version: it knows one schema more; answers with the queues that it has raised."""
    raised: list[Any] = []
    monkeypatch.setattr(interfaces, "SCHEMA", interfaces.SCHEMA + 1)
    monkeypatch.setitem(schema.STEPS, interfaces.SCHEMA - 1, raised.append)
    return raised


def plant(queue: Any, by: str = "7.0") -> None:
    """Somebody with a newer version has raised the schema."""
    queue.parent.schema, queue.parent.schema_by = interfaces.SCHEMA + 1, by
    transaction.commit()


def test_a_put_by_older_code_is_refused_with_the_version_that_is_needed(queue: Any) -> None:
    plant(queue)
    with pytest.raises(PutRefused, match=r"have schema 2, .* no newer one than 1: install 7.0 or newer, and restart"):
        queue.put(Job(enginejobs.add, 1))
    plant(queue, by="")
    with pytest.raises(SchemaTooNew, match="install a newer version"):
        queue.put(Job(enginejobs.add, 1))
    assert len(queue) == 0


def test_a_dispatcher_that_is_older_claims_nothing_ends_what_it_has_and_goes_on_when_it_may(
    queue: Any, dispatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = dispatch(threads=1)
    busy = queue.put(Job(enginejobs.wait, "a"))
    transaction.commit()
    assert enginejobs.started["a"].wait(LONG)
    waiting = queue.put(Job(enginejobs.note, "taken when it may"))
    plant(queue)
    enginejobs.released["a"].set()
    wait_for_result(busy, LONG)
    wait_until(queue, lambda: queue.counts()["running"] == 0, LONG, "the job that is filed away")
    for _poll in range(3):
        poll_now(running.dispatcher)
    transaction.begin()

    assert (waiting.status, enginejobs.calls) == (interfaces.PENDING, ["a"])
    told = [record.getMessage() for record in caplog.records if "takes no jobs" in record.getMessage()]
    assert len(told) == 1 and "install 7.0 or newer" in told[0]

    queue.parent.schema = interfaces.SCHEMA
    transaction.commit()
    poll_now(running.dispatcher)
    assert wait_for_result(waiting, LONG) == "taken when it may"
    assert "understands the queues again" in caplog.text


def test_a_dispatcher_that_is_older_does_not_register_at_all(queue: Any, dispatch: Any) -> None:
    waiting = queue.put(Job(enginejobs.note, 1))
    plant(queue)
    running = dispatch()
    poll_now(running.dispatcher)
    transaction.begin()
    assert (list(queue.dispatchers), waiting.status) == ([], interfaces.PENDING)

    queue.parent.schema = interfaces.SCHEMA
    transaction.commit()
    poll_now(running.dispatcher)
    assert wait_for_result(waiting, LONG) == 1


def test_older_code_makes_no_queue_and_the_doctor_tells_what_is_wrong(queue: Any, connection: Any) -> None:
    plant(queue)
    install(connection)  # all is there: nothing is written
    with pytest.raises(SchemaTooNew, match="install 7.0"):
        install(connection, ("mail",))
    (finding,) = doctor.examine(queue)
    assert finding.kind == "schema" and finding.problem and "install 7.0 or newer" in finding.what


def test_older_code_changes_nothing_on_request(queue: Any, connection: Any) -> None:
    job = queue.put(Job(enginejobs.add, 1))
    queue.hold_group("/held")
    plant(queue)
    before = connection.db().lastTransaction()
    for change in (
        lambda: actions.cancel(job),
        lambda: actions.run_now(job),
        lambda: actions.discard(job),
        lambda: actions.pause_queue(queue),
        lambda: actions.hold_group(connection, "/site"),
        lambda: actions.release_group(connection, "/held"),
        lambda: bulk.cancel_all(connection, ("waiting",)),
    ):
        with pytest.raises(BadStatusError, match="Nothing can be changed here: .* install 7.0 or newer"):
            change()
    transaction.commit()
    assert connection.db().lastTransaction() == before


def test_new_code_works_with_the_old_schema_until_a_person_raises_it(
    queue: Any, dispatch: Any, newer: list[Any]
) -> None:
    dispatch()
    assert wait_for_result(_put(queue, 1), LONG) == 1
    transaction.begin()
    assert queue.parent.schema == interfaces.SCHEMA - 1

    assert schema.raise_newest(queue.parent) == (interfaces.SCHEMA - 1, interfaces.SCHEMA)
    transaction.commit()
    assert newer == [queue.parent] and queue.parent.schema_by == instanceuuid.version()
    assert wait_for_result(_put(queue, 2), LONG) == 2
    transaction.begin()
    assert schema.raise_newest(queue.parent) == (interfaces.SCHEMA, interfaces.SCHEMA)
    assert len(newer) == 1


def _put(queue: Any, value: int) -> Any:
    job = queue.put(Job(enginejobs.note, value))
    transaction.commit()
    return job


@pytest.mark.parametrize("told", ["its registration tells the schema", "it is older than that"])
def test_the_schema_is_not_raised_while_an_older_dispatcher_is_at_work(
    told: str, queue: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    da = make_agent(queue).parent
    da.process = instanceuuid.process_identity()
    if told == "it is older than that":
        del da.process["schema"]
    transaction.commit()
    request.getfixturevalue("newer")

    with pytest.raises(InUse, match=rf"schema 2 is not understood by dispatcher {da.UUID} \(pid \d+ on .*update"):
        schema.raise_newest(queue.parent)
    assert queue.parent.schema == interfaces.SCHEMA - 1
    da.deactivate()
    schema.raise_newest(queue.parent)
    assert queue.parent.schema == interfaces.SCHEMA


def test_a_dispatcher_whose_process_is_gone_keeps_nobody_and_its_jobs_wait_again(queue: Any, newer: list[Any]) -> None:
    agent = make_agent(queue)
    agent.parent.process = {**instanceuuid.process_identity(), "started": 1, "schema": 1}
    job = _put(queue, 1)
    assert agent.claimJob() is job
    transaction.commit()

    schema.raise_newest(queue.parent)
    transaction.commit()
    assert (agent.parent.activated, job.status, job.queue) == (None, interfaces.PENDING, queue)


def test_whoever_registers_while_the_schema_is_raised_makes_it_conflict(
    clients: Any, queue: Any, dispatch: Any, newer: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.raise_newest(queue.parent)
    monkeypatch.setattr(interfaces, "SCHEMA", interfaces.SCHEMA - 1)
    dispatch()  # its code is the older one, and it has registered before our commit
    with pytest.raises(transaction.interfaces.TransientError):
        transaction.commit()
    transaction.abort()
    monkeypatch.setattr(interfaces, "SCHEMA", interfaces.SCHEMA + 1)
    with pytest.raises(InUse):
        schema.raise_newest(queue.parent)
