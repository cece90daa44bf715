"""Queues, quotas, agents and retry policies are made, changed and removed by functions that all faces share."""

from collections.abc import Iterator
from collective.zcasync import clock
from collective.zcasync import policyactions
from collective.zcasync import queueactions
from collective.zcasync import tasks
from collective.zcasync.agent import Agent
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import PolicyNotFound
from collective.zcasync.exceptions import QuotaNotFound
from collective.zcasync.job import Job
from collective.zcasync.queue import install
from collective.zcasync.testing import wait_for_result
from datetime import timedelta
from typing import Any
from ZODB.POSException import ConflictError

import pytest
import transaction
import uuid


@pytest.fixture
def home(open_database: Any) -> Iterator[Any]:
    home = open_database().open()
    install(home)
    transaction.commit()
    yield home
    transaction.abort()


@pytest.fixture
def queues(home: Any) -> Any:
    return install(home)


def test_a_queue_is_made_with_its_numbers_for_its_owner(home: Any, queues: Any) -> None:
    queues[""].hold_group("gone")
    queue = queueactions.create_queue(home, "mail", "site", retention_days=0.5, failed_days=90, retention_jobs=10)
    assert queues["mail"] is queue
    assert (queue.owner, queue.retention_days, queue.failed_days, queue.retention_jobs) == ("site", 0.5, 90, 10)
    assert queue.held_groups == ("gone",)
    with pytest.raises(InvalidValueError, match="there is a queue 'mail' already"):
        queueactions.create_queue(home, "mail")


