"""What no page of ours has sent, and what has changed since it was shown: a clear answer, and nothing broken."""

from collective.zcasync import actions
from collective.zcasync import joblog
from collective.zcasync.agent import Agent
from collective.zcasync.browser.myjobs import MyJobs
from collective.zcasync.job import Job
from collective.zcasync.ownjobs import LOOK
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import task
from collective.zcasync.testing import run_jobs
from typing import Any
from urllib.parse import quote
from visitor import Visitor

import logging
import pytest
import transaction

SCRIPT = "<script>alert(1)</script>"

#: Pages and what each of them is asked for.
ASKED = {
    "@@zcasync-overview": ("all_sites",),
    "@@zcasync-jobs": (
        "state",
        "task",
        "user",
        "object",
        "error",
        "cause",
        "since",
        "queue",
        "b_start",
        "skip",
        "oldest",
    ),
    "@@zcasync-job": ("id", "all_sites"),
    "@@zcasync-job-retry": ("id",),
    "@@zcasync-queue": ("name",),
    "@@zcasync-queue-settings": ("name",),
    "@@zcasync-policy": ("name",),
    "@@zcasync-policy-add": ("copy",),
    "@@zcasync-policy-delete": ("name",),
    "@@zcasync-policy-preview": ("form.widgets.rules", "form.widgets.attempts", "form.widgets.jitter"),
    "@@zcasync-task": ("name",),
    "@@zcasync-my-jobs": ("skip",),
    "@@zcasync-my-result": ("id",),
    "@@zcasync-my-news": ("skip",),
}

#: What is sent instead, as it stands in an address.
ODD = {
    "odd characters": "{}=%3Cscript%3Ealert(1)%3C/script%3E%00%ed%a0%80%ff%D9%A3",
    "much": "{}=" + "9" * 9000,
    "a list": "{0}:list=1&{0}:list=%3Cscript%3Ealert(1)%3C/script%3E",
    "a record": "{}.x:record=7",
    "nothing": "{}=",
}

#: What is sent to each page that changes something.
SENT = {
    "@@zcasync-dispatchers": ({"uuid": "", "pause": "1"}, {"release": "1", "sure": "1"}),
    "@@zcasync-jobs-change": (
        {"state": "waiting", "verb": "cancel", "ids": "", "sure": "1"},
        {"state": "waiting", "verb": "schedule", "ids": "1", "sure": "1", "value": ""},
        {"state": "waiting", "verb": "priority", "everything": "1", "sure": "1", "value": ""},
        {"state": "failed", "verb": "retry", "job": "", "ids": "1"},
    ),
    "@@zcasync-job": ({"id": "", "cancel": "1"}, {"id": "", "ask": "1"}),
    "@@zcasync-queues": ({"queue": "", "resume": "1"},),
    "@@zcasync-queue": (
        {"name": "", "quota_set": "1", "quota": "", "size": ""},
        {"name": "", "quota_remove": "1", "quota": ""},
        {"name": "", "agent_set": "1", "role": "", "agent": "", "size": ""},
        {"name": "", "agent_remove": "1", "role": "", "agent": ""},
    ),
    "@@zcasync-my-jobs": ({"cancel": ""}, {"dismiss": ""}, {"dismiss_all": ""}, {"mail": ""}),
}


@task(title="Copy out a book", visible=True)
def copy_out(text: Any) -> Any:
    if isinstance(text, str) and text.startswith("fail"):
        raise ValueError(text)
    return text


def put(text: Any = "once", **attributes: Any) -> Any:
    job = copy_out.put(text)
    for name, value in attributes.items():
        setattr(job, name, value)
    transaction.commit()
    return job


def run(portal: Any) -> None:
    run_jobs(portal, raises=False)
    transaction.commit()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_page_breaks_or_runs_a_script_whatever_its_address_says(admin: Visitor, odd: str) -> None:
    for page, names in ASKED.items():
        contents = str(admin.open(f"{page}?{'&'.join(odd.format(name) for name in names)}"))
        assert admin.status in (200, 404), (page, contents)
        assert SCRIPT not in contents, page


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_form_that_was_made_up_is_answered_and_runs_no_script(admin: Visitor, odd: str) -> None:
    token = admin.token()
    for page, forms in SENT.items():
        for form in forms:
            fields = [f"{name}={value}" if value else odd.format(name) for name, value in form.items()]
            admin.browser.post(f"{admin.site}/{page}", "&".join([*fields, f"_authenticator={token}"]))
            contents = str(admin.contents)
            assert admin.status in (200, 404), (page, form, contents)
            assert SCRIPT not in contents, (page, form)


