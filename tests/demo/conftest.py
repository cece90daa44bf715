"""A site with the demo's ZCML and profile."""

from collective.zcasync.ploneapp.testing import FIXTURE
from layers import layer_fixtures
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import IntegrationTesting
from plone.app.testing import PloneSandboxLayer
from typing import Any

import collective.zcasync.demo


class DemoLayer(PloneSandboxLayer):
    """What `make demo` makes."""

    defaultBases = (FIXTURE,)

    def setUpZope(self, app: Any, configurationContext: Any) -> None:
        self.loadZCML(package=collective.zcasync.demo)

    def setUpPloneSite(self, portal: Any) -> None:
        applyProfile(portal, "collective.zcasync.demo:default")


DEMO = DemoLayer()
DEMO_INTEGRATION = IntegrationTesting(bases=(DEMO,), name="zcasync:DemoIntegration")
DEMO_FUNCTIONAL = FunctionalTesting(bases=(DEMO,), name="zcasync:DemoFunctional")

globals().update(layer_fixtures(((DEMO_INTEGRATION, "integration"), (DEMO_FUNCTIONAL, "functional"))))
