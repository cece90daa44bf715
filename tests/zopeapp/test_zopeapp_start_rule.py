"""The start rule with real processes: one for each way in which people start Zope."""

from collections.abc import Iterator
from collective.zcasync.queue import get_queues
from collective.zcasync.zopeapp.rule import VETO
from contextlib import contextmanager
from pathlib import Path
from serverprocess import ServerProcess
from typing import Any
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zopeinstance import Instance

import pytest
import signal

STARTED = r"Dispatcher \S+ started \(role embedded, 1 job thread, queues: all\): "
NOT_STARTED = r"Dispatcher not started: "

#: Loads Zope as scripts do, one after the other way.
CONFIGURE_WSGI = """\
import logging, sys
logging.basicConfig(level=logging.INFO)
from Zope2.Startup.run import configure_wsgi
configure_wsgi(sys.argv[1])
import Zope2
Zope2.startup_wsgi()
from collective.zcasync import zopeapp
print("running:", zopeapp.running())
"""
MAKE_WSGI_APP = """\
import logging, sys
logging.basicConfig(level=logging.INFO)
from Zope2.Startup.run import make_wsgi_app
make_wsgi_app({}, sys.argv[1])
from collective.zcasync import zopeapp
print("running:", zopeapp.running())
"""


@pytest.fixture
def gunicorn_conf(instance: Instance) -> Path:
    """A configuration with the hook that the log line of a preloading master asks for."""
    path = instance.folder / "etc" / "gunicorn.py"
    path.write_text(
        "def post_fork(server, worker):\n    from collective.zcasync import zopeapp\n\n    zopeapp.start()\n"
    )
    return path


@contextmanager
def database(instance: Instance) -> Iterator[Any]:
    """A connection to the database of an instance that nobody serves."""
    db = DB(FileStorage(str(instance.folder / "var" / "Data.fs"), read_only=True))
    connection = db.open()
    yield connection
    connection.close()
    db.close()


def gunicorn(instance: Instance, *options: str | Path) -> ServerProcess:
    return instance.start("gunicorn", "--paste", instance.zope_ini, "--bind", "127.0.0.1:0", "--workers=1", *options)


def test_runwsgi_starts_the_dispatcher(instance: Instance) -> None:
    server = instance.runwsgi()
    server.wait_for(STARTED + "dispatcher is on in zope.conf, and this is a server")
    server.wait_for("Serving on")
    assert server.stop() == 0


def test_an_instance_that_loads_the_whole_package_and_plone_starts_it_too(instance: Instance) -> None:
    instance.load_everything()
    server = instance.runwsgi()
    server.wait_for(STARTED)
    server.wait_for("Serving on")
    assert server.stop() == 0


def test_runwsgi_with_the_default_settings_does_not_and_says_how(instance: Instance) -> None:
    instance.write_zope_conf()
    server = instance.runwsgi()
    server.wait_for(NOT_STARTED + "zope.conf has no <product-config collective.zcasync>; .* say 'dispatcher on'")


def test_the_environment_vetoes_the_dispatcher_of_runwsgi(instance: Instance) -> None:
    server = instance.runwsgi(environ={VETO: "off"})
    server.wait_for(NOT_STARTED + f"the environment variable {VETO} is off; unset it")


def test_the_filter_and_zope_together_start_one_dispatcher(instance: Instance) -> None:
    instance.write_zope_ini(filters="dispatcher")
    server = instance.runwsgi()
    server.wait_for("Serving on")
    assert server.stop() == 0
    assert len([line for line in server.lines if "started (role" in line]) == 1


def test_gunicorn_starts_it_in_its_worker_and_stops_it(instance: Instance) -> None:
    server = gunicorn(instance)
    server.wait_for(STARTED + "dispatcher is on in zope.conf, and this is a server")
    assert server.stop() == 0
    assert "Dispatcher stopped" in server.output


def test_gunicorn_with_preload_does_not_start_it_in_its_master(instance: Instance) -> None:
    server = gunicorn(instance, "--preload")
    server.wait_for(NOT_STARTED + "this is gunicorn's master, .* in the hook post_fork")
    server.wait_for("Booting worker")
    assert server.stop() == 0
    assert "Dispatcher stopped" not in server.output


def test_gunicorn_with_preload_and_the_hook_starts_it_in_its_worker(instance: Instance, gunicorn_conf: Path) -> None:
    server = gunicorn(instance, "--preload", "--config", gunicorn_conf)
    server.wait_for(STARTED + r"zopeapp.start\(\) was called")
    assert server.stop() == 0
    assert len([line for line in server.lines if "started (role" in line]) == 1
    assert "Dispatcher stopped" in server.output


