"""Layers for tests with Plone, also for those of other packages: pick one by where your jobs run.

``INTEGRATION_TESTING``: in the test itself, ``collective.zcasync.testing.run_jobs(portal)``. ``FUNCTIONAL_TESTING`` and
``ACCEPTANCE_TESTING`` (with a web server): in job threads, ``with running_dispatcher(layer["zodbDB"])``, over a
DemoStorage. ``FILESTORAGE_TESTING``: the same on files of the test's own, with blobs.
"""

from collections.abc import Iterator
from collective.zcasync import reactor
from collective.zcasync.testing import get_poll
from contextlib import contextmanager
from OFS.Application import Application
from plone.app.testing import applyProfile
from plone.app.testing import FunctionalTesting
from plone.app.testing import IntegrationTesting
from plone.app.testing import PLONE_FIXTURE
from plone.app.testing import PLONE_SITE_ID
from plone.app.testing import PloneSandboxLayer
from plone.app.testing.layers import PloneTestLifecycle
from plone.testing import Layer
from plone.testing import zodb
from plone.testing import zope
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component.hooks import setSite
from Zope2.App.ClassFactory import ClassFactory

import collective.zcasync
import os
import shutil
import tempfile
import threading
import transaction

PROFILE = "collective.zcasync:default"


class ZCAsyncFixture(PloneSandboxLayer):
    """A Plone site with the product installed. Add your own ZCML and profiles in a layer on top of it."""

    defaultBases = (PLONE_FIXTURE,)

    def setUpZope(self, app: Any, configurationContext: Any) -> None:
        self.loadZCML(package=collective.zcasync)

    def setUpPloneSite(self, portal: Any) -> None:
        applyProfile(portal, PROFILE)


FIXTURE = ZCAsyncFixture()
INTEGRATION_TESTING = IntegrationTesting(bases=(FIXTURE,), name="zcasync:Integration")
FUNCTIONAL_TESTING = FunctionalTesting(bases=(FIXTURE,), name="zcasync:Functional")
ACCEPTANCE_TESTING = FunctionalTesting(bases=(FIXTURE, zope.WSGI_SERVER_FIXTURE), name="zcasync:Acceptance")


class FileStorageFixture(Layer):
    """A Plone site in a real FileStorage with blobs, made once and copied for each test.

    A subclass installs more profiles by ``profiles``; its base layer has to load their ZCML.
    """

    defaultBases = (FIXTURE,)
    profiles: tuple[str, ...] = (PROFILE,)

    def setUp(self) -> None:
        self["zodbTemplate"] = tempfile.mkdtemp(prefix="zcasync-template-")
        self["zodbDB"] = db = open_database(self["zodbTemplate"])
        with transaction.manager:
            connection = db.open()
            connection.root()["Application"] = Application()
        connection.close()
        with zope.zopeApp() as app:
            PLONE_FIXTURE.setUpDefaultContent(app)
            setSite(app[PLONE_SITE_ID])
            for profile in self.profiles:
                applyProfile(app[PLONE_SITE_ID], profile)
            setSite(None)
        db.close()
        del self["zodbDB"]

    def tearDown(self) -> None:
        shutil.rmtree(self["zodbTemplate"])
        del self["zodbTemplate"]


def open_database(directory: str) -> DB:
    """A database in a directory, as Zope opens it."""
    storage = FileStorage(os.path.join(directory, "Data.fs"), blob_dir=os.path.join(directory, "blobstorage"))
    db = DB(storage, pool_size=12)
    db.classFactory = ClassFactory
    return db


class FileStorageTesting(PloneTestLifecycle, zope.FunctionalTesting):
    """Functional tests on files. The directory is the resource ``zodbDir``: a ZEO server can be started on a copy."""

    def testSetUp(self) -> None:
        self["zodbDir"] = directory = tempfile.mkdtemp(prefix="zcasync-files-")
        shutil.copytree(self["zodbTemplate"], directory, dirs_exist_ok=True)
        stack = zodb.stackDemoStorage
        # The base class asks this module's function for the test's own database.
        zodb.stackDemoStorage = lambda db=None, name=None: open_database(directory)
        try:
            super().testSetUp()
        finally:
            zodb.stackDemoStorage = stack

    def testTearDown(self) -> None:
        super().testTearDown()
        shutil.rmtree(self["zodbDir"])
        del self["zodbDir"]


FILESTORAGE_FIXTURE = FileStorageFixture()
FILESTORAGE_TESTING = FileStorageTesting(bases=(FILESTORAGE_FIXTURE,), name="zcasync:FileStorage")


@contextmanager
def running_dispatcher(db: Any, **options: Any) -> Iterator[Any]:
    """A dispatcher that runs jobs of this database in threads; after the block no thread is left.

    ``options``: as for ``collective.zcasync.reactor.start``. The test commits what the jobs shall see, and calls
    ``transaction.begin()`` to see what they did.
    """
    options.setdefault("role", "embedded")
    options.setdefault("threads", 2)
    before = set(threading.enumerate())
    running = reactor.start(db, **options)
    try:
        get_poll(running.dispatcher, 0)
        yield running.dispatcher
    finally:
        running.stop()
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("zcasync-"):
                thread.join(5)  # its connection must be closed before the layer closes the database
