"""monitor: zc.async's tools ``async`` as plain functions, their answers compared word by word."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync import monitor
from collective.zcasync.dispatcher import Dispatcher
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.jobinfo import JobInfo
from collective.zcasync.plaindata import dumps
from collective.zcasync.pollinfo import PollInfo
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from typing import Any

import json
import pytest
import uuid
import ZODB

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
KEY = uuid.UUID("d10f43dc-ffdf-11dc-abd4-0017f2c49bdd")


def seconds(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


class Claimed:
    """What JobInfo reads of a job."""

    agent_name, quota_names = "main", ("mail",)


@pytest.fixture
def here() -> Iterator[Dispatcher]:
    """The dispatcher of this process, which was activated at noon and has polled three times; it is 12:00:12.5."""
    aside = dict(dispatchers._dispatchers)
    dispatchers.clear()
    db = ZODB.DB(None)
    clock.set_now(NOON)
    made = Dispatcher(db, object(), uuid=KEY)
    made.activated = NOON
    for number, new in ((1, [7]), (6, []), (11.25, [8])):
        clock.set_now(seconds(number))
        entry = {"size": 3, "len": 0, "error": None, "new jobs": [(oid, "main") for oid in new], "active jobs": []}
        made.polls.add(PollInfo({"": {"main": entry}}))
        for oid in new:
            made.jobs[oid, "main"] = JobInfo(Claimed(), "")
            made.jobs[oid, "main"].update({"started": clock.utcnow(), "thread": 42, "call": f"<job {oid}>"})
    made.jobs[7, "main"].update({"completed": seconds(3.5), "result": "42", "poll id": made.polls.first().key})
    made.jobs[7, "main"].over = True
    clock.set_now(seconds(12.5))
    yield made
    made.activated = None
    clock.set_now(None)
    dispatchers.clear()
    dispatchers._dispatchers.update(aside)
    db.close()


def told(answer: Any) -> Any:
    """The answer as it comes out of JSON; it is plain data already."""
    assert json.loads(dumps(answer)) == answer
    return answer


def test_uuid_is_that_of_the_dispatcher(here: Dispatcher) -> None:
    assert told(monitor.UUID()) == "d10f43dc-ffdf-11dc-abd4-0017f2c49bdd"


def test_utcnow_is_the_moment_in_utc(here: Dispatcher) -> None:
    assert told(monitor.utcnow()) == "2026-05-01T12:00:12.500000Z"


def test_status_tells_state_and_durations_with_their_fractions(here: Dispatcher) -> None:
    assert told(monitor.status()) == {
        "poll interval": {"seconds": 5.0},
        "status": "RUNNING",
        "time since last poll": {"seconds": 1.25},
        "uptime": {"seconds": 12.5},
        "uuid": "d10f43dc-ffdf-11dc-abd4-0017f2c49bdd",
    }


def test_jobs_tells_what_runs_newest_first(here: Dispatcher) -> None:
    class Pool:
        queue_name, name = "", "main"

        def active(self) -> list[tuple[float, bytes]]:
            return [(1.0, (7).to_bytes(8, "big")), (2.0, (8).to_bytes(8, "big"))]

    here.queues = {"": {"main": Pool()}}  # type: ignore[dict-item]
    assert told(monitor.jobs()) == told(monitor.jobs(queue="", agent="main")) == [[8, "unnamed"], [7, "unnamed"]]
    assert told(monitor.jobs(queue="mail")) == []


def test_job_tells_all_that_is_remembered(here: Dispatcher) -> None:
    expected = {
        "agent": "main",
        "call": "<job 7>",
        "completed": "2026-05-01T12:00:03.500000Z",
        "failed": False,
        "poll id": here.polls.first().key,
        "queue": "",
        "quota names": ["mail"],
        "reassigned": False,
        "result": "42",
        "started": "2026-05-01T12:00:01Z",
        "thread": 42,
    }
    assert told(monitor.job(7)) == told(monitor.job("7")) == told(monitor.job(7, database="main")) == expected


def test_jobstats_tells_numbers_of_a_window(here: Dispatcher) -> None:
    expected = {
        "failed": 0,
        "longest active": [8, "main"],
        "longest failed": None,
        "longest successful": [7, "main"],
        "shortest active": [8, "main"],
        "shortest failed": None,
        "shortest successful": [7, "main"],
        "started": 2,
        "statistics end": "2026-05-01T12:00:11.250000Z",
        "statistics start": "2026-05-01T12:00:01Z",
        "successful": 1,
        "unknown": 0,
    }
    assert told(monitor.jobstats()) == expected
    assert told(monitor.jobstats(since="5S"))["started"] == 1
    assert told(monitor.jobstats(before="5S"))["started"] == 1
    assert told(monitor.jobstats(queue="mail"))["started"] == 0


def test_poll_tells_key_time_and_results(here: Dispatcher) -> None:
    assert told(monitor.poll()) == {
        "key": here.polls.first().key,
        "time": "2026-05-01T12:00:11.250000Z",
        "results": {
            "": {"main": {"active jobs": [], "error": None, "len": 0, "new jobs": [[8, "main"]], "size": 3}},
        },
    }
    keys = [poll.key for poll in here.polls]
    assert monitor.poll(at="5S")["key"] == monitor.poll(before=str(keys[0]))["key"] == keys[1]
    assert monitor.poll(at=keys[2])["key"] == keys[2]


def test_polls_tells_the_three_newest_unless_told_otherwise(here: Dispatcher) -> None:
    for number in (12, 12.25):
        clock.set_now(seconds(number))
        here.polls.add(PollInfo())
    times = ["2026-05-01T12:00:12.250000Z", "2026-05-01T12:00:12Z", "2026-05-01T12:00:11.250000Z"]
    assert [poll["time"] for poll in told(monitor.polls())] == times
    assert [poll["time"] for poll in monitor.polls(count="2")] == times[:2]
    assert len(monitor.polls(since="1D")) == 5
    assert len(monitor.polls(since="1D", count=4)) == 4
    assert len(monitor.polls(before="3S")) == 2


def test_help_lists_the_nine_tools_and_tells_all_of_one() -> None:
    listed = told(monitor.help())
    names = [line.split(":")[0] for line in listed]
    assert names == ["UUID", "help", "job", "jobs", "jobstats", "poll", "polls", "status", "utcnow"]
    assert all(len(line.split(": ", 1)[1]) > 20 for line in listed)
    assert "interval before now" in monitor.help("poll")
    assert monitor.help("nothing") == "Tool not found: nothing"


def test_every_tool_takes_the_uuid_of_a_dispatcher_of_this_process(here: Dispatcher) -> None:
    for tool in ("UUID", "utcnow", "status", "jobs", "jobstats", "poll", "polls"):
        call = monitor.TOOLS[tool]
        assert call(uuid=KEY) == call(uuid=str(KEY)) == call()
    assert monitor.job(7, uuid=KEY) == monitor.job(7)


def test_a_dispatcher_that_is_not_here_is_a_lookup_error(here: Dispatcher) -> None:
    with pytest.raises(LookupError, match="no dispatcher") as raised:
        monitor.status(uuid=uuid.uuid4())
    assert isinstance(raised.value, ZCAsyncError)
    dispatchers.clear()
    with pytest.raises(LookupError, match="look into the database with monitordb or zcasync"):
        monitor.status()


def test_wrong_words_are_value_errors(here: Dispatcher) -> None:
    for call in (
        lambda: monitor.status(uuid="nonsense"),
        lambda: monitor.poll(at="yesterday"),
        lambda: monitor.poll(at="1H", before="1H"),
        lambda: monitor.polls(count="many"),
        lambda: monitor.job("abc"),
        lambda: monitor.job(99),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        assert isinstance(raised.value, ZCAsyncError)
