"""The instance that `make start` makes: laid out once, then left as its owner wants it."""

from pathlib import Path

import instance
import pytest
import socket


@pytest.fixture
def made(tmp_path: Path) -> instance.Instance:
    return instance.make_instance(tmp_path / "instance", port=8123)


def test_a_new_instance_switches_the_dispatcher_on(made: instance.Instance) -> None:
    conf = made.zope_conf.read_text()
    assert "<product-config collective.zcasync>\n  dispatcher on\n  threads 1\n" in conf
    assert f"%define INSTANCE {made.folder}\n" in conf
    assert made.url == "http://localhost:8123/Plone"


def test_only_its_owner_reads_the_password(made: instance.Instance) -> None:
    path = made.folder / "etc" / "admin-password"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(made.password) >= 12
    assert made.password in instance.describe(made)


def test_making_it_again_changes_nothing(made: instance.Instance) -> None:
    made.zope_conf.write_text(made.zope_conf.read_text() + "# mine\n")
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    instance.make_instance(made.folder, port=9999)
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before


def test_threads_and_their_connections_can_be_changed(made: instance.Instance) -> None:
    instance.make_instance(made.folder, threads=4)
    conf = made.zope_conf.read_text()
    assert "  threads 4\n" in conf
    assert f"  pool-size {4 + instance.OTHER_CONNECTIONS}\n" in conf


def test_a_taken_port_is_noticed_and_another_is_claimed(made: instance.Instance) -> None:
    with socket.socket() as other:
        other.bind((instance.HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        claimed = instance.claim_port(made, taken)
        assert claimed != taken
        assert made.port == claimed
    assert instance.free_port(taken) == taken


def test_an_instance_has_no_site_before_one_is_made(made: instance.Instance) -> None:
    assert not made.has_site
    assert instance.holder(made) is None


def test_a_zope_ini_without_a_port_is_a_clear_error(made: instance.Instance) -> None:
    made.zope_ini.write_text("[server:main]\n")
    with pytest.raises(SystemExit, match="No line 'port = NUMBER'"):
        made.port  # noqa: B018
