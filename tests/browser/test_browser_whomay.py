"""Who may do what, through the publisher: which roles have the permissions, and who may say so."""

from collective.zcasync.browser.whomay import roles_of
from collective.zcasync.ploneapp.permissions import MANAGE_JOBS
from collective.zcasync.ploneapp.permissions import MANAGE_OWN_JOBS
from collective.zcasync.ploneapp.permissions import VIEW_JOBS
from typing import Any
from visitor import PASSWORD
from visitor import Visitor

import pytest
import transaction

PAGE = "@@zcasync-who-may"


@pytest.fixture
def portal(functional: Any) -> Any:
    portal = functional["portal"]
    for name, roles in (("reviewer", ["Member", "Reviewer"]), ("boss", ["Member", "Site Administrator"])):
        portal.acl_users.userFolderAddUser(name, PASSWORD, roles, [])
    transaction.commit()
    return portal


def test_a_role_is_given_a_permission_and_its_people_see_the_jobs(functional: Any, portal: Any, admin: Visitor) -> None:
    reviewer = Visitor(functional, "reviewer")
    assert not reviewer.is_let_in("@@zcasync-jobs")
    admin.open("@@zcasync-settings")
    admin.browser.getLink("Who may do what").click()
    control = admin.browser.getControl(name="form.widgets.view:list")
    control.value = [*control.value, "Reviewer"]
    assert "The roles were saved" in admin.press("form.buttons.save")
    assert reviewer.is_let_in("@@zcasync-jobs")
    assert sorted(roles_of(portal, VIEW_JOBS)) == ["Manager", "Reviewer", "Site Administrator"]
    assert sorted(roles_of(portal, MANAGE_JOBS)) == ["Manager", "Site Administrator"]


def test_managers_cannot_lock_themselves_out_nor_everybody_be_let_in(portal: Any, admin: Visitor) -> None:
    admin.open(PAGE)
    for name in ("view", "manage", "own"):
        control = admin.browser.getControl(name=f"form.widgets.{name}:list")
        assert not {"Anonymous", "Authenticated", "Manager"} & set(control.options)
        control.value = []
    admin.press("form.buttons.save")
    for permission in (VIEW_JOBS, MANAGE_JOBS, MANAGE_OWN_JOBS):
        assert roles_of(portal, permission) == ["Manager"]
    made_up = {"form.widgets.view:list": "Anonymous", "form.buttons.save": "x", "_authenticator": admin.token()}
    assert admin.post(PAGE, **made_up) == 200
    assert roles_of(portal, VIEW_JOBS) == ["Manager"]


def test_who_may_not_change_permissions_is_refused(functional: Any, portal: Any) -> None:
    portal.manage_permission("Change permissions", ["Manager"])
    transaction.commit()
    boss = Visitor(functional, "boss")
    assert "@@zcasync-who-may" not in boss.open("@@zcasync-settings")
    assert boss.post(PAGE) == 403
    assert boss.post(PAGE, **{"form.buttons.save": "x"}) == 403


def test_a_post_without_its_token_changes_nothing(portal: Any, admin: Visitor) -> None:
    before = roles_of(portal, VIEW_JOBS)
    assert admin.post(PAGE, **{"form.buttons.save": "x"}) == 403
    transaction.begin()
    assert roles_of(portal, VIEW_JOBS) == before
