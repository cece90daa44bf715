"""zopeapp.rule: who may start a dispatcher, decided from the stack, the loaded servers and the settings."""

from collections.abc import Callable
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.zopeapp import rule
from collective.zcasync.zopeapp.config import Settings
from types import ModuleType
from typing import Any

import pytest
import sys

ON = Settings(dispatcher=True, given=frozenset({"dispatcher"}))


def called_from(module: str, function: Callable[[], Any]) -> Any:
    """Call the function from a frame of the named module."""
    namespace = {"__name__": module, "function": function}
    exec("result = function()", namespace)
    return namespace["result"]


@pytest.fixture(autouse=True)
def plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No veto, and no server but the one that a test loads."""
    monkeypatch.delenv(rule.VETO, raising=False)
    monkeypatch.delitem(sys.modules, "gunicorn.arbiter", raising=False)
    monkeypatch.delitem(sys.modules, "uwsgi", raising=False)


@pytest.fixture
def gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", ModuleType("gunicorn.arbiter"))


def test_a_pipeline_under_construction_starts_the_dispatcher() -> None:
    decision = called_from("paste.deploy.loadwsgi", lambda: rule.by_itself(ON))
    assert decision.start
    assert "dispatcher off" in decision.reason


def test_without_a_pipeline_it_does_not_start_and_the_reason_names_both_ways_out() -> None:
    decision = rule.by_itself(ON)
    assert not decision.start
    assert "zopeapp.start()" in decision.reason
    assert "egg:collective.zcasync#dispatcher" in decision.reason


def test_a_package_with_a_similar_name_is_no_pipeline() -> None:
    assert not called_from("paste.deployment", lambda: rule.by_itself(ON)).start


def test_the_default_is_off_and_the_reason_says_what_to_write() -> None:
    decision = called_from("paste.deploy.loadwsgi", lambda: rule.by_itself(Settings()))
    assert not decision.start
    assert "zope.conf has no <product-config collective.zcasync>" in decision.reason
    assert "'dispatcher on'" in decision.reason


@pytest.mark.parametrize("decide", [rule.by_itself, rule.by_filter, rule.by_call])
def test_the_environment_vetoes_each_way(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rule.VETO, "Off")
    decision = called_from("paste.deploy.loadwsgi", lambda: decide(ON))
    assert not decision.start
    assert rule.VETO in decision.reason


def test_on_in_the_environment_leaves_the_decision_to_zope_conf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rule.VETO, "on")
    assert not rule.by_call(Settings()).start
    assert rule.by_call(ON).start


def test_another_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rule.VETO, "no")
    with pytest.raises(ConfigurationError, match="allowed are off"):
        rule.by_itself(ON)


@pytest.mark.parametrize("decide", [rule.by_itself, rule.by_filter])
def test_the_master_of_gunicorn_does_not_start_it_and_names_the_hook(gunicorn: None, decide: Any) -> None:
    decision = called_from("paste.deploy.loadwsgi", lambda: decide(ON))
    assert not decision.start
    assert "post_fork" in decision.reason


def test_a_worker_of_gunicorn_starts_it(gunicorn: None) -> None:
    def load() -> Any:
        return called_from("paste.deploy.loadwsgi", lambda: rule.by_itself(ON))

    assert called_from("gunicorn.workers.base", load).start


def test_a_hook_of_gunicorn_may_start_it_by_call(gunicorn: None) -> None:
    assert rule.by_call(ON).start


@pytest.mark.parametrize("decide", [rule.by_itself, rule.by_filter])
def test_uwsgi_never_starts_it_by_itself(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", ModuleType("uwsgi"))
    decision = called_from("paste.deploy.loadwsgi", lambda: decide(ON))
    assert not decision.start
    assert "postfork" in decision.reason
    assert rule.by_call(ON).start


@pytest.mark.parametrize(("worker", "starts"), [(0, False), (2, True)])
def test_a_filter_starts_it_in_a_process_of_uwsgi_that_is_forked_already(
    worker: int, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uwsgi: Any = ModuleType("uwsgi")
    uwsgi.worker_id = lambda: worker
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    assert called_from("paste.deploy.loadwsgi", lambda: rule.by_filter(ON)).start is starts
    assert not called_from("paste.deploy.loadwsgi", lambda: rule.by_itself(ON)).start


def test_a_filter_starts_it_without_a_pipeline_file() -> None:
    assert rule.by_filter(ON).start


def test_servers_are_told_from_consoles(gunicorn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rule.is_server()
    monkeypatch.delitem(sys.modules, "gunicorn.arbiter")
    assert not rule.is_server()
    assert called_from("paste.deploy", rule.is_server)
