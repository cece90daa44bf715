"""Looking for jobs: what fits, how far a page looks, where it goes on, and what failed jobs have in common."""

from collective.zcasync import clock
from collective.zcasync import joblists
from collective.zcasync import lookup
from collective.zcasync import monitorrows
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.failure import Failure
from collective.zcasync.filing import file_away
from collective.zcasync.job import Job
from collective.zcasync.jobdetail import is_broken
from collective.zcasync.jobsearch import Search
from datetime import datetime
from datetime import timedelta
from enginejobs import make_agent
from typing import Any

import enginejobs
import pytest
import transaction

#: How a database is shared makes no difference to what is tested here.
pytestmark = pytest.mark.parametrize("clients", ["filestorage"], indirect=True)

NOON = datetime(2030, 5, 17, 12, tzinfo=clock.UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def slot(queue: Any) -> Any:
    return make_agent(queue).slot


def put(queue: Any, name: str, **attributes: Any) -> Any:
    job = Job(enginejobs.note, name)
    job._title = name
    for attribute, value in attributes.items():
        setattr(job, attribute, value)
    return queue.put(job)


def fail(queue: Any, slot: Any, name: str, error: Exception, when: datetime = NOON, **attributes: Any) -> Any:
    job = put(queue, name, **attributes)
    queue.take_out(job)
    job._finish(Failure.from_exception(error), when)
    file_away(queue, slot, job)
    return job


def found(queue: Any, wanted: str = joblists.WAITING, **search: Any) -> list[str]:
    return [row.title for row in joblists.jobs(queue.parent, wanted, search=Search(**search)).rows]


def test_jobs_are_found_by_a_part_of_task_or_title_and_by_a_pattern(queue: Any) -> None:
    put(queue, "Import members", _task="club.import_members")
    put(queue, "Send newsletter", _task="club.send")
    assert found(queue, task="IMPORT") == ["Import members"]
    assert found(queue, task="club.") == ["Import members", "Send newsletter"]
    assert found(queue, task="club.s*d") == ["Send newsletter"]
    assert found(queue, task="s*d") == []
    assert found(queue) == ["Import members", "Send newsletter"]


def test_jobs_are_found_by_their_user(queue: Any) -> None:
    put(queue, "hers", user="/site/acl_users:jane")
    put(queue, "his", user="/site/acl_users:joe")
    assert found(queue, user="jane") == ["hers"]


def test_jobs_are_found_by_their_object_and_by_its_folders(queue: Any) -> None:
    put(queue, "page", where="/site/news/today")
    put(queue, "other", where="/site/newsletter")
    assert found(queue, object="/site/news") == ["page"]
    assert found(queue, object="/site/news/today/") == ["page"]
    assert found(queue, object="/site") == ["page", "other"]


def test_failed_jobs_are_found_by_their_error_and_by_its_cause(queue: Any, slot: Any) -> None:
    fail(queue, slot, "disk", OSError("The disk is full"))
    fail(queue, slot, "key", KeyError("member"))
    assert found(queue, joblists.FAILED, error="disk IS") == ["disk"]
    assert found(queue, joblists.FAILED, cause="KeyError") == ["key"]


def test_what_people_type_is_no_pattern_of_its_own(queue: Any) -> None:
    put(queue, "100 % [sure] \\ <b>")
    for text in ("%", "[sure]", "\\", "<b>", "100 % [sure] \\ <b>"):
        assert found(queue, task=text) == ["100 % [sure] \\ <b>"]
    assert found(queue, task="[a-z]", user="\0", error="'") == []


def test_a_text_that_is_too_long_and_a_naive_time_are_refused(queue: Any) -> None:
    with pytest.raises(InvalidValueError, match="error is too long"):
        Search(error="x" * 301)
    with pytest.raises(InvalidValueError, match="since"):
        Search(since=NOON.replace(tzinfo=None))


def test_finished_jobs_are_found_by_the_time_of_their_end_without_a_look_at_others(queue: Any, slot: Any) -> None:
    for number in range(5):
        fail(queue, slot, f"{number}", ValueError(), NOON + number * HOUR)
    page = joblists.jobs(
        queue.parent, joblists.FAILED, search=Search(since=NOON + HOUR, until=NOON + 2 * HOUR), oldest=True
    )
    assert [row.title for row in page.rows] == ["1", "2"]
    assert page.looked <= 2


def test_jobs_that_wait_for_their_time_are_found_by_that(queue: Any) -> None:
    now = clock.utcnow()
    agent = make_agent(queue)
    for hours in (1, 2, 3):
        put(queue, f"in {hours} h", begin_after=now + hours * HOUR)
    assert agent.claimJob() is None
    assert found(queue, joblists.SCHEDULED, since=now + 1.5 * HOUR, until=now + 2.5 * HOUR) == ["in 2 h"]


def test_jobs_that_wait_are_found_by_the_time_of_their_put(queue: Any) -> None:
    put(queue, "now")
    assert found(queue, since=clock.utcnow() - HOUR) == ["now"]
    assert found(queue, since=clock.utcnow() + HOUR) == []
    assert found(queue, until=clock.utcnow() - HOUR) == []


def test_a_search_looks_at_so_many_entries_and_goes_on_where_it_stopped(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblists, "LOOK_LIMIT", 10)
    for number in range(25):
        put(queue, "needle" if number in (3, 14, 24) else "hay")
    found, skip = [], 0
    while skip is not None:
        page = joblists.jobs(queue.parent, joblists.WAITING, search=Search(task="needle"), skip=skip)
        found.append((len(page.rows), page.looked, page.seen))
        skip = page.next
    assert found == [(1, 10, 10), (1, 10, 20), (1, 5, 25)]


def test_a_page_of_a_search_goes_on_behind_its_last_job(queue: Any) -> None:
    for number in range(7):
        put(queue, f"{number}")
    first = joblists.jobs(queue.parent, joblists.WAITING, search=Search(task="*"), limit=3)
    second = joblists.jobs(queue.parent, joblists.WAITING, search=Search(task="*"), limit=3, skip=first.next)
    assert [row.title for row in second.rows] == ["3", "4", "5"]
    assert first.next == 3 and second.next == 6
    last = joblists.jobs(queue.parent, joblists.WAITING, skip=second.next)
    assert (len(last.rows), last.more, last.next, last.too_far) == (1, False, None, False)


def test_a_list_is_followed_so_far_and_further_back_nothing_is_looked_at(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitorrows, "LAST_SKIP", 2)
    for number in range(7):
        put(queue, f"{number}")
    first = joblists.jobs(queue.parent, joblists.WAITING, limit=2)
    assert (first.next, first.too_far) == (2, False)
    second = joblists.jobs(queue.parent, joblists.WAITING, limit=2, skip=2)
    assert (len(second.rows), second.next, second.too_far) == (2, None, True)
    monkeypatch.setattr(joblists, "entries", None)
    beyond = joblists.jobs(queue.parent, joblists.WAITING, skip=3)
    assert (beyond.rows, beyond.next, beyond.too_far) == ((), None, True)


def test_jobs_that_are_tried_again_and_those_that_need_attention_have_lists_of_their_own(queue: Any) -> None:
    later = clock.utcnow() + HOUR
    agent = make_agent(queue)
    put(queue, "planned", begin_after=later)
    put(queue, "again", begin_after=later, attempts=2)
    put(queue, "hopeless", begin_after=later, attempts=9, needs_attention=True)
    aside = put(queue, "aside")
    queue.take_out(aside)
    queue.quarantine[1] = ("its code is missing", aside)
    queue.adjust("quarantined", 1)
    assert agent.claimJob() is None
    assert sorted(found(queue, joblists.RETRYING)) == ["again", "hopeless"]
    assert found(queue, joblists.ATTENTION) == ["aside", "hopeless"]
    rows = joblists.jobs(queue.parent, joblists.ATTENTION).rows
    assert [row.state for row in rows] == ["quarantined", "scheduled"]
    assert joblists.count(queue.parent, joblists.ATTENTION) == joblists.Count(2)


def test_failed_jobs_are_counted_by_cause_those_of_the_latest_first(queue: Any, slot: Any) -> None:
    for number in range(3):
        fail(queue, slot, f"{number}", KeyError(number), NOON + number * SECOND, group="site1")
    fail(queue, slot, "disk", OSError("full"), NOON + DAY)
    rows = joblists.failures(queue.parent)
    assert [(row.cause, row.number) for row in rows] == [("OSError", 1), ("KeyError", 3)]
    assert (rows[1].group, rows[1].first, rows[1].last) == ("site1", NOON, NOON + 2 * SECOND)
    assert [row.cause for row in joblists.failures(queue.parent, "site1")] == ["KeyError"]


def test_a_job_that_failed_just_now_is_counted_with_its_cause_before_it_is_in_the_history(
    queue: Any, slot: Any
) -> None:
    fail(queue, slot, "first", KeyError(0))
    put(queue, "second")._finish(Failure.from_exception(KeyError(1)), NOON + SECOND)
    (row,) = joblists.failures(queue.parent)
    assert (row.cause, row.number, row.last) == ("KeyError", 2, NOON + SECOND)
    assert joblists.failures(queue.parent, "site1") == ()


def test_what_a_search_looks_at_is_fetched_from_the_storage_many_at_once(
    queue: Any, slot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    connection = queue._p_jar
    for number in range(12):
        fail(queue, slot, f"job {number}", ValueError("no"))
    transaction.commit()
    connection.cacheMinimize()
    monkeypatch.setattr(lookup, "TOGETHER", 5)
    monkeypatch.setattr(connection, "prefetch", lambda records: asked.append(len(records)))

    assert found(queue, joblists.FAILED, user="nobody") == []
    assert asked == [5, 5, 2]


def test_whether_a_job_can_be_loaded_is_told_without_loading_it(queue: Any) -> None:
    job = put(queue, "some")
    transaction.commit()
    job._p_deactivate()
    assert not is_broken(job)
    assert job._p_changed is None