@pytest.mark.parametrize("name", ["", "9", "a b", "a/b", "é", "x" * 65, "mail\n", None, 5])
def test_names_that_cannot_stand_in_code_and_urls_are_refused(home: Any, queues: Any, name: Any) -> None:
    for make in (
        lambda: queueactions.create_queue(home, name),
        lambda: queueactions.set_quota(queues[""], name, 1),
        lambda: queueactions.set_agent(queues[""], name, "main"),
        lambda: queueactions.set_agent(queues[""], "worker", name),
        lambda: policyactions.create_policy(queues, name),
    ):
        with pytest.raises(InvalidValueError, match="is not allowed; use at most 64 letters"):
            make()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"retention_days": 0}, "retention_days: 0 is not allowed; allowed are numbers from 0.01 to 36500.0"),
        ({"failed_days": float("nan")}, "failed_days: nan is not allowed"),
        ({"retention_jobs": 1.5}, "retention_jobs: 1.5 is not allowed; allowed are whole numbers from 0 to 100000000"),
        ({"retention_jobs": True}, "retention_jobs: True is not allowed"),
        ({"owner": "me"}, "owner: there is no such number here; there are retention_days, failed_days"),
    ],
)
def test_wrong_numbers_change_nothing(queues: Any, numbers: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        queueactions.change_queue(queues[""], **{"failed_days": 5, **numbers})
    assert said in str(caught.value)
    assert queues[""].failed_days == 30


def test_a_change_tells_whether_there_was_one(queues: Any) -> None:
    assert queueactions.change_queue(queues[""], failed_days=5)
    assert not queueactions.change_queue(queues[""], failed_days=5)


def test_a_queue_with_jobs_that_have_not_ended_stays_and_says_why(home: Any, queues: Any) -> None:
    queue = queueactions.create_queue(home, "mail")
    job = queue.put(Job(len, ()))
    transaction.commit()
    with pytest.raises(InUse, match="holds jobs that have not ended .waiting 1.. Let them run or cancel them"):
        queueactions.remove_queue(queue)
    queue.remove(job)
    queueactions.remove_queue(queue)
    transaction.commit()
    assert "mail" not in queues
    with pytest.raises(InUse, match="default queue cannot be removed"):
        queueactions.remove_queue(queues[""])


@pytest.mark.parametrize("put_first", [True, False])
def test_no_job_is_lost_in_a_queue_that_is_removed_at_the_moment_of_its_put(
    home: Any, queues: Any, open_database: Any, put_first: bool
) -> None:
    queueactions.create_queue(home, "mail")
    transaction.commit()
    manager = transaction.TransactionManager()
    other = open_database().open(manager)
    queueactions.remove_queue(queues["mail"])
    install(other)["mail"].put(Job(len, ()))
    first, second = (manager, transaction.manager) if put_first else (transaction.manager, manager)
    first.commit()
    with pytest.raises(ConflictError):
        second.commit()
    second.abort()
    other.close()


def test_a_dispatcher_goes_on_when_one_of_its_queues_is_removed(queue: Any, dispatch: Any) -> None:
    mail = queueactions.create_queue(queue._p_jar, "mail")
    job = mail.put(Job(len, "a"))
    transaction.commit()
    dispatch(threads=1)
    assert wait_for_result(job) == 1

    def remove() -> bool:
        transaction.begin()
        try:
            queueactions.remove_queue(mail)
            transaction.commit()
            return True
        except (ConflictError, InUse):  # it has to sweep up the job first
            transaction.abort()
            return False

    assert any(remove() or wait_for_result(queue_job(queue)) for _number in range(100))
    assert wait_for_result(queue_job(queue)) == 2


def queue_job(queue: Any) -> Any:
    """A job in the queue that stays."""
    job = queue.put(Job(len, "ab"))
    transaction.commit()
    return job


def test_quotas_are_made_resized_and_removed(queues: Any) -> None:
    queue = queues[""]
    queueactions.set_quota(queue, "io", 2, "site")
    assert (queue.quotas["io"].size, queue.owners["quota:io"]) == (2, "site")
    queueactions.set_quota(queue, "io", 3, "another")
    assert (queue.quotas["io"].size, queue.owners["quota:io"]) == (3, "site")
    with pytest.raises(InvalidValueError, match="size of the quota 'io': 0 is not allowed"):
        queueactions.set_quota(queue, "io", 0)
    queueactions.remove_quota(queue, "io")
    assert "io" not in queue.quotas and "quota:io" not in queue.owners
    with pytest.raises(QuotaNotFound, match="the queue '' has no quota 'io'; it has: none"):
        queueactions.remove_quota(queue, "io")


def test_agents_follow_their_template(queues: Any) -> None:
    queue = queues[""]
    key = uuid.uuid4()
    queue.dispatchers.register(key)
    queue.dispatchers[key].activate()
    queue.dispatchers[key].process = {"role": "worker"}
    queue.dispatchers[key]["main"] = agent = Agent()
    queueactions.set_agent(queue, "worker", "main", "site", size=7)
    assert (agent.size, agent.weight, agent.prefetch) == (7, 1, 64)
    queueactions.set_agent(queue, "worker", "main", "another", weight=2)
    assert (agent.size, agent.weight) == (7, 2)
    assert queue.owners["agent:worker/main"] == "site"
    with pytest.raises(InvalidValueError, match="size: 65 is not allowed; allowed are whole numbers from 1 to 64"):
        queueactions.set_agent(queue, "worker", "main", size=65)
    queueactions.remove_agent(queue, "worker", "main")
    assert "worker" not in queue.templates and "agent:worker/main" not in queue.owners
    with pytest.raises(InvalidValueError, match="has no agent 'main' for dispatchers in the role 'worker'"):
        queueactions.remove_agent(queue, "worker", "main")


def test_a_policy_is_made_changed_and_removed(queues: Any) -> None:
    rules = [{"trouble": "error", "exception": "smtplib.SMTPException", "attempts": 9}]
    policy = policyactions.create_policy(queues, "mail", "site", attempts=3, rules=rules)
    assert (policy.owner, policy.attempts, len(policy.rules)) == ("site", 3, 1)
    with pytest.raises(InvalidValueError, match="there is a policy 'mail' already"):
        policyactions.create_policy(queues, "mail")
    with pytest.raises(InvalidValueError, match="attempts: 0 is not allowed"):
        policyactions.create_policy(queues, "other", attempts=0)
    assert "other" not in queues.policies
    assert policyactions.change_policy(policy, attempts=4)
    assert not policyactions.change_policy(policy, attempts=4)
    policyactions.remove_policy(queues, "mail")
    with pytest.raises(PolicyNotFound, match="there is no retry policy 'mail'; there are: none"):
        policyactions.remove_policy(queues, "mail")


def test_a_policy_that_is_used_stays_and_says_by_whom(queues: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policyactions.create_policy(queues, "mail")
    for number in range(6):
        name = f"engine.mails.{number}"
        monkeypatch.setitem(tasks.registry, name, tasks.Task(len, name=name, policy="mail"))
    queues[""].put(Job(len, ()), retry_policy_factory="mail")
    later = Job(len, ())
    later.policy = "mail"
    queues[""].put(later, begin_after=clock.utcnow() + timedelta(hours=1))
    transaction.commit()
    with pytest.raises(InUse) as caught:
        policyactions.remove_policy(queues, "mail")
    assert str(caught.value) == (
        "The retry policy 'mail' cannot be removed: tasks use it (engine.mails.0, engine.mails.1, engine.mails.2,"
        " engine.mails.3, engine.mails.4 and 1 more) and jobs that have not ended use it (2). Let them name another one"
        " first."
    )


def test_a_look_for_users_ends_after_so_many_jobs(queues: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policyactions, "LOOK", 2)
    for _number in range(3):
        queues[""].put(Job(len, ()), retry_policy_factory="mail")
    use = policyactions.policy_use(queues, "mail")
    assert (use.jobs.number, use.jobs.more, str(use)) == (2, True, "jobs that have not ended use it (2 or more)")


def test_the_policy_default_is_used_by_all_who_name_none(queues: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policyactions.create_policy(queues, "default")
    monkeypatch.setattr(tasks, "registry", {})
    assert not policyactions.policy_use(queues, "default")
    assert str(policyactions.policy_use(queues, "default")) == "nobody uses it"
    queues[""].put(Job(len, ()))
    assert policyactions.policy_use(queues, "default").jobs.number == 1


def test_the_waits_of_a_policy_end_where_it_gives_up() -> None:
    def seconds(**numbers: Any) -> list[float]:
        policy = ConfiguredPolicy("any", **{"first_wait": 1.0, "jitter": 0.5, **numbers})
        return [wait.total_seconds() for wait in policyactions.waits(policy)]

    assert seconds(attempts=4) == [1, 2, 4]
    assert seconds(attempts=None, longest_wait=5.0) == [1, 2, 4, 5, 5, 5, 5, 5, 5, 5]
    assert seconds(attempts=None, age_limit=5.0) == [1, 2, 4]
    assert seconds(attempts=1) == []
