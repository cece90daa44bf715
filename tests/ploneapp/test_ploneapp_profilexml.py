"""Reading zcasync.xml: what is wrong is told with line and attribute."""

from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.ploneapp import profilexml

import pytest

EXAMPLE = """<?xml version='1.0' encoding='utf-8'?>
<zcasync>
  <policy name="mail" attempts="5" first-wait="60" growth="2" longest-wait="3600" jitter="0.2" age-limit="86400" \
log-every="5">
    <on trouble="error" exception="smtplib.SMTPException" attempts="9"/>
  </policy>
  <queue name="" retention-days="7" failed-days="30">
    <quota name="io" size="2"/>
    <agent name="main" role="worker" size="3" weight="1"/>
  </queue>
</zcasync>
"""


def faults_of(source: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        profilexml.parse(source)
    return str(caught.value).splitlines()


def test_a_file_is_read_into_plain_descriptions():
    description = profilexml.parse(EXAMPLE)
    (policy,) = description.policies
    (queue,) = description.queues
    assert policy.values["longest_wait"] == 3600
    assert policy.rules[0].name == "error smtplib.SMTPException"
    assert dict(policy.rules[0].rule)["attempts"] == 9
    assert (queue.name, queue.values) == ("", {"retention_days": 7, "failed_days": 30})
    assert (queue.quotas[0].name, queue.quotas[0].values) == ("io", {"size": 2})
    assert (queue.agents[0].role, queue.agents[0].name) == ("worker", "main")
    assert not policy.update and not queue.remove


def test_what_is_read_is_written_back_as_it_was():
    assert profilexml.serialize(profilexml.parse(EXAMPLE)).decode() == EXAMPLE


def test_no_limit_is_written_as_unlimited():
    description = profilexml.parse('<zcasync><policy name="ever" attempts="unlimited"/></zcasync>')
    assert description.policies[0].values == {"attempts": None}
    assert b'attempts="unlimited"' in profilexml.serialize(description)


@pytest.mark.parametrize(
    "line, attribute, why",
    [
        ('<policy name="a" attempts="0"/>', "attempts", "from 1 to 100000, or unlimited"),
        ('<policy name="a" first-wait="soon"/>', "first-wait", "'soon'"),
        ('<policy name="a" jitter="2"/>', "jitter", "from 0 to 1"),
        ('<policy name="a" first-wait="60" longest-wait="6"/>', "first-wait", "more than longest-wait"),
        ('<policy name="a" retries="3"/>', "retries", "it has name, update, remove, attempts"),
        ('<policy name="a" first_wait="3"/>', "first_wait", "no such attribute"),
        ('<policy attempts="3"/>', "name", "needs it"),
        ('<policy name="a"><on attempts="3"/></policy>', "trouble", "needs it"),
        ('<policy name="a"><on trouble="rain"/></policy>', "trouble", "conflict, away, interruption, error, commit"),
        ('<policy name="a"><on trouble="error" exception="x"/></policy>', "exception", "dotted name"),
        ('<queue name="" retention-days="-1"/>', "retention-days", "more than 0"),
        ('<queue name="" time-limit="0"/>', "time-limit", "seconds from 1"),
        ('<queue name="" default-priority="99"/>', "default-priority", "from -16 to 15"),
        ('<queue name=""><quota name="io" size="many"/></queue>', "size", "whole numbers from 1"),
        ('<queue name=""><quota name=""/></queue>', "name", "allowed is text"),
        ('<queue name=""><agent name="main"/></queue>', "role", "needs it"),
        ('<queue name=""><agent name="main" role="worker" size="65"/></queue>', "size", "from 1 to 64"),
        ('<queue name="" update="yes"/>', "update", "'true' and 'false'"),
        ('<queue name="" update="true" remove="true"/>', "update", "at once"),
    ],
)
def test_a_wrong_attribute_is_told_with_its_line(line, attribute, why):
    (fault,) = faults_of(f"<zcasync>\n\n{line}\n</zcasync>")
    assert fault.startswith(f"zcasync.xml, line 3, attribute {attribute!r}: ")
    assert why in fault


def test_all_faults_are_told_at_once():
    faults = faults_of(
        '<zcasync>\n<policy name="a" attempts="0"/>\n<queue name="">\n<quota size="1"/>\n</queue>\n</zcasync>'
    )
    assert [fault.split(",")[1] for fault in faults] == [" line 2", " line 4"]


def test_a_name_twice_is_told_with_both_lines():
    (fault,) = faults_of('<zcasync>\n<policy name="a"/>\n<policy name="a"/>\n</zcasync>')
    assert fault.startswith("zcasync.xml, line 3, attribute 'name': ")
    assert "in line 2" in fault


def test_agents_of_different_roles_may_bear_one_name():
    source = '<zcasync><queue name=""><agent name="a" role="x"/><agent name="a" role="y"/></queue></zcasync>'
    assert len(profilexml.parse(source).queues[0].agents) == 2


@pytest.mark.parametrize(
    "source, fault",
    [
        ("<zcasync>\n<job/>\n</zcasync>", "zcasync.xml, line 2: <job> does not belong into <zcasync>"),
        ("<zcasync>\n<policy>\n</zcasync>", "zcasync.xml, line 3: this is no XML"),
        ("\n<queues/>", "zcasync.xml, line 2: <queues> is not <zcasync>"),
        ('<zcasync colour="red"/>', "zcasync.xml, line 1, attribute 'colour'"),
    ],
)
def test_what_does_not_belong_into_the_file_is_told(source, fault):
    assert faults_of(source)[0].startswith(fault)


def test_entities_are_not_resolved():
    source = (
        '<!DOCTYPE zcasync [<!ENTITY x SYSTEM "file:///etc/hostname">]><zcasync><policy name="a">&x;</policy></zcasync>'
    )
    assert profilexml.parse(source.replace("&x;", "")).policies[0].name == "a"
    assert any("does not belong" in fault for fault in faults_of(source))


def test_the_priority_and_the_time_limit_of_a_queue_are_read_and_written() -> None:
    first, second = '<queue name="" default-priority="-3" time-limit="90"/>', '<queue name="a" time-limit="unlimited"/>'
    description = profilexml.parse(f"<zcasync>{first}{second}</zcasync>")
    assert [node.values for node in description.queues] == [
        {"default_priority": -3, "time_limit": 90.0},
        {"time_limit": None},
    ]
    assert profilexml.parse(profilexml.serialize(description)) is not None
    assert b'default-priority="-3"' in profilexml.serialize(description)
