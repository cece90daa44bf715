"""The pages at the application root, in an instance without Plone."""

from base64 import b64encode
from collections.abc import Callable
from html import unescape
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import ServerProcess
from urllib.error import HTTPError
from urllib.request import Request
from urllib.request import urlopen
from zopeinstance import Instance

import pytest
import re
import threading
import time


@pytest.fixture
def server(instance: Instance) -> ServerProcess:
    """With a dispatcher at work."""
    server = instance.runwsgi()
    server.wait_for("Dispatcher .* started")
    return server


@pytest.fixture
def visit(instance: Instance, server: ServerProcess) -> Callable[..., str]:
    """Open a page of the running server, as its admin or as nobody."""
    address = instance.address(server)

    def visit(path: str, name: str | None = "admin", language: str = "en") -> str:
        request = Request(f"{address}/{path}", headers={"Accept-Language": language})
        if name:
            request.add_header("Authorization", f"Basic {b64encode(f'{name}:{name}'.encode()).decode()}")
        with urlopen(request, timeout=60) as answer:
            return " ".join(answer.read().decode().split())

    return visit


def see(visit: Callable[..., str], path: str, text: str) -> str:
    """Open the page again and again, a little apart so that jobs get their turn, until it shows the text."""
    end, never = time.monotonic() + PATIENCE, threading.Event()
    while text not in (page := visit(path)):
        assert time.monotonic() < end, page
        never.wait(0.1)
    return page


def test_the_root_shows_overview_jobs_queues_and_dispatchers_without_plone(
    instance: Instance, server: ServerProcess, visit: Callable[..., str], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = instance.put(server, "wait_for_file", go)
    assert '<a class="nav-link" href="@@zcasync-overview" >Background jobs</a>' in visit("manage_main")
    page = visit("@@zcasync-overview")
    assert '<a class="nav-link active" href="@@zcasync-overview" >Background jobs</a>' in page
    assert "All is well." in page and "Dispatchers at work: 1." in page
    assert "data:image/svg+xml" in page and "manage_main" in page
    page = see(visit, "@@zcasync-jobs?state=running", job)
    assert "wait_for_file" in page and f"@@zcasync-job?id={job}" in page
    page = visit("@@zcasync-queues")
    assert "Default queue" in page and "Oldest waits" in page and "No dispatcher takes" not in page
    page = visit("@@zcasync-dispatchers")
    assert "At work" in page and "wait_for_file" in page and 'name="pause"' not in page
    go.touch()
    page = visit(f"@@zcasync-job?id={job}")
    assert "wait_for_file" in page and "zcasync cancel" in page and "Its page in its site" not in page
    assert "<strong>Put</strong>" in page.partition('id="zcasync-timeline"')[2]
    assert '<a class="nav-link active" href="@@zcasync-overview" >Background jobs</a>' in page


def test_jobs_are_found_by_what_is_known_of_them_and_failures_are_told_by_their_cause(
    instance: Instance, server: ServerProcess, visit: Callable[..., str]
) -> None:
    job = instance.put(server, "fail", "bread")
    page = see(visit, "@@zcasync-jobs?state=failed", job)
    assert "What failed" in page and "data-zcasync-refresh" in page
    address = re.search(r'href="[^"]*/(@@zcasync-jobs\?state=failed&amp;cause=[^"]*)"', page)
    assert address
    page = visit(unescape(address[1]))
    assert job in page and "What failed" not in page and "data-zcasync-refresh" not in page
    assert job in visit("@@zcasync-jobs?state=failed&task=FAIL")
    page = visit("@@zcasync-jobs?state=failed&task=nothing")
    assert "No job of this list matches the search" in page and job not in page
    assert "state=finished&amp;task=nothing" in page
    assert 'value="&lt;b&gt;"' in visit("@@zcasync-jobs?state=failed&task=%3Cb%3E&error=%ff%00")


def test_times_are_written_as_the_readers_language_does_with_the_exact_one_on_hover(
    instance: Instance, server: ServerProcess, visit: Callable[..., str], tmp_path: Path
) -> None:
    job = instance.put(server, "wait_for_file", tmp_path / "go")
    page = visit(f"@@zcasync-job?id={job}", language="de")
    assert re.search(r'title="2\d{3}-\d\d-\d\dT[\d:.]+\+00:00" ?>\d\d\.\d\d\.2\d{3},? \d\d:\d\d:\d\d UTC<', page), page
    (tmp_path / "go").touch()


def test_nobody_but_managers_sees_them(visit: Callable[..., str]) -> None:
    for page in ("overview", "jobs", "job?id=1", "queues", "dispatchers"):
        with pytest.raises(HTTPError) as refused:
            visit(f"@@zcasync-{page}", None)
        assert refused.value.code == 401


def test_odd_input_is_answered_with_a_page(visit: Callable[..., str]) -> None:
    assert "Jobs" in visit("@@zcasync-jobs?state=odd&skip=-1")
    assert "Back to the beginning" in visit("@@zcasync-jobs?state=finished&skip=99999")
    assert "Lists are followed for" in visit("@@zcasync-jobs?state=finished&skip=100001")
    with pytest.raises(HTTPError) as missing:
        visit("@@zcasync-job?id=zzz")
    assert missing.value.code == 404