def test_runwsgi_with_the_server_of_gunicorn_does_not_start_it_before_the_fork(instance: Instance) -> None:
    instance.write_zope_ini(server="use = egg:gunicorn#main")
    server = instance.runwsgi()
    server.wait_for(NOT_STARTED + "this is gunicorn's master")
    server.wait_for("Booting worker")


def test_zconsole_run_does_not_start_it(instance: Instance) -> None:
    script = instance.script("from collective.zcasync import zopeapp\nprint('running:', zopeapp.running())\n")
    console = instance.start("zconsole", "run", instance.zope_conf, script)
    assert console.wait() == 0
    assert "running: None" in console.lines


def test_zconsole_debug_does_not_start_it(instance: Instance) -> None:
    question = "from collective.zcasync import zopeapp; print('running:', zopeapp.running(), 'in', app)\n"
    console = instance.start("zconsole", "debug", instance.zope_conf, stdin=question)
    assert console.wait() == 0
    assert "running: None in <Application" in console.output


def test_an_exporter_does_not_start_it(instance: Instance) -> None:
    (instance.folder / "export").mkdir()
    exporter = instance.start("plone-exporter", instance.zope_conf, "nowhere", instance.folder / "export")
    exporter.wait()
    assert "nowhere" in exporter.output  # it looked for the site, so Zope had started
    with database(instance) as connection:
        assert get_queues(connection) is None


@pytest.mark.parametrize("text", [CONFIGURE_WSGI, MAKE_WSGI_APP], ids=["configure_wsgi", "make_wsgi_app"])
def test_a_script_does_not_start_it(instance: Instance, text: str) -> None:
    script = instance.start("python", instance.script(text), instance.zope_conf)
    assert script.wait() == 0
    assert "running: None" in script.lines


def test_a_script_that_builds_the_application_is_told_why(instance: Instance) -> None:
    script = instance.start("python", instance.script(MAKE_WSGI_APP), instance.zope_conf)
    script.wait_for(NOT_STARTED + "this process is not known to be a server")


def test_a_server_of_ones_own_starts_it_by_a_call(instance: Instance) -> None:
    text = MAKE_WSGI_APP.replace("zopeapp.running()", "zopeapp.start().dispatcher.UUID")
    script = instance.start("python", instance.script(text), instance.zope_conf)
    script.wait_for(STARTED + r"zopeapp.start\(\) was called")
    assert script.wait() == 0
    assert "Dispatcher stopped" in script.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("threads 65", "threads: '65' is not allowed; allowed is a whole number from 1 to 64"),
        ("threds 3", "unknown key 'threds' .did you mean 'threads'"),
        ("db-name jobs", "db-name: zope.conf has no database 'jobs'; it has main"),
    ],
)
def test_a_wrong_setting_keeps_the_server_from_starting(instance: Instance, line: str, message: str) -> None:
    instance.write_zope_conf("<product-config collective.zcasync>", "  dispatcher on", f"  {line}", "</product-config>")
    server = instance.runwsgi()
    server.wait_for(message)
    assert server.wait() == 1
    assert "Serving on" not in server.output


def test_a_wrong_setting_is_only_told_to_a_console(instance: Instance) -> None:
    instance.write_zope_conf("<product-config collective.zcasync>", "  threads 0", "</product-config>")
    console = instance.start("python", instance.script(MAKE_WSGI_APP), instance.zope_conf)
    console.wait_for("CRITICAL.*threads: '0' is not allowed")
    assert console.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_runwsgi_cleanly(instance: Instance, number: signal.Signals) -> None:
    server = instance.runwsgi()
    server.wait_for("Serving on")
    assert instance.pid_file.read_text() == str(server.pid)
    assert server.stop(number) == 0
    assert "Dispatcher stopped" in server.output
    assert not instance.pid_file.exists()


def test_a_restart_follows_a_stop_at_once(instance: Instance) -> None:
    for _ in range(2):
        server = instance.runwsgi()
        server.wait_for("Serving on")
        assert server.stop() == 0


def test_zope_follows_jobs_in_spans_where_the_library_is_installed(instance: Instance) -> None:
    script = instance.script(
        "from collective.zcasync import tracing; print('followed by', type(tracing.tracer).__name__)"
    )
    console = instance.start("zconsole", "run", instance.zope_conf, script)
    console.wait_for("followed by JobTracer")
    assert console.wait() == 0
