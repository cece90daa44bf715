"""The pages of queues through the publisher: how they fare, quotas, agents, settings, and the switches for all jobs."""

from collective.zcasync import clock
from collective.zcasync import queueactions
from collective.zcasync.ploneapp.sites import group_of
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import task
from datetime import timedelta
from plone import api
from typing import Any
from visitor import Visitor

import logging
import pytest
import threading
import transaction

holding, go_on = threading.Event(), threading.Event()


@task(title="Hold a <quota>")
def hold() -> None:
    holding.set()
    go_on.wait(20)


@task(title="Do little")
def do_little() -> None:
    """Nothing."""


def only_little(job: Any) -> bool:
    """Jobs that do little."""
    return bool(job.task == do_little.name)


@pytest.fixture
def queue(portal: Any) -> Any:
    """The default queue, which belongs to the root with all that is in it."""
    queue = get_queues(portal._p_jar)[""]
    queue.owner = ""
    queue.owners.clear()
    transaction.commit()
    return queue


def put(task: Any, **options: Any) -> Any:
    job = task.options(**options).put()
    transaction.commit()
    return job


class TestOneQueue:
    def test_it_tells_what_waits_for_how_long_and_what_has_happened(
        self, queue: Any, admin: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = put(do_little)
        monkeypatch.setattr(clock, "utcnow", lambda: job.put_at + timedelta(minutes=5))
        admin.open("@@zcasync-queues")
        assert "5:00 min" in admin.contents and ">Waiting: 1</span>" in admin.contents
        admin.browser.getLink("Default queue").click()
        contents = " ".join(admin.contents.split())
        assert "Waiting <strong>1</strong>" in contents and "5:00 min" in contents
        assert "Last hour" in contents and "Last 24 hours" in contents
        happened = contents.partition('id="zcasync-throughput"')[2].partition("</table>")[0]
        assert 'Put</th> <td class="text-end"><bdi>' in happened and happened.count("<bdi>–</bdi>") == 2

    def test_a_queue_that_is_not_there_is_told(self, admin: Visitor) -> None:
        assert "There is no queue of that name" in admin.open("@@zcasync-queue?name=gone")
        assert "There is no queue of that name" in admin.open("@@zcasync-queue-settings?name=gone")

    def test_a_paused_queue_tells_how_much_still_runs_and_a_quota_who_holds_it(
        self, functional: Any, queue: Any, admin: Visitor
    ) -> None:
        queue.quotas.create("one", 1)
        holding.clear()
        go_on.clear()
        job = put(hold, quotas=("one",))
        with running_dispatcher(functional["zodbDB"]):
            assert holding.wait(20)
            contents = admin.open("@@zcasync-queue?name=")
            assert f"@@zcasync-job?id={job.id}" in contents and "Hold a &lt;quota&gt;" in contents
            assert "Taken: 1 of 1" in " ".join(contents.split())
            assert "All jobs" in contents
            contents = admin.press("pause")
            assert "Paused, still running: 1" in " ".join(contents.split())
            go_on.set()

    def test_the_holder_of_a_quota_from_another_site_is_not_named(
        self, queue: Any, admin: Visitor, siteadmin: Visitor
    ) -> None:
        queue.quotas.create("one", 1)
        job = put(do_little, quotas=("one",))
        job.group = "ff"
        queue.quotas["one"].add(job)
        transaction.commit()
        contents = siteadmin.open("@@zcasync-queue?name=")
        assert "Do little" not in contents and "other jobs: 1" in " ".join(contents.split())
        assert "Do little" in admin.open("@@zcasync-queue?name=")

    def test_what_an_agent_takes_is_told_in_words(self, functional: Any, queue: Any, admin: Visitor) -> None:
        with running_dispatcher(functional["zodbDB"]):
            transaction.begin()
            (da,) = queue.dispatchers.active()
            next(iter(da.values())).filter = only_little
            transaction.commit()
            contents = admin.open("@@zcasync-queue?name=")
            assert "Jobs that pass: Jobs that do little." in contents and "only_little" in contents

    def test_it_shows_which_dispatchers_know_of_the_last_change(
        self, functional: Any, queue: Any, admin: Visitor
    ) -> None:
        with running_dispatcher(functional["zodbDB"]):
            admin.open("@@zcasync-queue?name=")
            assert "Taken over" not in admin.contents and "At its next ping" not in admin.contents
            transaction.begin()
            (da,) = queue.dispatchers.active()
            queue.changed = da.last_ping.value - timedelta(seconds=1)
            transaction.commit()
            assert "Taken over" in admin.open("@@zcasync-queue?name=")
            queue.changed = clock.utcnow() + timedelta(hours=1)
            transaction.commit()
            assert "At its next ping" in admin.open("@@zcasync-queue?name=")


class TestQuotasAndAgents:
    def test_a_quota_is_added_resized_and_removed(self, queue: Any, admin: Visitor) -> None:
        admin.open("@@zcasync-queue?name=")
        admin.browser.getControl(name="quota").value = "mailing"
        admin.browser.getControl(name="size", index=0).value = "2"
        admin.browser.getControl(name="quota_set").click()
        assert "The quota mailing was saved" in admin.contents
        transaction.begin()
        assert queue.quotas["mailing"].size == 2 and queue.changed is not None
        admin.browser.getControl(name="size", index=0).value = "5"
        admin.browser.getControl(name="quota_set", index=0).click()
        transaction.begin()
        assert queue.quotas["mailing"].size == 5
        admin.press("quota_remove")
        assert "mailing" not in queue.quotas

    def test_an_agent_is_added_resized_and_removed(self, queue: Any, admin: Visitor) -> None:
        fields = {"role": "worker", "agent": "mail", "size": "2", "agent_set": "1", "_authenticator": admin.token()}
        assert admin.post("@@zcasync-queue?name=", **fields) == 200
        assert "The agent worker/mail was saved" in admin.contents
        assert admin.post("@@zcasync-queue?name=", **{**fields, "size": "7", "weight": "3"}) == 200
        template = queue.templates["worker"]["mail"]
        assert (template.size, template.weight) == (7, 3)
        del fields["agent_set"]
        assert admin.post("@@zcasync-queue?name=", **fields, agent_remove="1") == 200
        assert "mail" not in queue.templates["worker"]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"quota": "mailing", "size": "0", "quota_set": "1"}, "from 1 to 10000"),
            ({"quota": "mailing", "size": "²", "quota_set": "1"}, "from 1 to 10000"),
            ({"quota": "<b>", "size": "1", "quota_set": "1"}, "&lt;b&gt;"),
            ({"quota": "gone", "quota_remove": "1"}, "no quota"),
            ({"role": "worker", "agent": "gone", "agent_remove": "1"}, "no agent"),
            ({"role": "worker", "agent": "main", "size": "99999999999", "agent_set": "1"}, "from 1 to 64"),
        ],
    )
    def test_a_wrong_value_is_refused_in_words(
        self, queue: Any, admin: Visitor, fields: dict[str, str], said: str
    ) -> None:
        assert admin.post("@@zcasync-queue?name=", **fields, _authenticator=admin.token()) == 200
        assert said in admin.contents
        assert list(queue.quotas) == []


