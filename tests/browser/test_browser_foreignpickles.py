"""The pages of the panel that show several jobs load nothing that applications have stored in them."""

from collective.zcasync import joblists
from foreignpickles import exploded
from foreignpickles import put_in_site
from typing import Any

PAGES = ("@@zcasync-overview", "@@zcasync-dispatchers", "@@zcasync-queues", "@@zcasync-my-jobs")


def test_lists_and_overview_load_nothing_from_the_jobs(portal: Any, admin: Any) -> None:
    put_in_site(portal)
    for state in joblists.LISTS:
        admin.open(f"@@zcasync-jobs?state={state}&all_sites=1")
        assert admin.status == 200
        if state in ("waiting", "failed", "finished"):
            assert "foreignpickles" in admin.contents
    for page in PAGES:
        admin.open(page)
        assert admin.status == 200
    assert exploded == []
