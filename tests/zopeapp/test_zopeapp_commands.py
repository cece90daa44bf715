"""The commands of ``zcasync`` over real databases: a FileStorage that a server holds, ZEO, and RelStorage."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync import interfaces
from collective.zcasync import joblists
from collective.zcasync import monitorrows
from collective.zcasync import schema
from collective.zcasync.agent import Agent
from collective.zcasync.clock import UTC
from collective.zcasync.clock import utcnow
from collective.zcasync.deployment import Deployment
from collective.zcasync.failure import Failure
from collective.zcasync.job import Job
from collective.zcasync.persistence import insert
from collective.zcasync.persistence import make_key
from collective.zcasync.queue import install
from collective.zcasync.queue import Site as QueueSite
from collective.zcasync.zopeapp import answers
from collective.zcasync.zopeapp import opening
from collective.zcasync.zopeapp.cli import get_parser
from collective.zcasync.zopeapp.cli import main
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from postgresserver import postgres_server
from postgresserver import PostgresServer
from typing import Any
from ZEO.Exceptions import ClientDisconnected
from ZODB.FileStorage import FileStorage

import builtins
import json
import pytest
import re
import sys
import threading
import transaction
import uuid
import ZEO
import ZODB

ZOPE_CONF = """\
instancehome {folder}
<zodb_db main>
  mount-point /
  {storage}
</zodb_db>
{more}
"""

ON = "<product-config collective.zcasync>\n  dispatcher on\n</product-config>"

RELSTORAGE = """\
%import relstorage
  <relstorage>
    keep-history false
    <postgresql>
      driver psycopg2
      dsn {dsn}
    </postgresql>
  </relstorage>"""

LOOKING = (
    *(("status",), ("jobs",), ("jobs", "failed", "waiting"), ("job", "GOOD"), ("job", "BAD"), ("traceback", "BAD")),
    *(("queues",), ("dispatchers",), ("doctor",)),
)

CHANGING = (
    *(("cancel", "WAITING"), ("retry", "BAD"), ("pause", "default"), ("resume", "default")),
    *(("cancel-all",), ("retry-all", "--task", "*"), ("migrate",)),
    *(("release", "ASIDE"), ("discard", "ASIDE"), ("release", "--group", "/held")),
    *(("release", "--deployment"), ("discard", "--deployment", "--yes")),
    *(("delete", "GOOD"), ("run-now", "WAITING"), ("reschedule", "1H", "WAITING"), ("priority", "-3", "WAITING")),
    *(("pause-dispatcher", "UUID"), ("resume-dispatcher", "UUID")),
)


class Site:
    """An instance's files, its database as a server has it open, and a story in it."""

    def __init__(self, folder: Path, storage: str, open_storage: Callable[[], Any]) -> None:
        self.var = folder / "var"
        for each in (self.var, folder / "etc"):
            each.mkdir(exist_ok=True)
        self.zope_conf = folder / "etc" / "zope.conf"
        self.zope_conf.write_text(ZOPE_CONF.format(folder=folder, storage=storage, more=ON))
        self.manager = transaction.TransactionManager()
        self.db = ZODB.DB(open_storage(), database_name="main")
        self.connection = self.db.open(self.manager)
        self.queues = install(self.connection, ("", "mail"))
        self.queue = self.queues[""]
        self.manager.commit()

    def tell(self) -> None:
        """A job in each state; the names are those that the commands above use."""
        queue = self.queue
        key = uuid.uuid4()
        queue.dispatchers.register(key)
        self.da = da = queue.dispatchers[key]
        da.process = {"role": "worker", "host": "apple", "pid": 4711, "version": "1.0"}
        da.activate()
        da.ping(utcnow())
        da["main"] = Agent()
        self.ids = {"UUID": str(key)}
        for name, result in (("GOOD", "done"), ("BAD", Failure.from_exception(ValueError("no such address")))):
            job = queue.put(Job(len, name))
            self.manager.commit()
            queue.take_out(job)
            da["main"].hold(job, True)
            self.manager.commit()
            job._finish(result, utcnow())
            da["main"].jobCompleted(job)
            self.ids[name] = job.id
        for name in ("WAITING", "ASIDE"):
            self.ids[name] = queue.put(Job(len, name)).id
        self.manager.commit()
        aside = self.job("ASIDE")
        queue.take_out(aside)
        insert(queue.quarantine, make_key(), ("its process died three times", aside))
        queue.adjust("quarantined", 1)
        queue.hold_group("/held")
        self.manager.commit()

    def job(self, name: str) -> Any:
        return self.connection.get(int(self.ids[name], 16).to_bytes(8, "big"))

    def hold(self) -> None:
        """Its dispatcher has found that this is a copy."""
        self.queues.deployment = Deployment("production", "")
        self.da.held = ("copy", "production")
        self.manager.commit()

    def command(self, *words: str) -> list[str]:
        return [self.ids.get(word, word) for word in words] + ["-C", str(self.zope_conf)]

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of all that lies beside the database."""
        found = {path.name: path.stat() for path in self.var.iterdir()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}

    def close(self) -> None:
        self.manager.abort()
        self.connection.close()
        self.db.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Site]:
    """A FileStorage that another process would have open; here it is another storage object, with the same lock."""
    path = tmp_path / "var" / "Data.fs"
    path.parent.mkdir()
    site = Site(tmp_path, f"<filestorage>\n path {path}\n</filestorage>", lambda: FileStorage(str(path)))
    site.tell()
    yield site
    site.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["zeo", "relstorage"])
def shared(request: pytest.FixtureRequest) -> Site:
    """A database that the server shares with the command."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def relstorage(tmp_path: Path, postgres: PostgresServer) -> Iterator[Site]:
    """RelStorage on PostgreSQL, which tells dispatchers of each put."""
    name = postgres.new_database()
    site = Site(tmp_path, RELSTORAGE.format(dsn=postgres.dsn(name)), lambda: postgres.open(name).storage)
    site.zope_conf.write_text(site.zope_conf.read_text().replace("dispatcher on", "dispatcher on\n  notify on"))
    site.tell()
    yield site
    site.close()