class TestSettings:
    def test_the_numbers_of_a_queue_are_changed_and_told(self, queue: Any, admin: Visitor) -> None:
        admin.open("@@zcasync-queue-settings?name=")
        for name, value in (("default_priority", "3"), ("time_limit", "90"), ("failed_days", "14")):
            admin.browser.getControl(name=f"form.widgets.{name}").value = value
        assert "settings of the queue were changed" in admin.press("form.buttons.save")
        assert (queue.default_priority, queue.time_limit, queue.failed_days) == (3, 90.0, 14.0)
        assert "90 s" in admin.contents
        job = put(do_little)
        assert (job.priority, job.timeout) == (3, 90.0)
        assert put(do_little, priority=-2).priority == -2

    @pytest.mark.parametrize(
        ("name", "value"), [("default_priority", "16"), ("time_limit", "0"), ("retention_jobs", "")]
    )
    def test_a_wrong_number_is_refused(self, queue: Any, admin: Visitor, name: str, value: str) -> None:
        admin.open("@@zcasync-queue-settings?name=")
        admin.browser.getControl(name=f"form.widgets.{name}").value = value
        assert "There were some errors" in admin.press("form.buttons.save")
        assert (queue.default_priority, queue.time_limit, queue.retention_jobs) == (0, None, 100_000)

    def test_of_two_people_who_change_a_queue_the_second_is_told(self, queue: Any, admin: Visitor) -> None:
        admin.open("@@zcasync-queue-settings?name=")
        queueactions.change_queue(queue, retention_jobs=77)
        transaction.commit()
        admin.browser.getControl(name="form.widgets.failed_days").value = "5"
        assert "Somebody else has changed this meanwhile" in admin.press("form.buttons.save")
        assert (queue.retention_jobs, queue.failed_days) == (77, 30)

    def test_a_queue_is_added_belongs_to_the_site_and_is_removed(self, portal: Any, siteadmin: Visitor) -> None:
        siteadmin.open("@@zcasync-queues")
        siteadmin.browser.getLink("Add a queue").click()
        siteadmin.browser.getControl(name="form.widgets.name").value = "mail"
        assert "The queue mail was added" in siteadmin.press("form.buttons.add")
        queues = get_queues(portal._p_jar)
        assert queues["mail"].owner == group_of(portal)
        assert "tick the box" in siteadmin.press("remove")
        siteadmin.browser.getControl(name="sure").value = ["1"]
        assert "The queue mail was removed" in siteadmin.press("remove")
        assert "mail" not in queues

    @pytest.mark.parametrize("name", ["two words", "", "<b>"])
    def test_a_queue_needs_a_name_that_can_be_written(self, portal: Any, admin: Visitor, name: str) -> None:
        admin.open("@@zcasync-queue-add")
        admin.browser.getControl(name="form.widgets.name").value = name
        assert "There were some errors" in admin.press("form.buttons.add")
        assert list(get_queues(portal._p_jar)) == [""]

    def test_a_queue_in_which_jobs_wait_is_not_removed_and_says_why(self, portal: Any, siteadmin: Visitor) -> None:
        siteadmin.open("@@zcasync-queue-add")
        siteadmin.browser.getControl(name="form.widgets.name").value = "mail"
        siteadmin.press("form.buttons.add")
        put(do_little, queue="mail")
        siteadmin.browser.getControl(name="sure").value = ["1"]
        assert "it holds jobs that have not ended" in siteadmin.press("remove")
        assert "It cannot be removed now" in siteadmin.contents and 'name="remove"' not in siteadmin.contents
        assert "mail" in get_queues(portal._p_jar)


