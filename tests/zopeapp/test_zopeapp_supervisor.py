"""zopeapp.crew and zopeapp.supervisor: who is started again, when, and what becomes of all at a stop."""

from collections.abc import Callable
from collections.abc import Iterator
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.zopeapp import crew
from collective.zcasync.zopeapp import supervised
from collective.zcasync.zopeapp import supervisor
from collective.zcasync.zopeapp.config import Settings
from collective.zcasync.zopeapp.crew import Crew
from instance import free_port
from pathlib import Path
from serverprocess import PATIENCE
from serverprocess import server_port
from urllib.request import urlopen
from zopeinstance import Instance
from zopeinstance import ZEO_CLIENT

import io
import itertools
import os
import pytest
import re
import signal
import sys
import threading
import time
import ZEO

_pids = itertools.count(1000)


class Fake:
    """Stands for a worker's process."""

    def __init__(self) -> None:
        self.pid = next(_pids)
        self.code: int | None = None
        self.told: list[str] = []
        self.said: tuple[float, str] | None = (0.0, "ok")

    def poll(self) -> int | None:
        return self.code

    def tell(self, word: str) -> None:
        self.told.append(word)

    def kill(self) -> None:
        self.code = -signal.SIGKILL

    def sign(self) -> tuple[float, str] | None:
        return self.said


class World:
    """A crew with fake processes, and its clock."""

    def __init__(self, count: int, **options: object) -> None:
        self.begun: list[tuple[int, Fake]] = []
        self.now = 0.0
        self.crew = Crew(count, self._begin, **options)
        self.result = self.crew.look(0.0)

    def _begin(self, number: int) -> Fake:
        self.begun.append((number, Fake()))
        return self.begun[-1][1]

    def wait(self, seconds: float) -> "World":
        """Let time pass, in steps as the supervisor's."""
        end = self.now + seconds
        while self.now < end and self.result is None:
            self.now = min(end, self.now + crew.EVERY)
            self.result = self.crew.look(self.now)
        return self

    def last(self, number: int) -> Fake:
        """The newest process of a worker."""
        return [process for own, process in self.begun if own == number][-1]

    def starts(self, number: int) -> int:
        return sum(own == number for own, _process in self.begun)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


def test_all_workers_are_started_at_once() -> None:
    assert [number for number, _process in World(3).begun] == [1, 2, 3]


def test_a_worker_that_dies_is_started_again_and_the_others_are_left_alone(log: pytest.LogCaptureFixture) -> None:
    world = World(2)
    world.last(1).code = -signal.SIGSEGV
    world.wait(2)
    assert (world.starts(1), world.starts(2)) == (2, 1)
    assert re.search(r"Worker 1 \(pid \d+\) was ended by SIGSEGV after 1 s; the next one starts in 1 s", log.text)


def test_the_waits_between_failed_starts_grow_to_a_limit() -> None:
    world, waits = World(1), []
    for _ in range(9):
        world.last(1).code = 1
        world.wait(crew.EVERY)
        ended, starts = world.now, world.starts(1)
        while world.starts(1) == starts:
            world.wait(crew.EVERY)
        waits.append(world.now - ended)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_worker_that_has_lived_long_is_no_failed_start() -> None:
    world = World(1)
    for _ in range(5):
        world.wait(2 * crew.LONG_LIFE)
        world.last(1).code = 3
        world.wait(2)
    assert world.starts(1) == 6


def test_a_worker_that_has_run_its_share_is_replaced_without_a_wait(log: pytest.LogCaptureFixture) -> None:
    world = World(1).wait(2 * crew.SHORT_LIFE)
    world.last(1).code = 4
    world.wait(crew.EVERY)
    assert world.starts(1) == 2
    assert "has run its share; the next one starts" in log.text
    assert "ERROR" not in log.text


def test_a_share_that_is_reached_at_once_makes_no_storm_of_starts() -> None:
    world = World(1)
    for _ in range(60):
        world.last(1).code = 4
        world.wait(crew.EVERY)
    assert world.starts(1) < 8


