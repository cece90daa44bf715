"""The Plone layers, each as a fixture that has the layer's resources: layer["portal"]."""

from collective.zcasync.ploneapp.testing import ACCEPTANCE_TESTING
from collective.zcasync.ploneapp.testing import DISPATCHER_TESTING
from collective.zcasync.ploneapp.testing import FILESTORAGE_TESTING
from collective.zcasync.ploneapp.testing import FUNCTIONAL_TESTING
from collective.zcasync.ploneapp.testing import INLINE_TESTING
from collective.zcasync.ploneapp.testing import INTEGRATION_TESTING
from collective.zcasync.ploneapp.testing import ZEO_TESTING
from layers import layer_fixtures

import pytest

globals().update(
    layer_fixtures(
        (
            (INTEGRATION_TESTING, "integration"),
            (FUNCTIONAL_TESTING, "functional"),
            (ACCEPTANCE_TESTING, "acceptance"),
            (FILESTORAGE_TESTING, "filestorage"),
            (INLINE_TESTING, "inline"),
            (DISPATCHER_TESTING, "dispatcher"),
            (ZEO_TESTING, "zeo"),
        ),
    )
)


@pytest.fixture(scope="session")
def package_name() -> str:
    return "collective.zcasync"
