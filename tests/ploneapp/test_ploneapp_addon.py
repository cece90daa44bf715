"""An add-on of somebody else: its tests build on the public layers only, and run as its author runs them."""

from docblocks import blocks
from pathlib import Path

import os
import pytest
import re
import subprocess
import sys

GUIDE = Path("docs") / "how-to-guides" / "test-your-addon.md"

ZCML = """
<configure
    xmlns="http://namespaces.zope.org/zope"
    xmlns:zcasync="http://namespaces.plone.org/zcasync"
    >
  <include
      package="collective.zcasync"
      file="meta.zcml"
      />
  <zcasync:task
      name="my.site.rename"
      handler=".jobs.rename"
      title="Give the site another title"
      />
</configure>
"""

JOBS = """
from plone import api


def rename(title):
    portal = api.portal.get()
    portal.setTitle(title)
    return api.user.get_current().getId()


def fail():
    raise ValueError("it does not work")
"""

#: What the guide leaves to its reader: load the ZCML in setUpZope.
SET_UP = """
    def setUpZope(self, app, configurationContext):
        import my.site

        self.loadZCML(package=my.site)
"""

UNITTEST = """
from collective.zcasync import api
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import JobFailed
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from collective.zcasync.testmixins import JobsMixin
from my.site import jobs
from my.site.testing import FUNCTIONAL
from my.site.testing import INLINE
from my.site.testing import INTEGRATION
from plone.app.testing import TEST_USER_ID

import transaction
import unittest


class TestIntegration(unittest.TestCase):
    layer = INTEGRATION

    def setUp(self):
        self.portal = self.layer["portal"]

    def test_a_job_runs_in_the_test(self):
        job = api.put("my.site.rename", "New title")
        self.assertEqual(put_jobs(self.portal), [job])
        self.assertEqual(run_jobs(self.portal), [job])
        self.assertEqual((job.result, self.portal.title), (TEST_USER_ID, "New title"))

    def test_the_test_before_left_no_job_and_no_title(self):
        self.assertEqual(put_jobs(self.portal), [])
        self.assertEqual(self.portal.title, "Plone site")

    def test_a_failure_is_raised_with_its_traceback(self):
        api.put(jobs.fail)
        with self.assertRaisesRegex(JobFailed, "it does not work"):
            run_jobs(self.portal)


class TestMixin(JobsMixin, unittest.TestCase):
    layer = INTEGRATION

    def test_a_put_is_asserted_by_methods(self):
        job = api.put("my.site.rename", "New title")
        self.assertIs(self.assert_put("my.site.rename", "New title"), job)
        self.assertEqual(self.run_jobs(), [job])


class TestInline(unittest.TestCase):
    layer = INLINE

    def test_a_job_runs_at_the_commit(self):
        job = api.put("my.site.rename", "New title")
        transaction.commit()
        self.assertEqual((job.result, self.layer["portal"].title), (TEST_USER_ID, "New title"))


class TestFunctional(unittest.TestCase):
    layer = FUNCTIONAL

    def test_a_job_runs_in_a_thread(self):
        job = api.put("my.site.rename", "New title")
        transaction.commit()
        with running_dispatcher(self.layer["zodbDB"]):
            self.assertEqual(wait_for_result(job), TEST_USER_ID)
        self.assertEqual(self.layer["portal"].title, "New title")
"""

PYTEST = """
from collective.zcasync import api
from collective.zcasync.ploneapp.testing import running_dispatcher
from collective.zcasync.testing import JobFailed
from collective.zcasync.testing import put_jobs
from collective.zcasync.testing import run_jobs
from collective.zcasync.testing import wait_for_result
from my.site import jobs
from plone.app.testing import TEST_USER_ID

import pytest
import transaction


def test_a_job_runs_in_the_test(portal):
    job = api.put("my.site.rename", "New title")
    assert put_jobs(portal) == [job]
    assert run_jobs(portal) == [job]
    assert (job.result, portal.title) == (TEST_USER_ID, "New title")


def test_the_test_before_left_no_job_and_no_title(portal):
    assert put_jobs(portal) == []
    assert portal.title == "Plone site"


def test_a_failure_is_raised_with_its_traceback(portal):
    api.put(jobs.fail)
    with pytest.raises(JobFailed, match="it does not work"):
        run_jobs(portal)


def test_a_put_is_asserted_by_fixtures(portal, assert_put, run_jobs):
    job = api.put("my.site.rename", "New title")
    assert assert_put("my.site.rename", "New title") is job
    assert run_jobs() == [job]


def test_a_job_runs_at_the_commit(inline):
    job = api.put("my.site.rename", "New title")
    transaction.commit()
    assert (job.result, inline["portal"].title) == (TEST_USER_ID, "New title")


def test_a_job_runs_in_a_thread(functional):
    job = api.put("my.site.rename", "New title")
    transaction.commit()
    with running_dispatcher(functional["zodbDB"]):
        assert wait_for_result(job) == TEST_USER_ID
    assert functional["portal"].title == "New title"
"""


@pytest.fixture
def addon(tmp_path: Path, repository: Path) -> Path:
    """The add-on my.site, whose layers and conftest.py are those of the guide; without tests."""
    texts = [block.text for block in blocks(repository / GUIDE, "python")]
    layers = next(text for text in texts if "defaultBases" in text)
    conftest = next(text for text in texts if "fixtures_factory" in text)
    package = tmp_path / "my" / "site"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "configure.zcml").write_text(ZCML)
    (package / "jobs.py").write_text(JOBS)
    base = "defaultBases = (ZCASYNC_FIXTURE,)\n"
    assert layers.count(base) == 1
    (package / "testing.py").write_text(layers.replace(base, base + SET_UP))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text(conftest)
    return tmp_path


def run(addon: Path, *command: str) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=addon,
        env=os.environ | {"PYTHONPATH": str(addon), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_its_test_cases_pass_under_the_test_runner_of_zope(addon: Path) -> None:
    tests = addon / "my" / "site" / "tests"  # the runner looks for modules of this name
    tests.mkdir()
    (tests / "__init__.py").touch()
    (tests / "test_jobs.py").write_text(UNITTEST)
    told = run(addon, "-m", "zope.testrunner", "--test-path", ".", "-s", "my.site")
    assert re.search(r"Total: 6 tests, 0 failures, 0 errors and 0 skipped", told), told


@pytest.mark.parametrize("style", [UNITTEST, PYTEST], ids=["cases", "functions"])
def test_its_tests_pass_under_pytest(addon: Path, style: str) -> None:
    (addon / "tests" / "test_jobs.py").write_text(style)
    assert "6 passed" in run(addon, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
