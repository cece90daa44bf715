"""Layers for tests with Plone, also for those of other packages: pick one by where your jobs run.

``INTEGRATION_TESTING``: in the test itself, ``collective.zcasync.testing.run_jobs(portal)``. ``INLINE_TESTING``: at the
end of each request and at each commit, in the thread that commits. ``FUNCTIONAL_TESTING`` and ``ACCEPTANCE_TESTING``
(with a web server): in job threads, ``with running_dispatcher(layer["zodbDB"])``, over a DemoStorage.
``FILESTORAGE_TESTING``: the same on files of the test's own, with blobs. ``DISPATCHER_TESTING``: on such files, with a
dispatcher that works during each test. ``ZEO_TESTING``: on a ZEO server over such files, with two of them.

For layers of your own use the classes of these, with your fixture as base.
"""

from collections.abc import Iterator
from collective.zcasync import reactor
from collective.zcasync.testing import get_poll
from collective.zcasync.testing import inline_jobs
from contextlib import contextmanager
from contextlib import ExitStack
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
from zope.component.hooks import getSite
from zope.component.hooks import setSite
from zope.globalrequest import getRequest
from zope.globalrequest import setRequest
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


@contextmanager
def bare_thread() -> Iterator[None]:
    """Put the request and the site of this thread aside, so that a job finds it as a job thread is."""
    request, site = getRequest(), getSite()
    setRequest(None)
    setSite(None)
    try:
        yield
    finally:
        setRequest(request)
        setSite(site)


class InlineTesting(FunctionalTesting):
    """Functional tests whose jobs run at the end of each request and at each commit, in the thread that commits."""

    def testSetUp(self) -> None:
        super().testSetUp()
        self._stack = ExitStack()
        self._stack.enter_context(inline_jobs(self["zodbDB"], bare_thread))

    def testTearDown(self) -> None:
        self._stack.close()
        super().testTearDown()


FIXTURE = ZCAsyncFixture()
INTEGRATION_TESTING = IntegrationTesting(bases=(FIXTURE,), name="zcasync:Integration")
FUNCTIONAL_TESTING = FunctionalTesting(bases=(FIXTURE,), name="zcasync:Functional")
INLINE_TESTING = InlineTesting(bases=(FIXTURE,), name="zcasync:Inline")
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
    return as_in_zope(DB(storage, pool_size=12))


def as_in_zope(db: DB) -> DB:
    """A database whose objects are made as Zope makes them."""
    db.classFactory = ClassFactory
    return db


class FileStorageTesting(PloneTestLifecycle, zope.FunctionalTesting):
    """Functional tests on files. The directory is the resource ``zodbDir``: a ZEO server can be started on a copy."""

    def openDatabase(self, directory: str) -> DB:
        """The test's own database on these files; for subclasses."""
        return open_database(directory)

    def testSetUp(self) -> None:
        self["zodbDir"] = directory = tempfile.mkdtemp(prefix="zcasync-files-")
        shutil.copytree(self["zodbTemplate"], directory, dirs_exist_ok=True)
        stack = zodb.stackDemoStorage
        # The base class asks this module's function for the test's own database.
        zodb.stackDemoStorage = lambda db=None, name=None: self.openDatabase(directory)
        try:
            super().testSetUp()
        finally:
            zodb.stackDemoStorage = stack

    def testTearDown(self) -> None:
        super().testTearDown()
        shutil.rmtree(self["zodbDir"])
        del self["zodbDir"]


class DispatcherTesting(FileStorageTesting):
    """Functional tests on files, with a dispatcher in threads, which is the resource ``dispatchers``: a list."""

    def databases(self) -> list[DB]:
        """The database of each dispatcher; for subclasses."""
        return [self["zodbDB"]]

    def testSetUp(self) -> None:
        super().testSetUp()
        self._stack = ExitStack()
        self["dispatchers"] = [self._stack.enter_context(running_dispatcher(db)) for db in self.databases()]

    def testTearDown(self) -> None:
        self._stack.close()
        del self["dispatchers"]
        super().testTearDown()


class ZEOTesting(DispatcherTesting):
    """Functional tests over ZEO, with two dispatchers: each is a client of its own, as two processes are.

    They work in threads of this process, so that what your layer registers holds for them too.
    """

    def openDatabase(self, directory: str) -> DB:
        import ZEO  # from the extra "zeo": who uses other layers does without

        path, blobs = os.path.join(directory, "Data.fs"), os.path.join(directory, "blobstorage")
        self._address, self._stop = ZEO.server(path, blob_dir=blobs)
        return self._client(server_sync=True)  # so that a test sees what the others have committed

    def databases(self) -> list[DB]:
        self._clients = [self._client(), self._client()]
        return self._clients

    def _client(self, **options: Any) -> DB:
        import ZEO

        blobs = os.path.join(self["zodbDir"], "blobstorage")
        storage = ZEO.client(self._address, blob_dir=blobs, shared_blob_dir=True, wait_timeout=30, **options)
        return as_in_zope(DB(storage, pool_size=12))

    def testTearDown(self) -> None:
        super().testTearDown()
        for db in self._clients:
            db.close()
        self._stop()


FILESTORAGE_FIXTURE = FileStorageFixture()
FILESTORAGE_TESTING = FileStorageTesting(bases=(FILESTORAGE_FIXTURE,), name="zcasync:FileStorage")
DISPATCHER_TESTING = DispatcherTesting(bases=(FILESTORAGE_FIXTURE,), name="zcasync:Dispatcher")
ZEO_TESTING = ZEOTesting(bases=(FILESTORAGE_FIXTURE,), name="zcasync:ZEO")


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
