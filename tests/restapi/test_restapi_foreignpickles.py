"""Lists over REST load nothing that applications have stored in jobs."""

from collective.zcasync import joblists
from foreignpickles import exploded
from foreignpickles import put_in_site
from typing import Any


def test_the_lists_of_jobs_queues_and_dispatchers_load_nothing_from_the_jobs(
    portal: Any, queues: Any, root: Any
) -> None:
    put_in_site(portal)
    shown = {}
    for state in joblists.LISTS:
        answer = root("GET", f"@background-jobs?all_sites=1&state={state}")
        assert answer.status == 200
        shown[state] = len(answer.json["items"])
    assert [shown[state] for state in ("waiting", "quarantined", "failed", "finished")] == [2, 1, 1, 2]
    assert root("GET", "@background-queues").status == 200
    assert exploded == []
