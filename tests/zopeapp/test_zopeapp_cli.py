"""zopeapp.cli and zopeapp.worker: the console script ``zcasync`` in real processes."""

from collective.zcasync.queue import install
from collective.zcasync.zopeapp import cli
from collective.zcasync.zopeapp.cli import get_parser
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.worker import worker_settings
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from zopeinstance import Instance

import json
import pytest
import signal
import ZODB

RUNS = r"Worker \S+ runs jobs \(role worker, job threads: {threads}, queues: {queues}\)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_runs_until_a_signal_and_ends_well(instance: Instance, number: signal.Signals) -> None:
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    worker.wait_for(RUNS.format(threads=3, queues="all"))
    assert worker.stop(number) == 0
    stopped = next(i for i, line in enumerate(worker.lines) if line.endswith("Dispatcher stopped"))
    assert "deactivated" in worker.lines[stopped - 1]
    assert not instance.pid_file.exists()


def test_the_command_line_of_a_worker_goes_before_zope_conf(instance: Instance) -> None:
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf, "--threads", "5", "--queues", "default,mail")
    worker.wait_for(RUNS.format(threads=5, queues="default, mail"))


def test_a_worker_runs_where_zope_conf_keeps_servers_from_it(instance: Instance) -> None:
    instance.write_zope_conf()
    worker = instance.start("zcasync", "worker", "-C", "etc/zope.conf")
    worker.wait_for(RUNS.format(threads=3, queues="all"))
    assert "not started" not in worker.output


@pytest.mark.parametrize("command", [["worker"], ["purge", "--site", "/Plone"]])
def test_a_missing_zope_conf_is_named(instance: Instance, command: list[str]) -> None:
    process = instance.start("zcasync", *command, "-C", "nowhere/zope.conf")
    assert process.wait() == 2
    expected = instance.folder / "nowhere" / "zope.conf"
    assert process.lines == [f"zcasync: there is no zope.conf at {expected}; name one with -C"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("<zodb_db>", "cannot be used: "),
        ("no-such-key 1", "cannot be used: .*no-such-key"),
        ("<product-config collective.zcasync>\nthreads 0\n</product-config>", "threads: '0' is not allowed"),
    ],
)
def test_a_wrong_zope_conf_is_told_without_a_traceback(instance: Instance, line: str, message: str) -> None:
    instance.write_zope_conf(line)
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    worker.wait_for("^zcasync: .*" + message)
    assert worker.wait() == 2
    assert "Traceback" not in worker.output


def test_a_database_in_use_is_told_with_the_way_out(instance: Instance) -> None:
    instance.runwsgi().wait_for("Serving on")
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    assert worker.wait() == 1
    assert worker.lines[-1].startswith("zcasync: the database is in use by another process")
    assert "ZEO" in worker.lines[-1]


def test_on_queues_of_newer_code_a_worker_ends_and_a_server_serves_without_jobs(instance: Instance) -> None:
    db = ZODB.DB(FileStorage(str(instance.folder / "var" / "Data.fs")))
    with db.transaction() as connection:
        queues = install(connection)
        queues.schema, queues.schema_by = 2, "7.0"
    db.close()
    worker = instance.start("zcasync", "worker", "-C", instance.zope_conf)
    assert worker.wait() == 2
    assert worker.lines[-1].startswith("zcasync: the queues in the database 'main' have schema 2")
    assert "install 7.0 or newer" in worker.lines[-1] and "Traceback" not in worker.output

    server = instance.runwsgi()
    server.wait_for(r"takes no jobs: .* install 7\.0 or newer")
    server.wait_for("Serving on")


def test_a_purge_without_plone_says_that_there_is_nothing_to_purge(instance: Instance) -> None:
    purge = instance.start("zcasync", "purge", "--site", "/Plone", "-C", instance.zope_conf)
    assert purge.wait() == 2
    assert purge.lines[-1] == "zcasync: this Zope has no Plone, so no site owns anything in its queues"


def test_a_purge_of_an_unknown_site_says_so(instance: Instance) -> None:
    instance.load_everything()
    purge = instance.start("zcasync", "purge", "--site", "/Nowhere", "-C", instance.zope_conf)
    assert purge.wait() == 2
    assert purge.lines[-1].startswith("zcasync: --site: no site stands at '/Nowhere'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["worker"], "-C/--configuration"),
        (["worker", "-C", "zope.conf", "--threads", "65"], "'65': allowed is a whole number from 1 to 64"),
        (["worker", "-C", "zope.conf", "--queues", ","], "',': allowed are names of queues"),
        (["purge", "-C", "zope.conf"], "--site"),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        get_parser().parse_args(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        get_parser().parse_args(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("worker", "purge"))


@pytest.mark.parametrize(
    ("settings", "threads", "expected"),
    [
        (Settings(), None, ("worker", 3)),
        (Settings(), 7, ("worker", 7)),
        (Settings(threads=2, given=frozenset({"threads"})), None, ("worker", 2)),
        (Settings(threads=2, given=frozenset({"threads"})), 7, ("worker", 7)),
        (Settings(role="night"), None, ("night", 3)),
    ],
)
def test_a_worker_takes_the_command_line_then_zope_conf_then_its_own_defaults(
    settings: Settings, threads: int | None, expected: tuple[str, int]
) -> None:
    taken = worker_settings(settings, threads=threads, queues=None)
    assert (taken.role, taken.threads) == expected
    assert taken.dispatcher


def test_a_conflict_with_another_process_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def conflict(*_args: object, **_options: object) -> None:
        raise ConflictError("the same record")

    monkeypatch.setattr(cli, "run_worker", conflict)
    assert cli.main(["worker", "-C", "zope.conf"]) == 1
    assert capsys.readouterr().err.startswith("zcasync: another process has changed the same at the same time")


def test_what_is_wrong_is_told_in_json_where_the_log_is(instance: Instance) -> None:
    worker = instance.start("zcasync", "worker", "-C", "nowhere/zope.conf", "--log-format", "json")
    assert worker.wait() == 2
    (line,) = worker.lines
    assert json.loads(line)["message"].startswith("there is no zope.conf at")