class TestSwitches:
    def test_all_jobs_of_the_site_are_paused_and_resumed(
        self, portal: Any, queue: Any, siteadmin: Visitor, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(do_little)
        siteadmin.open("@@zcasync-queues")
        with caplog.at_level(logging.INFO, "collective.zcasync.panel"):
            contents = siteadmin.press("pause_site")
        assert "All jobs of this site are paused" in contents
        assert "siteadmin: pause site" in caplog.text
        assert queue.held_groups == (group_of(portal),)
        assert "go on" in siteadmin.press("resume_site")
        assert queue.held_groups == ()

    def test_a_site_that_a_person_paused_stays_so_when_the_add_on_comes_again(
        self, portal: Any, queue: Any, siteadmin: Visitor
    ) -> None:
        siteadmin.open("@@zcasync-queues")
        siteadmin.press("pause_site")
        with api.env.adopt_roles(["Manager"]):
            api.addon.uninstall("collective.zcasync")
            api.addon.install("collective.zcasync")
        assert queue.held_groups == (group_of(portal),)

    def test_a_manager_of_the_root_pauses_all_queues(self, queue: Any, admin: Visitor) -> None:
        admin.open("@@zcasync-queues")
        assert "All queues are paused" in admin.press("pause_all")
        assert queue.paused
        assert "All queues are at work again" in admin.press("resume_all")
        assert not queue.paused


class TestRights:
    def test_who_may_only_view_or_does_not_own_the_queue_changes_nothing(
        self, portal: Any, queue: Any, viewer: Visitor, siteadmin: Visitor
    ) -> None:
        queue.quotas.create("one", 1)
        transaction.commit()
        for visitor in (viewer, siteadmin):
            contents = visitor.open("@@zcasync-queue?name=")
            assert "only a Manager of the Zope root" in contents
            for name in ("pause", "quota_set", "agent_set", "remove"):
                assert f'name="{name}"' not in contents
            key = visitor.token()
            forms: tuple[dict[str, str], ...] = (
                {"pause": "1"},
                {"quota": "one", "size": "3", "quota_set": "1"},
                {"quota": "two", "size": "3", "quota_set": "1"},
                {"quota": "one", "quota_remove": "1"},
                {"role": "worker", "agent": "x", "size": "1", "agent_set": "1"},
                {"role": "worker", "agent": "main", "agent_remove": "1"},
                {"remove": "1", "sure": "1"},
            )
            for fields in forms:
                assert visitor.post("@@zcasync-queue?name=", **fields, _authenticator=key) == 403, fields
            assert visitor.post("@@zcasync-queues", pause_all="1", _authenticator=key) == 403
        assert viewer.post("@@zcasync-queues", pause_site="1", _authenticator=viewer.token()) == 403
        assert siteadmin.post("@@zcasync-queue-settings?name=") == 403
        transaction.begin()
        assert not queue.paused and queue.quotas["one"].size == 1 and list(queue.quotas) == ["one"]
        assert list(queue.templates["worker"]) == ["main"]

    def test_a_site_changes_what_it_owns_in_a_queue_of_the_root(
        self, portal: Any, queue: Any, siteadmin: Visitor
    ) -> None:
        queue.quotas.create("ours", 1)
        queue.owners["quota:ours"] = group_of(portal)
        transaction.commit()
        fields = {"quota": "ours", "size": "4", "quota_set": "1", "_authenticator": siteadmin.token()}
        assert siteadmin.post("@@zcasync-queue?name=", **fields) == 200
        assert queue.quotas["ours"].size == 4

    def test_neither_a_get_nor_a_post_without_its_token_changes_anything(self, queue: Any, admin: Visitor) -> None:
        admin.open("@@zcasync-queue?name=&pause=1")
        assert admin.post("@@zcasync-queue?name=", pause="1") == 403
        assert admin.post("@@zcasync-queues", pause_all="1") == 403
        assert admin.post("@@zcasync-queue-add", **{"form.buttons.add": "Add", "form.widgets.name": "x"}) == 403
        transaction.begin()
        assert not queue.paused
