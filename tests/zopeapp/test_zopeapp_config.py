"""zopeapp.config: each key of the section, well used and misused."""

from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.zopeapp import config
from collective.zcasync.zopeapp.config import get_settings
from collective.zcasync.zopeapp.config import read_settings
from collective.zcasync.zopeapp.config import Settings
from dataclasses import fields
from types import SimpleNamespace

import pytest

GOOD = [
    ("dispatcher", "on", True),
    ("dispatcher", "off", False),
    ("dispatcher", "ON", True),
    ("role", "embedded", "embedded"),
    ("role", "night-shift", "night-shift"),
    ("threads", "1", 1),
    ("threads", "64", 64),
    ("polite", "off", False),
    ("queues", "default", ("",)),
    ("queues", "default mail,io\n  pdf", ("", "mail", "io", "pdf")),
    ("queues", "mail mail", ("mail",)),
    ("poll-interval", "0.1", 0.1),
    ("poll-interval", "60", 60.0),
    ("deployment", "production", "production"),
    ("uuid-file", "/srv/zope/var/uuid.txt", "/srv/zope/var/uuid.txt"),
    ("shutdown-grace", "0", 0.0),
    ("shutdown-grace", "3600", 3600.0),
    ("db-name", "jobs", "jobs"),
    ("stale-after", "60", 60.0),
    ("stale-after", "604800", 604800.0),
    ("seen-file", "/srv/zope/var/seen.json", "/srv/zope/var/seen.json"),
    ("notify", "on", True),
    ("health-port", "8099", 8099),
    ("health-host", "0.0.0.0", "0.0.0.0"),
    ("health-file", "/run/zcasync/health", "/run/zcasync/health"),
    ("processes", "4", 4),
    ("max-jobs", "10000", 10000),
    ("max-minutes", "0", 0),
    ("max-megabytes", "900", 900),
    ("log-format", "json", "json"),
]

BAD = [
    ("dispatcher", "maybe", "on and off"),
    ("dispatcher", "", "on and off"),
    ("dispatcher", "true", "on and off"),
    ("role", "", "embedded or worker"),
    ("role", "two words", "embedded or worker"),
    ("threads", "0", "a whole number from 1 to 64"),
    ("threads", "65", "a whole number from 1 to 64"),
    ("threads", "many", "a whole number from 1 to 64"),
    ("threads", "1.5", "a whole number from 1 to 64"),
    ("polite", "very", "on and off"),
    ("queues", "", "names of queues"),
    ("queues", " , ", "names of queues"),
    ("poll-interval", "0.05", "a number of seconds from 0.1 to 60"),
    ("poll-interval", "61", "a number of seconds from 0.1 to 60"),
    ("poll-interval", "5s", "without a unit"),
    ("poll-interval", "nan", "a number of seconds from 0.1 to 60"),
    ("deployment", "", "a name without spaces"),
    ("deployment", "my site", "a name without spaces"),
    ("uuid-file", "uuid.txt", "an absolute path"),
    ("uuid-file", "", "an absolute path"),
    ("shutdown-grace", "-1", "from 0 to 3600"),
    ("shutdown-grace", "3601", "from 0 to 3600"),
    ("shutdown-grace", "inf", "from 0 to 3600"),
    ("db-name", "", "a name without spaces"),
    ("stale-after", "59", "from 60 to 31536000"),
    ("stale-after", "31536001", "from 60 to 31536000"),
    ("seen-file", "seen.json", "an absolute path"),
    ("notify", "postgresql", "on and off"),
    ("health-port", "65536", "a whole number from 0 to 65535"),
    ("health-host", "", "a name without spaces"),
    ("health-file", "health", "an absolute path"),
    ("processes", "0", "a whole number from 1 to 64"),
    ("max-jobs", "-1", "a whole number from 0"),
    ("max-minutes", "1.5", "a whole number from 0"),
    ("max-megabytes", "1 GB", "a whole number from 0"),
    ("log-format", "xml", "text and json"),
]


@pytest.mark.parametrize(("key", "text", "value"), GOOD)
def test_a_good_value_is_read(key: str, text: str, value: object) -> None:
    settings = read_settings({key: text})
    assert getattr(settings, key.replace("-", "_")) == value
    assert settings.given == {key}


@pytest.mark.parametrize(("key", "text", "allowed"), BAD)
def test_a_bad_value_is_refused_with_key_and_value_and_what_is_allowed(key: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_settings({key: text})
    message = str(error.value)
    assert f"{key}: {text!r} is not allowed" in message
    assert allowed in message


def test_each_setting_has_a_good_and_a_bad_value_in_these_tests() -> None:
    keys = {each.name.replace("_", "-") for each in fields(Settings)} - {"given"}
    assert {key for key, _, _ in GOOD} == keys
    assert {key for key, _, _ in BAD} == keys


def test_an_empty_section_gives_the_documented_defaults() -> None:
    assert read_settings({}) == Settings(
        dispatcher=False,
        role="embedded",
        threads=1,
        polite=True,
        queues=None,
        poll_interval=5,
        deployment="",
        uuid_file="",
        shutdown_grace=8,
        db_name="",
        stale_after=86400,
        seen_file="",
        notify=False,
    )


@pytest.mark.parametrize(
    ("key", "meant"), [("thread", "threads"), ("poll_interval", "poll-interval"), ("shutdown-grce", "shutdown-grace")]
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown key '{key}' .did you mean '{meant}'"):
        read_settings({key: "1"})


def test_an_unknown_key_that_resembles_nothing_is_refused_with_the_list_of_keys() -> None:
    with pytest.raises(ConfigurationError, match="unknown key 'zzz'; known are db-name, deployment, dispatcher"):
        read_settings({"zzz": "1"})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        read_settings({"threads": "0", "notify": "x", "colour": "red"})
    assert all(key in str(error.value) for key in ("threads", "notify", "colour"))


def test_a_section_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a plain <product-config collective.zcasync>"):
        read_settings(object())


def test_without_zope_conf_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("App.config.getConfiguration", SimpleNamespace)
    assert get_settings() == Settings()


def test_a_misspelled_section_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = SimpleNamespace(product_config={"collective.zasync": {"dispatcher": "on"}})
    monkeypatch.setattr("App.config.getConfiguration", lambda: configuration)
    assert get_settings() == Settings()
    assert config.missing_section_hint().endswith("(did you mean 'collective.zasync'?)")


def test_the_section_is_read_from_a_real_zope_conf(zope_conf: object) -> None:
    from Zope2.Startup.options import ZopeWSGIOptions

    path = zope_conf(
        "<product-config collective.zcasync>", "  Dispatcher on", "  Poll-Interval 0.5", "</product-config>"
    )
    sections = ZopeWSGIOptions(configfile=str(path))().configroot.product_config
    assert read_settings(sections["collective.zcasync"]) == Settings(dispatcher=True, poll_interval=0.5)
