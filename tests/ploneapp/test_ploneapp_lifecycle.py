"""Two sites in one database: one is uninstalled, installed again, purged or removed while the other's jobs run."""

from collective.zcasync import api
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.ploneapp import grouped
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.exportimport import Import
from collective.zcasync.ploneapp.profilexml import parse
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queues
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testing import wait_for_start
from collective.zcasync.zopeapp.interfaces import IPurge
from plone import api as plone_api
from plone.app.testing import SITE_OWNER_NAME
from plone.testing import zope
from Products.CMFPlone.factory import addPloneSite
from ZODB.POSException import ConflictError
from zope.component import getUtility
from zope.component.hooks import site as local_site

import logging
import pytest
import threading
import transaction

PROFILE = "profile-collective.zcasync:default"
UNINSTALL = "profile-collective.zcasync:uninstall"

#: What a slow job waits for.
gate = threading.Event()


def where():
    return "/".join(plone_api.portal.get().getPhysicalPath())


def slow():
    gate.wait(20)
    return where()


@pytest.fixture(autouse=True)
def shut_gate():
    gate.clear()
    yield
    gate.set()


@pytest.fixture
def layer(functional):
    """A layer with two sites, and the owner of both logged in."""
    app = functional["app"]
    zope.login(app.acl_users, SITE_OWNER_NAME)
    other = addPloneSite(app, "other", title="Other", extension_ids=("plone.app.contenttypes:default",))
    run_profile(other, PROFILE)
    transaction.commit()
    return functional


def run_profile(site, profile):
    with local_site(site):
        site.portal_setup.runAllImportStepsFromProfile(profile)
    transaction.commit()


def put(site, function):
    with local_site(site):
        return api.put(function)


def queue_of(site):
    return get_queues(site._p_jar)[""]


def test_one_is_uninstalled_while_the_jobs_of_both_run(layer, caplog):
    caplog.set_level(logging.INFO, "collective.zcasync.profile")
    one, two = layer["portal"], layer["app"]["other"]
    with running_dispatcher(layer["zodbDB"], threads=2):
        running = [put(one, slow), put(two, slow)]
        transaction.commit()
        for job in running:
            wait_for_start(job)
        waiting = [put(one, where), put(two, where)]
        transaction.commit()
        run_profile(one, UNINSTALL)
        gate.set()
        assert [wait_for_result(job) for job in running] == ["/plone", "/other"]
        assert wait_for_result(waiting[1]) == "/other"
        assert waiting[0].active_start is None
        assert "/plone: 1 waiting jobs are held until the product is installed again, 1 running jobs" in caplog.text
        run_profile(one, PROFILE)
        assert wait_for_result(waiting[0]) == "/plone"
    assert "/plone: 1 jobs that waited since the uninstall go on" in caplog.text


def test_uninstalling_deletes_no_queue_and_no_job(layer):
    one = layer["portal"]
    job = put(one, where)
    run_profile(one, UNINSTALL)
    queues = get_queues(one._p_jar)
    assert list(queues) == [""]
    assert "default" in queues.policies
    assert run_jobs(one) == []
    assert list(queues[""]) == [job]


def test_the_jobs_of_an_uninstalled_site_wait_also_in_a_queue_that_another_site_makes(layer):
    one, two = layer["portal"], layer["app"]["other"]
    run_profile(one, UNINSTALL)
    Import(two._p_jar, sites.group_of(two)).apply(parse('<zcasync><queue name="new"/></zcasync>'))
    with local_site(one):
        held = api.options(queue="new").put(where)
    with local_site(two):
        free = api.options(queue="new").put(where)
    assert run_jobs(one) == [free]
    run_profile(one, PROFILE)
    assert run_jobs(one) == [held]


def test_purging_a_site_deletes_its_jobs_and_spares_those_of_others(layer):
    one, two = layer["portal"], layer["app"]["other"]
    done = put(one, where)
    run_jobs(one)
    later = put(one, where)
    others = put(two, where)
    run_profile(one, UNINSTALL)
    transaction.commit()
    purged = getUtility(IPurge)(layer["app"], "/plone")
    transaction.commit()
    assert dict(purged) == {"waiting": 1, "succeeded": 1}
    assert str(purged) == "/plone: 1 waiting, 1 succeeded deleted"
    queue = queue_of(one)
    assert list(queue) == [others]
    assert list(queue.finished()) == []
    assert queue.counts()["succeeded"] == 0
    assert sites.group_of(one) not in get_queues(one._p_jar).sites
    assert done.group == later.group


def test_a_purge_that_is_broken_off_goes_on_where_it_had_come_to(layer, monkeypatch):
    one = layer["portal"]
    for _number in range(3):
        put(one, where)
    transaction.commit()
    with monkeypatch.context() as broken, pytest.raises(ConflictError):
        broken.setattr(grouped, "purge", conflict)
        getUtility(IPurge)(layer["app"], "/plone")
    transaction.abort()
    assert list(queue_of(one)) == []
    assert str(getUtility(IPurge)(layer["app"], "/plone")) == "/plone: nothing deleted"


def conflict(queues, group):
    raise ConflictError


def test_purging_deletes_what_the_site_owns_and_nobody_uses(layer):
    one = layer["portal"]
    source = '<zcasync><policy name="mine"/><queue name="mine"><quota name="few"/></queue></zcasync>'
    Import(one._p_jar, sites.group_of(one)).apply(parse(source))
    transaction.commit()
    purged = getUtility(IPurge)(layer["app"], "/plone")
    assert dict(purged) == {"retry policies": 1, "quotas": 1, "queues": 1}
    queues = get_queues(one._p_jar)
    assert (list(queues), list(queues.policies)) == ([""], ["default"])


def test_purging_an_unknown_site_names_those_that_are_known(layer):
    with pytest.raises(ConfigurationError, match="Name one of these: /other, /plone"):
        getUtility(IPurge)(layer["app"], "/nowhere")


def test_a_removed_site_can_be_purged_by_its_old_path(layer):
    put(layer["portal"], where)
    transaction.commit()
    layer["app"].manage_delObjects(["other"])
    put(layer["portal"], where)
    layer["app"].manage_delObjects(["plone"])
    transaction.commit()
    assert run_jobs(layer["app"]) == []
    transaction.commit()
    purged = getUtility(IPurge)(layer["app"], "/plone")
    assert purged["cancelled"] == 2


def test_removing_one_site_leaves_the_jobs_of_the_other(layer, caplog):
    caplog.set_level(logging.INFO, "collective.zcasync.profile")
    one, two = layer["portal"], layer["app"]["other"]
    with running_dispatcher(layer["zodbDB"], threads=1):
        busy = put(one, slow)
        transaction.commit()
        wait_for_start(busy)
        gone, stays = put(two, where), put(one, where)
        transaction.commit()
        layer["app"].manage_delObjects(["other"])
        transaction.commit()
        gate.set()
        assert wait_for_result(stays) == "/plone"
        wait_for_result(gone)
    assert gone.outcome == "cancelled"
    assert "/other was removed: 1 waiting jobs cancelled" in caplog.text
