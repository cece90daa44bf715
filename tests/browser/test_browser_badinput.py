"""What no page of ours has sent, and what has changed since it was shown: a clear answer, and nothing broken."""

from visitor import Visitor

import pytest

SCRIPT = "<script>alert(1)</script>"

#: Pages and what each of them is asked for.
ASKED = {
    "@@zcasync-overview": ("all_sites",),
    "@@zcasync-jobs": ("state", "task", "user", "object", "error", "cause", "since", "queue", "b_start", "skip", "oldest"),
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
