"""Who a process is, and whether another one is gone."""

from collective.zcasync import instanceuuid
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.interfaces import IUUID

import json
import os
import pytest
import subprocess
import sys
import uuid


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in instanceuuid.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_without_a_file_is_somebody_new_each_time():
    assert instanceuuid.getUUID() != instanceuuid.getUUID()
    assert IUUID.providedBy(instanceuuid.getUUID())


def test_a_file_is_made_once_and_keeps_the_name(tmp_path):
    path = tmp_path / "uuid.txt"
    first = instanceuuid.new_uuid(str(path))
    assert instanceuuid.new_uuid(str(path)) == first
    assert "must not" in path.read_text() and path.read_text().startswith(f"{first}\n")


@pytest.mark.parametrize("name", ["ZCASYNC_UUID", "ZC_ASYNC_UUID"])
def test_the_environment_may_name_the_file(name, tmp_path, monkeypatch):
    path = tmp_path / "uuid.txt"
    named = uuid.uuid4()
    path.write_text(f"{named}\n")
    monkeypatch.setenv(name, str(path))
    assert instanceuuid.getUUID() == named


def test_a_file_that_holds_something_else_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "uuid.txt"
    path.write_text("hello\n")
    with pytest.raises(ConfigurationError, match=r"uuid\.txt is 'hello'.*delete the file"):
        instanceuuid.new_uuid(str(path))


def test_a_file_in_a_place_that_does_not_exist_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigurationError, match="uuid-file: .*nowhere"):
        instanceuuid.new_uuid(str(tmp_path / "nowhere" / "uuid.txt"))


def test_this_process_is_not_gone():
    identity = instanceuuid.process_identity()
    assert identity["pid"] == os.getpid()
    assert json.loads(json.dumps(identity)) == identity
    assert instanceuuid.process_is_gone(identity) is False


def test_a_process_that_ended_is_gone_also_before_it_is_collected():
    code = (
        "import json; from collective.zcasync.instanceuuid import process_identity;"
        "print(json.dumps(process_identity()), flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        identity = json.loads(process.stdout.readline())
        assert instanceuuid.process_is_gone(identity) is False
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but its remains are still there
        assert instanceuuid.process_is_gone(identity) is True
    assert instanceuuid.process_is_gone(identity) is True


def test_another_process_under_the_same_number_does_not_count():
    identity = instanceuuid.process_identity()
    identity["started"] -= 1
    assert instanceuuid.process_is_gone(identity) is True


def test_of_another_machine_or_container_nothing_is_known(monkeypatch):
    identity = instanceuuid.process_identity()
    assert instanceuuid.process_is_gone({**identity, "pid_namespace": "pid:[1]"}) is None
    assert instanceuuid.process_is_gone({}) is None
    assert instanceuuid.process_is_gone({**identity, "pid": None}) is None
    monkeypatch.setenv("ZCASYNC_BOOT_ID", "another machine")
    assert instanceuuid.process_is_gone(identity) is None
    assert instanceuuid.process_is_gone(instanceuuid.process_identity()) is False
