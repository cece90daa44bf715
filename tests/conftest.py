"""What all tests share. No layer is set up here, so that the engine's tests run without Zope."""

from collective.zcasync import places
from layers import layer_of
from pathlib import Path

import gc
import os
import parity
import pytest
import random

#: The checkout that the tests belong to.
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def buildout() -> Path:
    """A folder in which `make buildout` has made bin/instance: this checkout, or where ZCASYNC_BUILDOUT says."""
    folder = Path(os.environ.get("ZCASYNC_BUILDOUT") or REPOSITORY)
    if not (folder / "bin" / "instance").exists():
        pytest.fail(f"There is no bin/instance in {folder}: run `make buildout` first.")
    return folder


@pytest.fixture(autouse=True)
def the_same_chance(request: pytest.FixtureRequest) -> None:
    """A test draws the same numbers at each run, and puts its first hundred jobs into one inbox, whatever tests before
    have drawn and put: what fails by chance fails again when it is run again. The model and the storms vary."""
    random.seed(request.node.nodeid)
    places._thread.__dict__.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell zope.pytestlayer which layer a test needs: it sorts by them, and keeps up what the next test shares."""
    for item in items:
        layer = layer_of(item)
        if layer is not None:
            item.layer = layer


def pytest_collection_finish() -> None:
    """What is there now stays: the full collections, of which each ZEO server makes one as it stops, look past it."""
    gc.collect()
    gc.freeze()


results = parity.Results()
pytest_runtest_logreport = results.pytest_runtest_logreport


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    terminal = session.config.get_terminal_writer()
    for row in parity.read(parity.PAGE):
        for fault in results.faults(row.tests, missing=None):
            terminal.line(f"row {row.number} of {parity.PAGE.name}: {fault}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    # A skipped test says nothing about the code, and nobody reads the list of them in CI.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
