"""The forms for one retry policy through the publisher: rules, preview, copy, reset, who uses it, two who change it."""

from collective.zcasync.browser import policies as listing
from collective.zcasync.browser.policyfields import rules_of
from collective.zcasync.browser.policyfields import rules_text
from collective.zcasync.ploneapp.shipped import shipped_policies
from collective.zcasync.queue import get_queues
from collective.zcasync.tasks import task
from plone import api
from typing import Any
from urllib.parse import urlencode
from visitor import Visitor
from zope.interface import Invalid

import pytest
import transaction

PAGE = "@@zcasync-policy?name=default"


@task(name="policies.picky", policy="picky")
def be_picky() -> None:
    """Names a policy."""


@pytest.fixture
def policies(functional: Any) -> Any:
    return get_queues(functional["portal"]._p_jar).policies


def fill(visitor: Visitor, **values: str) -> None:
    for name, value in values.items():
        visitor.browser.getControl(name=f"form.widgets.{name}").value = value


def add(visitor: Visitor, name: str) -> None:
    visitor.open("@@zcasync-policy-add")
    fill(visitor, name=name)
    visitor.press("form.buttons.add")


class TestRules:
    TEXT = "error smtplib.SMTPException attempts=9 first-wait=60\naway longest-wait=30\nconflict attempts=unlimited"

    def test_they_are_read_from_lines_and_written_back(self) -> None:
        rules = rules_of(self.TEXT + "\n\n")
        assert rules[0] == (
            *(("trouble", "error"), ("exception", "smtplib.SMTPException")),
            *(("attempts", 9), ("first_wait", 60.0)),
        )
        assert rules_text(rules) == self.TEXT

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("nonsense", "Line 2"),
            ("error attempts=many", "Line 2"),
            ("error attempts=1.5", "Line 2"),
            ("error size=3", "size=3"),
            ("away smtplib.SMTPException attempts=3", "Line 2"),
            ("error <script> attempts=3", "Line 2"),
        ],
    )
    def test_what_is_no_rule_is_told_with_its_line(self, line: str, said: str) -> None:
        with pytest.raises(Invalid) as caught:
            rules_of(f"away longest-wait=30\n{line}")
        message = caught.value.args[0]
        assert said in f"Line {message.mapping['number']}: {message.mapping['error']}"

    def test_they_are_changed_in_the_form(self, admin: Visitor, policies: Any) -> None:
        admin.open(PAGE)
        assert "error attempts=1" in admin.browser.getControl(name="form.widgets.rules").value
        fill(admin, rules=self.TEXT)
        assert "was changed" in admin.press("form.buttons.save")
        assert rules_text(policies["default"].rules) == self.TEXT
        admin.open(PAGE)
        fill(admin, rules="error size=3")
        assert "Line 1" in admin.press("form.buttons.save")
        assert rules_text(policies["default"].rules) == self.TEXT


class TestPreview:
    def test_it_shows_the_next_ten_attempts_of_the_stored_numbers(self, admin: Visitor) -> None:
        contents = admin.open(PAGE)
        table = contents.partition('id="zcasync-preview"')[2].partition("</table>")[0]
        assert table.count("<tr>") == 11
        assert "100 ms" in table and "150 ms" in table
        assert "More attempts follow" in contents

    def test_what_is_typed_is_previewed_without_a_script_and_not_stored(self, admin: Visitor, policies: Any) -> None:
        admin.open(PAGE)
        fill(admin, attempts="3", first_wait="60", growth="2", longest_wait="3600", jitter="0")
        contents = admin.press("form.buttons.preview")
        table = contents.partition('id="zcasync-preview"')[2]
        assert table.partition("</table>")[0].count("<tr>") == 3
        assert "1:00 min" in table and "2:00 min" in table and "3:00 min" in table
        assert "the job ends as failed" in contents
        assert admin.browser.getControl(name="form.widgets.attempts").value == "3"
        assert policies["default"].attempts == 25

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("attempts=1", "The first failure ends the job"),
            ("first_wait=9&longest_wait=3", "do not go together"),
            ("attempts=many", "do not go together"),
            ("growth=", "do not go together"),
            ("growth=1e999", "do not go together"),
            ("rules=error size", "do not go together"),
            ("rules=error <b>.b first-wait=9", "&lt;b&gt;.b"),
        ],
    )
    def test_the_script_asks_for_a_fragment(self, admin: Visitor, query: str, said: str) -> None:
        numbers = {"attempts": "5", "first_wait": "1", "growth": "2", "longest_wait": "60", "jitter": "0"}
        numbers |= dict(part.split("=", 1) for part in query.split("&"))
        path = urlencode({f"form.widgets.{name}": value for name, value in numbers.items()})
        assert said in admin.open(f"@@zcasync-policy-preview?{path}")

    def test_what_each_rule_does_instead_is_shown_stored_or_typed(self, admin: Visitor) -> None:
        contents = admin.open(PAGE)
        stored = contents.partition('id="zcasync-preview-rules"')[2].partition("</table>")[0]
        assert "error attempts=1" in stored and "The first failure ends the job." in stored
        mails = "error smtplib.SMTPException attempts=4 first-wait=60 growth=2 longest-wait=600"
        fill(admin, rules=f"{mails}\naway first-wait=5 growth=1")
        contents = admin.press("form.buttons.preview")
        typed = contents.partition('id="zcasync-preview-rules"')[2].partition("</table>")[0]
        assert "1:00 min, 3:00 min, 7:00 min" in typed and "7:00 min, …" not in typed
        assert "5.0 s, 10.0 s, 15.0 s" in typed and "50.0 s, …" in typed

    def test_what_is_typed_is_read_as_the_readers_language_writes_it(self, admin: Visitor) -> None:
        numbers = {"attempts": "5", "first_wait": "1,5", "growth": "2", "longest_wait": "60", "jitter": "0"}
        path = "&".join(f"form.widgets.{name}={value}" for name, value in numbers.items())
        api.portal.set_registry_record("plone.available_languages", ["de"])
        api.portal.set_registry_record("plone.default_language", "de")
        transaction.commit()
        contents = admin.open(f"@@zcasync-policy-preview?{path}")
        assert "1.5 s" in contents and "3.0 s" in contents