def test_a_process_that_cannot_be_started_is_tried_again(log: pytest.LogCaptureFixture) -> None:
    failures = [OSError("no memory"), OSError("no memory")]

    def begin(number: int) -> Fake:
        if failures:
            raise failures.pop()
        return Fake()

    one = Crew(1, begin)
    for now in range(10):
        one.look(float(now))
    assert log.text.count("cannot be started: no memory") == 2
    assert one.members[0].process is not None


def test_wrong_use_that_the_first_workers_meet_ends_all_with_its_code() -> None:
    world = World(3)
    for number in (1, 2, 3):
        world.last(number).said = None
    world.last(2).code = 2
    world.wait(1)
    assert world.last(1).told == ["stop"]
    world.last(1).code = world.last(3).code = 0
    assert world.wait(1).result == 2


def test_wrong_use_that_comes_later_is_tried_again() -> None:
    world = World(2).wait(5)
    world.last(1).code = 2
    assert world.wait(5).result is None
    assert world.starts(1) == 2


@pytest.mark.parametrize(("codes", "result"), [((0, 0), 0), ((4, 0), 0), ((0, 1), 1), ((-9, 0), 1)])
def test_a_stop_waits_for_all_and_tells_whether_all_ended_well(codes: tuple[int, int], result: int) -> None:
    world = World(2)
    world.crew.stop(world.now)
    assert world.crew.state()[1] == "leaving"
    assert [world.last(number).told for number in (1, 2)] == [["stop"], ["stop"]]
    world.last(1).code = codes[0]
    assert world.wait(3).result is None
    world.last(2).code = codes[1]
    assert world.wait(1).result == result
    assert len(world.begun) == 2


def test_a_second_signal_is_passed_on_and_a_third_one_ends_the_workers() -> None:
    world = World(1)
    world.crew.stop(0)
    world.crew.stop(0)
    assert world.last(1).told == ["stop", "now"]
    assert world.wait(1).result is None
    world.crew.stop(0)
    assert world.wait(1).result == 1


def test_a_worker_that_does_not_stop_is_killed_after_its_grace(log: pytest.LogCaptureFixture) -> None:
    world = World(1, grace=5)
    world.crew.stop(0)
    assert world.wait(5 + crew.BEYOND_GRACE).result is None
    assert world.wait(3).result == 1
    assert "does not stop: it is killed" in log.text


def test_a_worker_without_a_sign_of_life_is_killed_and_started_again(log: pytest.LogCaptureFixture) -> None:
    world = World(1).wait(crew.SILENT - 5)
    assert world.starts(1) == 1
    world.last(1).said = (1.0, "ok")
    world.wait(crew.SILENT - 5)
    assert world.starts(1) == 1
    world.wait(10)
    assert world.starts(1) == 2
    assert "has given no sign of life for" in log.text


def test_time_in_which_the_supervisor_itself_stood_still_is_no_silence() -> None:
    world = World(1).wait(5)
    world.now += 10 * crew.SILENT
    world.wait(5)
    assert world.starts(1) == 1


def test_a_worker_that_takes_its_time_to_start_is_left_alone() -> None:
    world = World(1)
    world.last(1).said = None
    world.wait(5 * crew.SILENT)
    assert world.starts(1) == 1
    assert world.crew.state()[1] == "starting"


def test_the_supervisor_is_ready_as_soon_as_one_worker_is() -> None:
    world = World(2)
    world.last(1).said = (0.0, "database")
    world.last(2).said = None
    world.wait(1)
    assert world.crew.state()[1] == "database"
    world.last(2).said = (0.0, "ok")
    world.wait(1)
    assert world.crew.state()[1] == ""


