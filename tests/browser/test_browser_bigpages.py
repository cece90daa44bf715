"""What a page costs its server is the same however many jobs there are: in records that it loads, and in its length."""

from benchmarks import pages
from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import jobentries
from collective.zcasync import joblists
from collective.zcasync import ownjobs
from collective.zcasync.browser import policies
from collective.zcasync.browser.frame import PanelMacros
from collective.zcasync.job import Job
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import Site
from collective.zcasync.tasks import task
from contextlib import contextmanager
from plone.base.interfaces import IPloneSiteRoot
from Products.Five.browser import BrowserView
from typing import Any
from visitor import Visitor
from ZODB.Connection import Connection
from zope.component import getGlobalSiteManager
from zope.interface import Interface
from zope.pagetemplate.pagetemplatefile import PageTemplateFile
from zope.publisher.interfaces.browser import IBrowserRequest

import pytest
import transaction

#: Jobs that wait and as many that have ended, of two sites, at which costs are compared.
SMALL, LARGE = 600, 1800

#: Entries that lists, counts and searches look at here, so that also the small database has more of this site's.
LOOK = 40

LIMITS = (
    (joblists, "LOOK_LIMIT", "PAGE_LOOK"),
    (jobentries, "COUNT_LOOK", "COUNT_LIMIT", "COUNT_EXACT"),
    (ownjobs, "LOOK"),
    (policies, "LOOK"),
)

#: A page may load so many times more from the large database, and so many records: its trees are a level deeper.
FACTOR, FEW = 1.5, 60

#: Bytes that a page may be longer: its numbers have more digits.
LONGER = 4000

PAGES = (
    "@@zcasync-overview",
    *(f"@@zcasync-jobs?state={state}" for state in ("waiting", "scheduled", "failed", "finished")),
    "@@zcasync-jobs?state=finished&user=nobody",
    "@@zcasync-queues",
    "@@zcasync-queue?name=",
    "@@zcasync-policies",
    "@@zcasync-policy?name=default",
    "@@zcasync-my-jobs",
)

#: Others, which show none of the jobs.
OTHER_PAGES = ("@@zcasync-dispatchers", "@@zcasync-tasks", "@@zcasync-settings")


@task(title="Count a sheep", visible=True)
def count_sheep(number: int) -> None:
    """Nothing else."""


class Place:
    """The layer's database, as what fills it wants it."""

    def __init__(self, layer: Any) -> None:
        self._db = layer["zodbDB"]

    @contextmanager
    def connection(self) -> Iterator[Any]:
        connection = self._db.open(transaction.TransactionManager(explicit=True))
        try:
            yield connection
        finally:
            connection.transaction_manager.begin()
            connection.transaction_manager.abort()
            connection.close()


@pytest.fixture
def crowd(portal: Any) -> Callable[[int], Job]:
    """Makes jobs of this site and of another one, in turn."""
    groups, users = (group_of(portal), "another"), [f"/{name}" for name in "abc"]
    get_queues(portal._p_jar).sites["another"] = Site("/another")
    transaction.commit()

    def make(number: int) -> Job:
        job = Job(count_sheep, number)
        job.group, job.user = groups[number % 2], users[number // 2 % 3]
        return job

    return make


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The oids of all records that connections load."""
    found: list[bytes] = []
    setstate = Connection.setstate

    def noted(self: Any, obj: Any) -> None:
        found.append(obj._p_oid)
        setstate(self, obj)

    monkeypatch.setattr(Connection, "setstate", noted)
    return found


def test_pages_cost_the_same_with_three_times_as_many_jobs(
    functional: Any, admin: Visitor, crowd: Any, loaded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, *names in LIMITS:
        for name in names:
            monkeypatch.setattr(module, name, LOOK)
    costs: list[dict[str, tuple[int, int]]] = []
    for number in (SMALL, LARGE - SMALL):
        pages.fill(Place(functional), number, crowd)
        costs.append({page: cost(functional, admin, page, loaded) for page in PAGES})

    small, large = costs
    slower = {page: (small[page], large[page]) for page in PAGES if large[page][0] > FACTOR * small[page][0] + FEW}
    longer = {page: (small[page], large[page]) for page in PAGES if large[page][1] > small[page][1] + LONGER}
    assert slower == longer == {}


def cost(layer: Any, visitor: Visitor, page: str, loaded: list[bytes]) -> tuple[int, int]:
    """Records that are loaded for a page by an empty cache, and its bytes."""
    visitor.open(page)
    assert visitor.status == 200
    layer["zodbDB"].cacheMinimize()
    loaded.clear()
    length = len(visitor.open(page))
    return len(loaded), length


def test_no_page_compiles_a_template_that_it_has_compiled_before(
    functional: Any, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    cook = PageTemplateFile._cook

    def noted(template: Any) -> None:
        compiled.append(template.filename)
        cook(template)

    for page in (*PAGES, *OTHER_PAGES):
        admin.open(page)
        with monkeypatch.context() as patch:
            patch.setattr(PageTemplateFile, "_cook", noted)
            admin.open(page)
        assert admin.status == 200
        assert (page, compiled) == (page, [])


def test_the_frame_of_a_site_with_a_site_setup_of_its_own_is_that_one(portal: Any) -> None:
    class Own(BrowserView):
        macros = "its own"

    request, components = portal.REQUEST, getGlobalSiteManager()
    wanted = (IPloneSiteRoot, IBrowserRequest), Interface, "prefs_main_template"
    components.registerAdapter(Own, *wanted)
    try:
        assert PanelMacros(portal, request).site_setup == "its own"
    finally:
        components.unregisterAdapter(Own, *wanted)
    assert "master" in PanelMacros(portal, request).site_setup.names
