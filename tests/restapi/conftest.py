"""A site with the product and plone.restapi, people in several roles, and a client for each of them."""

from collective.zcasync.ploneapp.permissions import VIEW_JOBS
from collective.zcasync.ploneapp.testing import FIXTURE
from collective.zcasync.queue import get_queues
from layers import layer_fixtures
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import PloneSandboxLayer
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD
from plone.testing import zope
from restclient import RestClient
from typing import Any

import pytest
import restjobs
import transaction

PASSWORD = "only for tests"

#: People of the site: id and roles there. Reviewers may view jobs, and no more.
#: The Manager of the Zope root is made by Plone's own layer.
PEOPLE = {
    "member": ["Member"],
    "another": ["Member"],
    "editor": ["Editor", "Member"],
    "viewer": ["Member", "Reviewer"],
    "admin": ["Member", "Site Administrator"],
    "manager": ["Manager", "Member"],
}


class RestLayer(PloneSandboxLayer):
    """The product, and plone.restapi as a site has it."""

    defaultBases = (FIXTURE,)

    def setUpZope(self, app: Any, configurationContext: Any) -> None:
        zope.installProduct(app, "plone.restapi")

    def setUpPloneSite(self, portal: Any) -> None:
        applyProfile(portal, "plone.restapi:default")
        for name, roles in PEOPLE.items():
            portal.acl_users.userFolderAddUser(name, PASSWORD, roles, [])
        portal.manage_permission(VIEW_JOBS, ["Manager", "Site Administrator", "Reviewer"])


REST = RestLayer()
REST_FUNCTIONAL = FunctionalTesting(bases=(REST,), name="zcasync:RestFunctional")

globals().update(layer_fixtures(((REST_FUNCTIONAL, "functional"),)))


@pytest.fixture(autouse=True)
def known_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    restjobs.register(monkeypatch)


@pytest.fixture
def portal(functional: Any) -> Any:
    return functional["portal"]


@pytest.fixture
def queues(portal: Any) -> Any:
    transaction.commit()
    return get_queues(portal._p_jar)


@pytest.fixture
def client(functional: Any, portal: Any) -> Any:
    """The client of somebody: an id of PEOPLE, ``root`` (a Manager of the Zope root) or None (nobody)."""

    def make(name: str | None) -> RestClient:
        login, password = (SITE_OWNER_NAME, SITE_OWNER_PASSWORD) if name == "root" else (name, PASSWORD)
        return RestClient(functional["app"], portal.absolute_url(), login, password)

    return make


@pytest.fixture
def admin(client: Any) -> RestClient:
    """The client of a Site Administrator."""
    return client("admin")


@pytest.fixture
def root(client: Any) -> RestClient:
    """The client of a Manager of the Zope root."""
    return client("root")