def test_the_supervisor_tells_which_workers_live_and_are_ready_and_how_often_they_were_replaced() -> None:
    world = World(2).wait(2 * crew.SHORT_LIFE)
    world.last(1).code = 4
    world.wait(crew.EVERY)
    for _ in range(2):
        world.last(2).code = -9
        world.wait(crew.EVERY * 3)
    world.last(2).code = 1
    world.wait(crew.EVERY)
    page = supervisor.pages(world.crew)["/metrics"]()
    told = {line for line in page.text.splitlines() if line.startswith("zcasync_supervisor")}
    assert page.status == 200 and told == {
        'zcasync_supervisor_worker_alive{worker="1"} 1.0',
        'zcasync_supervisor_worker_alive{worker="2"} 0.0',
        'zcasync_supervisor_worker_ready{worker="1"} 1.0',
        'zcasync_supervisor_worker_ready{worker="2"} 0.0',
        'zcasync_supervisor_worker_ends_total{why="recycled",worker="1"} 1.0',
        'zcasync_supervisor_worker_ends_total{why="failed",worker="1"} 0.0',
        'zcasync_supervisor_worker_ends_total{why="recycled",worker="2"} 0.0',
        'zcasync_supervisor_worker_ends_total{why="failed",worker="2"} 3.0',
    }


@pytest.mark.parametrize(("codes", "result"), [((0, 0), 0), ((0, 1), 1), ((-11, 0), 1)])
def test_once_is_over_when_all_are_and_none_is_started_again(codes: tuple[int, int], result: int) -> None:
    world = World(2, once=True)
    world.last(1).code, world.last(2).code = codes
    assert world.wait(1).result == result
    assert len(world.begun) == 2


def test_once_goes_on_after_a_share() -> None:
    world = World(1, once=True).wait(20)
    world.last(1).code = 4
    assert world.wait(1).result is None
    world.last(1).code = 0
    assert world.wait(1).result == 0


def test_each_worker_has_a_port_of_its_own_and_no_workers_below_it(tmp_path: Path) -> None:
    settings = Settings(processes=3, health_port=8100)
    options = [supervisor.own_options(settings, number, tmp_path / str(number)) for number in (1, 3)]
    assert [one[-1] for one in options] == ["8101", "8103"]
    assert all(one[:2] == ["--processes", "1"] for one in options)
    assert supervisor.own_options(Settings(), 2, tmp_path)[-1] == "0"


def test_one_uuid_for_several_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZC_ASYNC_UUID", "0" * 32)
    with pytest.raises(ConfigurationError, match="ZC_ASYNC_UUID"):
        supervisor.supervise([], Settings(processes=2), once=False)


@pytest.fixture
def obeyed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bool], int]]:
    """How many signals a worker sends to itself at these lines, if one has come before or not."""

    def obey(lines: str, stopping: bool) -> int:
        sent: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdin", io.StringIO(lines))
            patched.setattr(supervised.starting, "stopping", lambda: stopping or bool(sent))
            patched.setattr(os, "kill", lambda pid, number: sent.append(number))
            supervised.obey()
        return len(sent)

    yield obey


@pytest.mark.parametrize(
    ("lines", "stopping", "signals"),
    [("", False, 1), ("stop\n", False, 1), ("stop\n", True, 0), ("stop\nnow\n", False, 2), ("stop\nnow\n", True, 1)],
)
def test_a_worker_stops_once_when_told_or_left_alone_and_at_once_when_told_so(
    obeyed: Callable[[str, bool], int], lines: str, stopping: bool, signals: int
) -> None:
    assert obeyed(lines, stopping) == signals


def test_a_worker_gets_the_path_of_its_supervisor_and_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a buildout, whose scripts have a path that nobody else knows.
    module = tmp_path / "collective" / "zcasync" / "zopeapp" / "supervised.py"
    module.parent.mkdir(parents=True)
    module.write_text("def work(number, arguments):\n    return number + len(arguments)\n")
    library = [path for path in sys.path if path.startswith(sys.base_prefix) and not path.endswith("-packages")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *library])
    process = supervisor.WorkerProcess(["worker", "-C", "zope.conf"], 40, tmp_path / "health")
    assert process._process.wait(PATIENCE) == 43
    process.tell("stop")  # nobody hears it any more
    assert process.sign() is None
    assert process.poll() == 43
    assert process._pipe.closed