@pytest.fixture
def zeo(tmp_path: Path) -> Iterator[Site]:
    """A ZEO server with a client beside the command."""
    address, stop = ZEO.server(str(tmp_path / "Data.fs"))
    storage = f"<zeoclient>\n server {address[0]}:{address[1]}\n storage 1\n var {tmp_path}/var\n</zeoclient>"
    site = Site(tmp_path, storage, lambda: ZEO.client(address, server_sync=True))
    site.tell()
    yield site
    site.close()
    stop()


@pytest.fixture(params=["embedded", "zeo", "relstorage"])
def site(request: pytest.FixtureRequest) -> Site:
    return request.getfixturevalue(request.param)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Run a command with --json: (exit code, the document)."""

    def run(site: Site, *words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main([*site.command(*words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


class TestLooking:
    @pytest.mark.parametrize("words", LOOKING, ids=" ".join)
    def test_a_command_that_looks_works_beside_a_server_and_writes_nothing(
        self, embedded: Site, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = embedded.files()
        assert main(embedded.command(*words)) in (0, 1)
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) > 0
        assert printed.err == ""
        assert embedded.files() == before

    @pytest.mark.parametrize("words", LOOKING, ids=" ".join)
    def test_with_json_it_prints_one_document(self, site: Site, words: tuple[str, ...], ask: Any) -> None:
        code, document = ask(site, *words)
        assert code in (0, 1)
        assert document

    def test_it_sees_what_the_server_has_committed_since_the_last_time(self, site: Site, ask: Any) -> None:
        assert ask(site, "status")[1]["counts"]["waiting"] == 1
        site.queue.put(Job(len, "one more"))
        site.manager.commit()
        assert ask(site, "status")[1]["counts"]["waiting"] == 2

    def test_status_tells_counts_and_whether_something_needs_attention(self, site: Site, ask: Any) -> None:
        code, document = ask(site, "status")
        assert code == 1  # a job was set aside
        assert document["counts"] == {
            "waiting": 1,
            "scheduled": 0,
            "running": 0,
            "failed": 1,
            "finished": 1,
            "cancelled": 0,
            "quarantined": 1,
        }
        assert (document["dispatchers"], document["problems"]) == (1, 1)
        assert [queue["name"] for queue in document["queues"]] == ["", "mail"]

    def test_status_is_well_when_nothing_needs_attention(self, site: Site, ask: Any) -> None:
        site.queue.leave_quarantine(site.queue.quarantine_key(site.job("ASIDE")))
        site.manager.commit()
        assert ask(site, "status")[0] == ask(site, "doctor")[0] == 0

    def test_jobs_lists_what_has_not_ended_or_the_states_that_are_named(self, site: Site, ask: Any) -> None:
        code, document = ask(site, "jobs")
        assert code == 1
        found = {state: [job["id"] for job in page["jobs"]] for state, page in document.items()}
        assert found == {
            "running": [],
            "waiting": [site.ids["WAITING"]],
            "scheduled": [],
            "quarantined": [site.ids["ASIDE"]],
        }
        code, document = ask(site, "jobs", "failed", "finished")
        assert (code, list(document)) == (0, ["failed", "finished"])
        (bad,) = document["failed"]["jobs"]
        assert (bad["id"], bad["error"]) == (site.ids["BAD"], "ValueError: no such address")

    def test_jobs_can_be_chosen_by_queue_and_site_and_cut(self, site: Site, ask: Any) -> None:
        for _ in range(3):
            site.queues["mail"].put(Job(len, "mail"))
        site.manager.commit()
        assert len(ask(site, "jobs", "waiting")[1]["waiting"]["jobs"]) == 4
        assert len(ask(site, "jobs", "waiting", "--queue", "mail")[1]["waiting"]["jobs"]) == 3
        assert len(ask(site, "jobs", "waiting", "--queue", "default")[1]["waiting"]["jobs"]) == 1
        assert ask(site, "jobs", "waiting", "--site", "/Plone")[1]["waiting"]["jobs"] == []
        page = ask(site, "jobs", "waiting", "--queue", "mail", "--start", "1", "--limit", "1")[1]["waiting"]
        assert (len(page["jobs"]), page["more"]) == (1, True)

    def test_jobs_are_found_by_what_is_known_of_them(self, site: Site, ask: Any) -> None:
        assert len(ask(site, "jobs", "failed", "--error", "NO SUCH", "--since", "1H")[1]["failed"]["jobs"]) == 1
        assert ask(site, "jobs", "failed", "--until", "1H")[1]["failed"]["jobs"] == []
        assert ask(site, "jobs", "waiting", "--task", "nothing*")[1]["waiting"]["jobs"] == []
        assert len(ask(site, "jobs", "attention")[1]["attention"]["jobs"]) == 1
        assert ask(site, "jobs", "failed", "--since", "yesterday")[0] == 2

    def test_a_list_that_is_looked_at_in_parts_says_where_to_go_on_and_in_the_end_to_search(
        self, site: Site, capsys: pytest.CaptureFixture[str], ask: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def told(*words: str) -> str:
            main(site.command("jobs", "waiting", *words))
            return capsys.readouterr().out

        for _number in range(3):
            site.queues["mail"].put(Job(str))
        site.manager.commit()
        monkeypatch.setattr(joblists, "LOOK_LIMIT", 2)
        assert "to go on: --skip 2" in told("--task", "*")
        assert ask(site, "jobs", "waiting", "--task", "*")[1]["waiting"]["next"] == 2
        assert "There are more: --start 1" in told("--limit", "1")
        monkeypatch.setattr(monitorrows, "LAST_SKIP", 1)
        assert "search with --task" in told("--task", "*") and "search with --task" in told("--skip", "2")

    def test_failures_counts_failed_jobs_by_cause(self, site: Site, ask: Any) -> None:
        code, (row,) = ask(site, "failures")
        assert (code, row["number"]) == (0, 1)
        assert row["cause"].startswith("ValueError")
        assert ask(site, "failures", "--site", "/nowhere") == (0, [])
        assert len(ask(site, "jobs", "failed", "--cause", row["cause"])[1]["failed"]["jobs"]) == 1

    def test_a_site_is_named_by_its_path(self, site: Site, ask: Any) -> None:
        site.queue.parent.sites["7f"] = QueueSite("/Plone")
        site.queue.put(Job(len, "of the site")).group = "7f"
        site.manager.commit()
        assert len(ask(site, "jobs", "waiting", "--site", "/Plone")[1]["waiting"]["jobs"]) == 1

    def test_job_tells_all_about_one(self, site: Site, ask: Any) -> None:
        code, document = ask(site, "job", "BAD")
        assert code == 0
        assert document["job"]["row"]["id"] == site.ids["BAD"]
        assert document["details"]["status"] == "completed"
        assert "no such address" in document["job"]["traceback"]

    def test_traceback_shows_it_as_python_does(self, site: Site, capsys: pytest.CaptureFixture[str], ask: Any) -> None:
        assert main(site.command("traceback", "BAD")) == 0
        assert capsys.readouterr().out.strip().endswith("ValueError: no such address")
        assert ask(site, "traceback", "GOOD") == (0, {"traceback": None})

    def test_queues_and_dispatchers_are_listed(self, site: Site, ask: Any) -> None:
        site.queue.quotas.create("mail", 2)
        site.queue.set_template("worker", "main", size=4)
        site.manager.commit()
        code, document = ask(site, "queues")
        assert code == 0
        assert document[0]["quotas"] == [{"name": "mail", "size": 2, "filled": False}]
        assert document[0]["agents"][0]["size"] == 4
        assert [queue["served"] for queue in document] == [True, False]
        code, document = ask(site, "dispatchers")
        assert code == 0
        (one,) = document
        assert (one["uuid"], one["state"], one["host"], one["version"]) == (site.da.name, "active", "apple", "1.0")

    def test_doctor_names_what_keeps_jobs_from_running_and_the_way_out(self, site: Site, ask: Any) -> None:
        site.queue.paused = True
        site.manager.commit()
        code, findings = ask(site, "doctor")
        assert code == 1
        by_kind = {finding["kind"]: finding for finding in findings}
        assert by_kind["paused"]["way_out"] == "zcasync resume default"
        assert by_kind["quarantine"]["jobs"] == [site.ids["ASIDE"]]

    def test_doctor_tells_that_this_zope_conf_switches_no_dispatcher_on(self, site: Site, ask: Any) -> None:
        site.zope_conf.write_text(site.zope_conf.read_text().replace("dispatcher on", "dispatcher off"))
        assert "dispatcher-off" in {finding["kind"] for finding in ask(site, "doctor")[1]}
        site.da.deactivate()
        site.manager.commit()
        kinds = [finding["kind"] for finding in ask(site, "doctor")[1] if finding["problem"]]
        assert {"no-dispatcher", "dispatcher-off"} <= set(kinds)

    def test_tables_show_ids_and_names(self, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        main(site.command("jobs"))
        printed = capsys.readouterr().out
        assert site.ids["WAITING"] in printed and "builtins.len" in printed
        main(site.command("dispatchers"))
        printed = capsys.readouterr().out
        assert "worker apple 4711" in printed and "active" in printed
        main(site.command("job", "WAITING"))
        assert "'WAITING'" in capsys.readouterr().out


class TestChanging:
    @pytest.mark.parametrize("words", CHANGING, ids=" ".join)
    def test_beside_a_server_on_a_file_it_points_to_site_setup_or_zeo(
        self, embedded: Site, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = embedded.db.lastTransaction()
        assert main(embedded.command(*words)) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "use Site Setup, or ZEO" in printed.err
        embedded.manager.begin()
        assert embedded.db.lastTransaction() == before

    def test_on_a_file_that_nobody_holds_it_changes(self, embedded: Site, ask: Any) -> None:
        embedded.close()
        assert ask(embedded, "cancel", "WAITING") == (0, {embedded.ids["WAITING"]: "cancelled"})
        assert ask(embedded, "status")[1]["counts"]["cancelled"] == 1
        embedded.db = ZODB.DB(FileStorage(str(embedded.var / "Data.fs")), database_name="main")
        embedded.connection = embedded.db.open(embedded.manager)

    def test_cancel_ends_what_waits_and_tells_of_what_has_ended(self, shared: Site, ask: Any) -> None:
        code, document = ask(shared, "cancel", "WAITING", "GOOD")
        assert (code, document) == (0, {shared.ids["WAITING"]: "cancelled", shared.ids["GOOD"]: "finished"})
        shared.manager.begin()
        assert shared.job("WAITING").outcome == "cancelled"

    def test_cancel_asks_what_runs_to_stop(self, shared: Site, ask: Any) -> None:
        job = shared.job("WAITING")
        shared.queue.take_out(job)
        shared.da["main"].hold(job, True)
        shared.manager.commit()
        assert ask(shared, "cancel", "WAITING") == (0, {shared.ids["WAITING"]: "stopping"})
        shared.manager.begin()
        assert job.stop_requested

    def test_all_jobs_that_match_are_cancelled_and_put_again(self, shared: Site, ask: Any) -> None:
        assert ask(shared, "retry-all", "--site", "/nowhere") == (0, {"retried": 0, "refused": 0})
        assert ask(shared, "retry-all", "--queue", "default") == (0, {"retried": 1, "refused": 0})
        waits = ask(shared, "status")[1]["counts"]["waiting"]
        assert ask(shared, "cancel-all", "running", "--task", "nothing") == (0, {"cancelled": 0, "stopping": 0})
        assert ask(shared, "cancel-all", "waiting") == (0, {"cancelled": waits, "stopping": 0})
        shared.manager.begin()
        assert shared.job("WAITING").outcome == "cancelled"
        assert [(what, by) for _when, what, by in shared.job("WAITING").attempt_log] == [("by_cancel", "zcasync")]
        assert ask(shared, "retry-all", "waiting")[0] == 2

    def test_retry_puts_a_failed_job_again(self, shared: Site, ask: Any) -> None:
        code, document = ask(shared, "retry", "BAD")
        shared.manager.begin()
        new = document[shared.ids["BAD"]]
        assert (code, shared.job("BAD").retried_as) == (0, new)
        assert new in {job.id for job in shared.queue}

    def test_pause_and_resume_change_the_queues_that_are_named(self, shared: Site, ask: Any) -> None:
        assert ask(shared, "pause", "default", "mail") == (0, ["default", "mail"])
        shared.manager.begin()
        assert (shared.queue.paused, shared.queues["mail"].paused) == (True, True)
        assert ask(shared, "resume", "mail") == (0, ["mail"])
        shared.manager.begin()
        assert (shared.queue.paused, shared.queues["mail"].paused) == (True, False)

    def test_release_lets_a_job_or_a_held_site_run_again(self, shared: Site, ask: Any) -> None:
        assert ask(shared, "release", "ASIDE", "--group", "/held")[0] == 0
        shared.manager.begin()
        assert shared.ids["ASIDE"] in {job.id for job in shared.queue}
        assert list(shared.queue.quarantined()) == []
        assert shared.queue.held_groups == ()

    def test_discard_removes_what_was_set_aside(self, shared: Site, ask: Any) -> None:
        assert ask(shared, "discard", "ASIDE") == (0, [shared.ids["ASIDE"]])
        shared.manager.begin()
        assert list(shared.queue.quarantined()) == []
        assert shared.ids["ASIDE"] not in {job.id for job in shared.queue}

    def test_a_held_database_is_told_of_and_released(
        self, shared: Site, ask: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shared.hold()
        assert main(shared.command("status")) == 1
        assert "HELD" in capsys.readouterr().out
        assert main(shared.command("dispatchers")) == 1
        assert "Held: the database belongs to the deployment production" in capsys.readouterr().out
        code, findings = ask(shared, "doctor")
        assert code == 1 and ("held", None) in {(finding["kind"], finding["queue"]) for finding in findings}
        assert ("no-dispatcher", "") not in {(finding["kind"], finding["queue"]) for finding in findings}
        code, document = ask(shared, "release", "--deployment")
        assert (code, document["deployment"]) == (0, True)
        shared.manager.begin()
        owner = shared.queues.deployment
        assert owner.hold is None and owner.name == "" and len(owner.addresses) == 1
        assert owner.addresses[0].startswith(("zeo:", "sql:"))

    def test_discard_removes_all_that_waits_in_a_held_database_once_it_was_confirmed(
        self, shared: Site, ask: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shared.hold()
        before = shared.db.lastTransaction()
        code, document = ask(shared, "discard", "--deployment")
        assert code == 2 and "nothing was discarded; --yes removes all 1 jobs" in document["error"]
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(builtins, "input", lambda question: "no")
        assert main(shared.command("discard", "--deployment")) == 2
        shared.manager.begin()
        assert shared.db.lastTransaction() == before
        monkeypatch.setattr(builtins, "input", lambda question: "yes")
        capsys.readouterr()
        assert main(shared.command("discard", "--deployment")) == 0
        assert capsys.readouterr().out == "Jobs discarded: 1. The database is released\n"
        shared.manager.begin()
        assert [len(shared.queue), shared.queue.counts()["quarantined"], shared.queues.deployment.hold] == [0, 1, None]

    def test_a_database_at_which_dispatchers_work_is_neither_released_nor_emptied(self, zeo: Site, ask: Any) -> None:
        for words in (("release", "--deployment"), ("discard", "--deployment", "--yes")):
            code, document = ask(zeo, *words)
            assert code == 2 and "pid 4711 on apple) works on this database" in document["error"]

    def test_delete_forgets_what_has_ended(self, shared: Site, ask: Any) -> None:
        assert ask(shared, "delete", "GOOD", "ASIDE") == (0, [shared.ids["GOOD"], shared.ids["ASIDE"]])
        shared.manager.begin()
        assert shared.queue.counts()["quarantined"] == 0
        assert [job.id for job in shared.queue.finished("succeeded", None)] == []

    def test_waiting_jobs_begin_sooner_later_or_with_another_priority(self, shared: Site, ask: Any) -> None:
        id = shared.ids["WAITING"]
        assert ask(shared, "priority", "-3", "WAITING") == (0, {"jobs": [id], "priority": -3})
        code, document = ask(shared, "reschedule", "2H", "WAITING")
        assert code == 0 and document["jobs"] == [id]
        shared.manager.begin()
        job = shared.job("WAITING")
        assert job.priority == -3
        assert abs(job.begin_after - utcnow() - timedelta(hours=2)) < timedelta(minutes=5)
        assert ask(shared, "reschedule", "2040-12-24T20:00+01:00", "WAITING")[0] == 0
        shared.manager.begin()
        assert job.begin_after == datetime(2040, 12, 24, 19, tzinfo=UTC)
        assert ask(shared, "run-now", "WAITING") == (0, [id])
        shared.manager.begin()
        assert job.begin_after <= utcnow()
        assert [what for _when, what, by in job.attempt_log if by == "zcasync"] == [
            *("by_priority", "by_schedule", "by_schedule", "by_run")
        ]

    def test_a_dispatcher_takes_no_more_jobs_until_it_is_told_to_again(self, shared: Site, ask: Any) -> None:
        for word, paused in (("pause-dispatcher", True), ("resume-dispatcher", False)):
            assert ask(shared, word, "UUID") == (0, [shared.ids["UUID"]])
            shared.manager.begin()
            assert [agent.paused for agent in shared.da.values()] == [paused]

    def test_queues_of_newer_code_are_shown_and_never_changed(
        self, zeo: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        zeo.queues.schema, zeo.queues.schema_by = 2, "7.0"
        zeo.manager.commit()
        before = zeo.db.lastTransaction()
        for words in CHANGING:
            assert main(zeo.command(*words)) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "have schema 2" in line and "install 7.0 or newer" in line
        assert main(zeo.command("jobs", "waiting")) == 0
        assert main(zeo.command("doctor")) == 1 and "install 7.0 or newer" in capsys.readouterr().out
        zeo.manager.begin()
        assert zeo.db.lastTransaction() == before

    def test_migrate_raises_the_schema_when_no_older_dispatcher_is_at_work(
        self, shared: Site, ask: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert ask(shared, "migrate") == (0, {"before": 1, "now": 1})
        monkeypatch.setattr(interfaces, "SCHEMA", 2)
        monkeypatch.setitem(schema.STEPS, 1, lambda queues: None)
        code, document = ask(shared, "migrate")
        assert code == 2 and "not understood by dispatcher" in document["error"] and "pid 4711" in document["error"]
        shared.da.deactivate()
        shared.manager.commit()
        assert ask(shared, "migrate") == (0, {"before": 1, "now": 2})
        shared.manager.begin()
        assert shared.queues.schema == 2

    def test_texts_tell_what_was_done(self, shared: Site, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(shared.command("cancel", "WAITING")) == 0
        assert capsys.readouterr().out == f"Job {shared.ids['WAITING']}: cancelled\n"
        assert main(shared.command("pause", "default")) == 0
        assert capsys.readouterr().out == "Queue default: paused; what runs goes on\n"


class TestWrongUse:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("job", "fffff"), "no job has the id 'fffff'"),
            (("job", "nonsense"), "not the id of a job"),
            (("traceback", "fffff"), "no job has the id"),
            (("jobs", "--queue", "nowhere"), "no queue 'nowhere'"),
            (("cancel", "WAITING", "fffff"), "no job has the id"),
            (("retry", "WAITING"), "neither failed nor been cancelled"),
            (("discard", "WAITING"), "is not set aside"),
            (("delete", "WAITING"), "is not set aside"),
            (("run-now", "GOOD"), "does not wait any more"),
            (("priority", "16", "WAITING"), "priority"),
            (("reschedule", "soon", "WAITING"), "'soon' is not an interval"),
            (("reschedule", "2040-12-24T20:00", "WAITING"), "timezone-naive"),
            (("pause-dispatcher", "nobody"), "nobody"),
            (("release", "WAITING"), "is not set aside"),
            (("release",), "name the jobs to release"),
            (("discard",), "name the jobs to discard"),
            (("discard", "WAITING", "--deployment"), "name the jobs to discard"),
            (("release", "--group", "/nowhere"), "is not held"),
            (("pause", "default", "nowhere"), "no queue 'nowhere'; there are: default, mail"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_it_is_told_with_code_2_and_nothing_is_changed(
        self, shared: Site, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], ask: Any
    ) -> None:
        counts, before = shared.queue.counts(), shared.db.lastTransaction()
        assert main(shared.command(*words)) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("zcasync: ") and message in printed.err
        code, document = ask(shared, *words)
        assert code == 2 and message in document["error"]
        shared.manager.begin()
        assert (shared.queue.counts(), shared.db.lastTransaction()) == (counts, before)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["jobs", "lost"], "'lost': states are waiting, scheduled"),
            (["jobs", "--limit", "-1"], "a whole number of at least 0"),
            (["cancel"], "ID"),
            (["pause"], "QUEUE"),
            (["traceback", "1", "--detail", "all"], "invalid choice"),
        ],
    )
    def test_a_wrong_command_line_is_refused(
        self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            get_parser().parse_args([*words, "-C", "zope.conf"])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err

    def test_a_zope_conf_that_is_missing_or_wrong_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["status", "-C", str(tmp_path / "zope.conf")]) == 2
        assert "there is no zope.conf at" in capsys.readouterr().err
        (tmp_path / "zope.conf").write_text("no-such-key 1\n")
        assert main(["status", "-C", str(tmp_path / "zope.conf")]) == 2
        assert "cannot be used: " in capsys.readouterr().err

    def test_a_database_that_is_missing_or_empty_is_told_and_not_made(
        self, embedded: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = embedded.zope_conf.read_text()
        embedded.zope_conf.write_text(text.replace("Data.fs", "Other.fs"))
        for words in (("status",), ("pause", "default")):
            assert main(embedded.command(*words)) == 2
            assert "start the server once" in capsys.readouterr().err
        assert not (embedded.var / "Other.fs").exists()
        FileStorage(str(embedded.var / "Other.fs")).close()
        assert main(embedded.command("status")) == 2
        assert "is empty" in capsys.readouterr().err

    def test_a_database_without_queues_says_so(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "Data.fs"
        ZODB.DB(FileStorage(str(path))).close()
        (tmp_path / "var").mkdir()
        conf = tmp_path / "zope.conf"
        storage = f"<filestorage>\n path {path}\n</filestorage>"
        conf.write_text(ZOPE_CONF.format(folder=tmp_path, storage=storage, more=""))
        assert main(["doctor", "-C", str(conf)]) == 1
        assert "this database has no queues" in capsys.readouterr().out
        assert main(["status", "-C", str(conf)]) == 1
        assert main(["pause", "default", "-C", str(conf)]) == 2

    def test_a_database_name_that_zope_conf_lacks_is_told(
        self, embedded: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        named = ON.replace("dispatcher on", "db-name mian")
        embedded.zope_conf.write_text(embedded.zope_conf.read_text().replace(ON, named))
        assert main(embedded.command("status")) == 2
        assert "did you mean 'main'" in capsys.readouterr().err

    def test_a_server_that_does_not_answer_is_told_with_code_1(
        self, shared: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def away(*args: Any) -> Any:
            raise ClientDisconnected("no server")

        monkeypatch.setattr(opening.ZODBDatabase, "open", away)
        assert main(shared.command("status")) == 1
        assert "the database does not answer" in capsys.readouterr().err

    def test_a_postgresql_that_is_not_there_is_told_in_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        conf, storage = tmp_path / "zope.conf", RELSTORAGE.format(dsn="host=127.0.0.1 port=1 dbname=nothing")
        conf.write_text(ZOPE_CONF.format(folder=tmp_path, storage=storage, more=""))
        for words in (("status",), ("pause", "default")):
            assert main([*words, "-C", str(conf)]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("zcasync: the database does not answer: OperationalError: connection to server at")
        assert caplog.messages == [], "RelStorage says the same in several lines"

    def test_a_server_that_is_waited_for_is_named_meanwhile_with_the_way_out(
        self, zeo: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        told = threading.Event()
        warn = opening.logger.warning
        monkeypatch.setattr(opening.logger, "warning", lambda *args: (warn(*args), told.set()))
        monkeypatch.setattr(opening, "SILENCE", 0.01)

        def wait(*args: Any) -> Any:
            assert told.wait(30)
            raise KeyboardInterrupt

        monkeypatch.setattr(opening.ZODBDatabase, "open", wait)
        assert main(zeo.command("status")) == 130
        (address,) = re.findall(r"server (\S+)", zeo.zope_conf.read_text())
        assert f"Waiting for the storage at {address}; Ctrl-C ends that" in caplog.messages

    def test_tables_without_rich_name_the_extra_and_json_does_without(
        self, embedded: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ask: Any
    ) -> None:
        real = builtins.__import__

        def without_rich(name: str, *args: Any) -> Any:
            if name.split(".")[0] == "rich":
                raise ImportError(name)
            return real(name, *args)

        monkeypatch.setattr(builtins, "__import__", without_rich)
        assert main(embedded.command("queues")) == 2
        assert "install collective.zcasync[cli]" in capsys.readouterr().err
        assert ask(embedded, "queues")[0] in (0, 1)
        assert main(embedded.command("status")) == 1  # it has no table


def test_a_table_folds_what_is_too_wide_and_leaves_out_what_is_empty() -> None:
    table = answers.Table(("a", "b"), [("x" * 30, None), (True, False)], title="heading")
    lines = answers.Answer({}, ["before", table]).as_text(20).splitlines()
    assert lines[:2] == ["before", "heading"]
    assert all(len(line) <= 20 for line in lines)
    assert "".join(lines).count("x") == 30
    assert "yes" in lines[-1] and "False" not in "".join(lines)


def test_a_table_without_names_of_columns_has_no_heading() -> None:
    assert answers.Answer({}, [answers.Table(("", ""), [("id", "1f")])]).as_text() == "id   1f"