class TestUse:
    def test_the_list_tells_which_tasks_and_how_many_jobs_use_each(
        self, admin: Visitor, policies: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(admin, "picky")
        be_picky.put()
        be_picky.options(policy="default").put()
        transaction.commit()
        contents = " ".join(admin.open("@@zcasync-policies").split())
        default, picky = contents.partition('id="zcasync-policies"')[2].split('<th scope="row">')[1:]
        assert "Attempts: 25 · First wait: 0.1 s" in default and "Other tasks: " in default
        assert "Jobs that have not ended: 1<" in default
        assert "It is used: Task policies.picky · Jobs that have not ended: 1<" in picky
        monkeypatch.setattr(listing, "LOOK", 1)
        contents = " ".join(admin.open("@@zcasync-policies").split())
        assert "Jobs that have not ended: 1+<" in contents

    def test_a_policy_that_is_used_tells_by_whom_and_is_not_deleted(self, admin: Visitor, policies: Any) -> None:
        add(admin, "picky")
        be_picky.put()
        transaction.commit()
        contents = admin.open("@@zcasync-policy?name=picky")
        assert "Task policies.picky" in contents and "Jobs that have not ended: 1" in contents
        contents = admin.press("form.buttons.delete")
        assert "cannot be deleted while it is used" in contents and "Task policies.picky" in contents
        assert 'name="form.buttons.delete"' not in contents
        key = admin.browser.getControl(name="_authenticator", index=0).value
        fields = {"form.buttons.delete": "x", "_authenticator": key}
        admin.post("@@zcasync-policy-delete?name=picky", **fields)
        assert "picky" in policies


class TestCopyAndReset:
    def test_a_copy_begins_with_what_the_policy_has(self, admin: Visitor, policies: Any) -> None:
        admin.open(PAGE)
        admin.press("form.buttons.copy")
        fill(admin, name="patient", attempts="99")
        assert "The policy patient was added" in admin.press("form.buttons.add")
        assert policies["patient"].attempts == 99
        assert policies["patient"].rules == policies["default"].rules
        assert policies["default"].attempts == 25

    def test_a_shipped_policy_is_reset_and_others_have_no_such_button(self, admin: Visitor, policies: Any) -> None:
        policies["default"].update(rules=(), attempts=3)
        transaction.commit()
        admin.open(PAGE)
        assert "is as it was shipped" in admin.press("form.buttons.reset")
        now = {**policies["default"].numbers(), "rules": policies["default"].rules}
        assert now == shipped_policies()["default"]
        add(admin, "own")
        assert "form.buttons.reset" not in admin.open("@@zcasync-policy?name=own")


def test_of_two_people_who_change_a_policy_the_second_is_told(admin: Visitor, policies: Any) -> None:
    admin.open(PAGE)
    policies["default"].update(attempts=7)
    transaction.commit()
    fill(admin, growth="3")
    assert "Somebody else has changed this meanwhile" in admin.press("form.buttons.save")
    assert (policies["default"].attempts, policies["default"].growth) == (7, 1.5)