# Real processes

#: Seconds for a start: in a new database one worker waits until the other has set it up.
WAIT = 2 * PATIENCE


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Instance]:
    """An instance on ZEO, whose client has a cache file of its own and whose dispatcher a UUID of its own."""
    (host, port), stop = ZEO.server(str(tmp_path / "zeo.fs"), port=("127.0.0.1", 0))
    storage = ZEO_CLIENT.format(host=host, port=port).replace("storage 1", "storage 1\n    client cache")
    instance = Instance(tmp_path / "instance", storage=storage)
    uuid = tmp_path / "uuid"
    instance.write_zope_conf("<product-config collective.zcasync>", f"  uuid-file {uuid}", "</product-config>")
    yield instance
    instance.close()
    stop()


def ports(count: int) -> int:
    """The first of so many free ports in a row."""
    first = server_port()
    while any(free_port(port) != port for port in range(first, first + count)):
        first += count
    return first


def metrics(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as page:
        return str(page.read().decode())


def wait_for_text(file: Path, text: str) -> None:
    """Until the file holds that."""
    glance, end = threading.Event(), time.monotonic() + PATIENCE
    while not file.exists() or file.read_text() != text:
        assert time.monotonic() < end
        glance.wait(0.05)


def test_two_workers_share_a_zope_conf_and_one_that_is_killed_comes_back(shared: Instance, tmp_path: Path) -> None:
    file, runs = tmp_path / "health", r'Worker (%s) runs jobs.*"process": (%s)\b'
    port = ports(3)
    health = ("--health-file", file, "--health-port", str(port))
    options = ("--processes", "2", "--threads", "1", *health, "--log-format", "json")
    process = shared.start("zcasync", "worker", "-C", shared.zope_conf, *options)
    uuid, pid = process.wait_for(runs % (r"\S{36}", r"\d+"), WAIT).groups()
    other = process.wait_for(runs % (rf"(?!{uuid})\S{{36}}", r"\d+"), WAIT)[1]
    number = process.wait_for(rf"Worker (\d) \(pid {pid}\) started")[1]
    os.kill(int(pid), signal.SIGKILL)
    process.wait_for(rf"Worker {number} \(pid {pid}\) was ended by SIGKILL")
    assert "ended with exit code" not in process.output, "one sets up the new database, and the other waits"
    again = process.wait_for(runs % (rf"(?!{other})\S{{36}}", rf"(?!{pid}\b)\d+"), WAIT)[1]
    assert again == uuid, "it has its uuid-file"
    wait_for_text(file, "ok\n")
    assert f'zcasync_supervisor_worker_ends_total{{why="failed",worker="{number}"}} 1.0' in metrics(port)
    for own in (port + 1, port + 2):
        assert "zcasync_process_dispatchers 1.0" in metrics(own)
    own = [line for line in process.lines if f'"process": {process.pid}' in line]
    assert not any("ClientStorage" in line for line in own), "the supervisor opens no database"
    assert process.stop() == 0
    assert process.output.count("Dispatcher stopped") == 2
    assert not file.exists()


def test_workers_stop_when_their_supervisor_is_gone(shared: Instance) -> None:
    process = shared.start("zcasync", "worker", "-C", shared.zope_conf, "--processes", "2")
    process.wait_for(r"Worker \S{36} runs jobs", WAIT)
    process.send(signal.SIGKILL)
    process.wait_for("The supervisor is gone")
    process.wait()  # all who write to its output have ended
    assert "Dispatcher stopped" in process.output


def test_a_zope_conf_that_no_worker_can_use_ends_the_supervisor_too(shared: Instance) -> None:
    shared.write_zope_conf("<product-config collective.zcasync>", "  db-name nowhere", "</product-config>")
    process = shared.start("zcasync", "worker", "-C", shared.zope_conf, "--processes", "2")
    assert process.wait(WAIT) == 2
    assert "zcasync: db-name: zope.conf has no database 'nowhere'" in process.output