def test_what_jobs_say_is_shown_as_text_on_every_page(portal: Any, admin: Visitor, siteadmin: Visitor) -> None:
    lines = joblog.Lines()
    lines.note(logging.LogRecord(SCRIPT, logging.ERROR, "", 0, SCRIPT, None, None))
    job = put(f"fail {SCRIPT}", _title=SCRIPT, where=f"/plone/{SCRIPT}", user=f"/plone/acl_users:{SCRIPT}")
    job.addCallback(Job(str))._title = SCRIPT
    run(portal)
    joblog.keep(job, [lines])
    job.remember("error", SCRIPT, job.put_at)
    done = put({SCRIPT: [SCRIPT]}, _title=SCRIPT, user="/plone/acl_users:siteadmin")
    run(portal)
    waiting = put(SCRIPT, _title=SCRIPT)
    aside = put(SCRIPT, _title=SCRIPT)
    queue = get_queues(portal._p_jar)[""]
    queue.take_out(aside)
    queue.quarantine[1] = (SCRIPT, aside)
    queue.adjust("quarantined", 1)
    queue.dispatchers.register("apple")
    da = queue.dispatchers["apple"]
    da.process = {"role": SCRIPT, "host": SCRIPT, "pid": SCRIPT, "version": SCRIPT}
    da["main"] = Agent()
    da.activate()
    da.ping(job.put_at, error=(job.put_at, SCRIPT))
    transaction.commit()
    assert (job.outcome, done.outcome) == ("failed", "succeeded")

    pages = {
        **{f"@@zcasync-jobs?state={state}": SCRIPT for state in ("failed", "finished", "waiting", "quarantined")},
        **{f"@@zcasync-job?id={one.id}": SCRIPT for one in (job, done, waiting, aside, *job.all_callbacks())},
        f"@@zcasync-jobs?state=failed&error={quote(SCRIPT)}&user={quote(SCRIPT)}": SCRIPT,
        f"@@zcasync-job-retry?id={job.id}": SCRIPT,
        "@@zcasync-dispatchers": SCRIPT,
        "@@zcasync-queue?name=": SCRIPT,
        "@@zcasync-queues": "",
        "@@zcasync-overview": "",
        "../@@zcasync-jobs?state=failed": SCRIPT,
        f"../@@zcasync-job?id={job.id}": SCRIPT,
        "../@@zcasync-dispatchers": SCRIPT,
    }
    for visitor, page, said in (*((admin, *one) for one in pages.items()), (siteadmin, "@@zcasync-my-jobs", SCRIPT)):
        contents = visitor.open(page)
        assert visitor.status == 200, page
        assert SCRIPT not in contents, page
        assert said.replace("<", "&lt;").replace(">", "&gt;") in contents, page


class TestHuge:
    def test_arguments_and_results_are_cut_on_the_page(self, portal: Any, admin: Visitor) -> None:
        job = put(["x" * 1000] * 1000)
        run(portal)
        assert len(admin.open(f"@@zcasync-job?id={job.id}")) < 100_000
        assert len(admin.open("@@zcasync-jobs?state=finished")) < 100_000

    def test_what_is_too_long_for_a_form_is_not_put_into_one(self, portal: Any, admin: Visitor) -> None:
        job = put(f"fail {'x' * 200_000}")
        run(portal)
        contents = admin.open(f"@@zcasync-job-retry?id={job.id}")
        assert "too long for a form" in contents and len(contents) < 100_000

    def test_ten_thousand_jobs_at_once_are_not_dismissed_one_by_one_for_ever(
        self, admin: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr(MyJobs, "own_job", lambda view, id: asked.append(id))
        shown = " ".join(map(str, range(10_000)))
        assert admin.post("@@zcasync-my-jobs", dismiss_all="1", shown=shown, _authenticator=admin.token()) == 200
        assert len(asked) == LOOK

    def test_a_form_with_too_much_puts_nothing(self, portal: Any, admin: Visitor) -> None:
        fields = {"form.widgets.text": '"' + "x" * 3_000_000 + '"', "form.buttons.start": "1"}
        status = admin.post(f"@@zcasync-task?name={copy_out.name}", _authenticator=admin.token(), **fields)
        assert 400 <= status < 500
        assert list(get_queues(portal._p_jar)[""]) == []


class TestGone:
    """What was there when the page was shown."""

    @pytest.mark.parametrize(
        ("page", "button", "said"),
        [
            ("@@zcasync-job", "retry", "There is no such job"),
            ("@@zcasync-job-retry", "form.buttons.start", "cannot be retried"),
        ],
    )
    def test_a_job_that_was_deleted_is_told(
        self, portal: Any, admin: Visitor, page: str, button: str, said: str
    ) -> None:
        job = put("fail")
        run(portal)
        admin.open(f"{page}?id={job.id}")
        actions.delete(job)
        transaction.commit()
        assert said in admin.press(button)
        assert list(get_queues(portal._p_jar)[""]) == []

    def test_a_policy_that_was_deleted_while_somebody_changed_it_is_told(self, portal: Any, admin: Visitor) -> None:
        policies = get_queues(portal._p_jar).policies
        admin.open("@@zcasync-policy?name=default")
        del policies["default"]
        transaction.commit()
        assert "may have been deleted" in admin.press("form.buttons.save")
        assert "default" not in policies
