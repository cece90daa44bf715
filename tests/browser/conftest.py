"""A site with people and the demo's form: for requests without a browser, and behind a web server for a real one."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.ploneapp.permissions import VIEW_JOBS
from collective.zcasync.ploneapp.testing import FIXTURE
from collective.zcasync.ploneapp.testing import running_dispatcher
from layers import layer_fixtures
from pathlib import Path
from playwright.sync_api import BrowserContext
from playwright.sync_api import Page
from playwright.sync_api import sync_playwright
from plone.app.testing import FunctionalTesting
from plone.app.testing import PloneSandboxLayer
from plone.app.testing import setRoles
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.app.testing import TEST_USER_ID
from plone.testing import zope
from screens import Screen
from typing import Any
from visitor import PASSWORD
from visitor import Visitor

import collective.zcasync.demo
import os
import pytest
import transaction

#: Debian's browser; set CHROMIUM for another one.
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)

#: Milliseconds that a page or an element may take: ten times of what they need here.
PATIENCE = 20_000

#: People of the site, by name, with their role. Reviewers may view jobs there, and no more.
USERS = {
    "member": "Member",
    "jane": "Member",
    "john": "Member",
    "viewer": "Reviewer",
    "siteadmin": "Site Administrator",
    "manager": "Manager",
}


class PanelsLayer(PloneSandboxLayer):
    """The product, and the demo's form."""

    defaultBases = (FIXTURE,)

    def setUpZope(self, app: Any, configurationContext: Any) -> None:
        self.loadZCML(package=collective.zcasync.demo)


PANELS = PanelsLayer()
PANELS_FUNCTIONAL = FunctionalTesting(bases=(PANELS,), name="zcasync:PanelsFunctional")
PANELS_ACCEPTANCE = FunctionalTesting(bases=(PANELS, zope.WSGI_SERVER_FIXTURE), name="zcasync:PanelsAcceptance")

globals().update(layer_fixtures(((PANELS_FUNCTIONAL, "functional"), (PANELS_ACCEPTANCE, "acceptance"))))


@pytest.fixture
def portal(functional: Any) -> Any:
    """The site with these people; the test itself is a Manager there."""
    portal = functional["portal"]
    setRoles(portal, TEST_USER_ID, ["Manager"])
    for name, role in USERS.items():
        portal.acl_users.userFolderAddUser(name, PASSWORD, ["Member", role], [])
    portal.manage_permission(VIEW_JOBS, ["Manager", "Site Administrator", "Reviewer"])
    transaction.commit()
    return portal


@pytest.fixture
def visit(functional: Any, portal: Any) -> Callable[[str], Visitor]:
    """The browser of one of them, by name; without a name a stranger's."""
    return lambda name: Visitor(functional, name)


@pytest.fixture
def jane(visit: Callable[[str], Visitor]) -> Visitor:
    return visit("jane")


@pytest.fixture
def viewer(visit: Callable[[str], Visitor]) -> Visitor:
    return visit("viewer")


@pytest.fixture
def siteadmin(visit: Callable[[str], Visitor]) -> Visitor:
    return visit("siteadmin")


@pytest.fixture
def admin(functional: Any, portal: Any) -> Visitor:
    """A Manager of the Zope root."""
    return Visitor(functional, SITE_OWNER_NAME, SITE_OWNER_PASSWORD)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Any) -> Iterator[BrowserContext]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def dispatcher(acceptance: Any) -> Iterator[Any]:
    """A dispatcher at work in the site's database."""
    transaction.commit()
    with running_dispatcher(acceptance["zodbDB"]) as dispatcher:
        yield dispatcher


@pytest.fixture
def screen(context: BrowserContext, acceptance: Any, repository: Path) -> Screen:
    """A browser window in which a Manager of the Zope root has logged in."""
    transaction.commit()
    return log_in(context.new_page(), acceptance, repository)


@pytest.fixture
def plain_screen(chromium: Any, acceptance: Any, repository: Path) -> Iterator[Screen]:
    """The same in a browser without JavaScript."""
    transaction.commit()
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, java_script_enabled=False)
    context.set_default_timeout(PATIENCE)
    yield log_in(context.new_page(), acceptance, repository)
    context.close()


def log_in(page: Page, acceptance: Any, repository: Path) -> Screen:
    screen = Screen(page, acceptance["portal"].absolute_url(), repository / "var" / "screenshots")
    screen.log_in()
    return screen
