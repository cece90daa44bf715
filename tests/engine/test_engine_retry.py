"""Retry policies: what they answer to each kind of trouble, and how the policy of a job is found."""

from collective.zcasync import clock
from collective.zcasync import retry
from collective.zcasync.configuredpolicy import check_numbers
from collective.zcasync.configuredpolicy import make_rule
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import PolicyNotFound
from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import IJob
from collective.zcasync.interfaces import IRetryPolicy
from collective.zcasync.retry import ConfiguredPolicy
from collective.zcasync.retry import NeverRetry
from collective.zcasync.retry import policy_for
from collective.zcasync.retry import RetryCommonForever
from collective.zcasync.retry import RetryCommonFourTimes
from datetime import datetime
from datetime import timedelta
from datetime import UTC
from transaction.interfaces import DoomedTransaction
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import ConflictError
from ZODB.POSException import ReadConflictError
from zope.component import getGlobalSiteManager
from zope.interface import implementer
from zope.interface import Interface
from zope.interface.verify import verifyObject

import logging
import pytest
import smtplib
import ZODB

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)

CONFLICT = Failure(ConflictError())
AWAY = Failure(ClientDisconnected())
ERROR = Failure(ValueError("wrong"))


class Job:
    """What a policy sees of a job."""

    id = "1f"
    task = "addon.jobs.publish"
    retry_policy_factory = None
    policy = None
    is_callback = False
    active_start = None
    put_at = NOON
    begin_after = None

    def __init__(self, policies=None, **attributes):
        self.policy_data = {}
        self._policies = policies or {}
        self.__dict__.update(attributes)

    def policies(self):
        return self._policies


@pytest.fixture(autouse=True)
def noon():
    clock.set_now(NOON)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "collective.zcasync")
    return caplog


@pytest.fixture
def register():
    manager = getGlobalSiteManager()
    registered = []

    def register(factory, name=""):
        manager.registerAdapter(factory, (Interface,), IRetryPolicy, name)
        registered.append((factory, name))

    yield register
    for factory, name in registered:
        manager.unregisterAdapter(factory, (Interface,), IRetryPolicy, name)


def steady(**numbers):
    return ConfiguredPolicy("mail", **{"jitter": 0.0, **numbers})


class NotOnce(RetryCommonFourTimes):
    max_interruptions = 0


class JustOnce(RetryCommonFourTimes):
    max_interruptions = 1


def seconds(answers):
    return [answer.total_seconds() if isinstance(answer, timedelta) else answer for answer in answers]


def answers(decide, failure, count, cache=None):
    cache = {} if cache is None else cache
    return seconds([decide(failure, cache) for _ in range(count)])


@pytest.mark.parametrize(
    "policy",
    [
        RetryCommonFourTimes(Job()),
        RetryCommonForever(Job()),
        NeverRetry(Job()),
        ConfiguredPolicy("mail").bind(Job()),
    ],
)
def test_the_policies_keep_the_contract_and_know_their_job(policy):
    assert verifyObject(IRetryPolicy, policy)
    assert policy.parent is policy.__parent__
    assert policy.parent.task == "addon.jobs.publish"


def test_trouble_is_away_before_it_is_a_conflict():
    assert retry.trouble(ClientDisconnected()) == retry.trouble(AWAY) == "away"
    assert retry.trouble(ReadConflictError()) == retry.trouble(CONFLICT) == "conflict"
    assert retry.trouble(ValueError()) == retry.trouble(ERROR) == "error"


@pytest.mark.parametrize("stage", ["jobError", "commitError"])
def test_four_times_makes_five_attempts_at_conflicts(stage):
    policy = RetryCommonFourTimes(Job())
    assert answers(getattr(policy, stage), CONFLICT, 5) == [True, True, True, True, False]


def test_conflicts_in_job_and_commit_are_counted_together():
    policy, cache = RetryCommonFourTimes(Job()), {}
    assert answers(policy.jobError, CONFLICT, 2, cache) == [True, True]
    assert answers(policy.commitError, CONFLICT, 3, cache) == [True, True, False]


@pytest.mark.parametrize("policy", [RetryCommonFourTimes(Job()), RetryCommonForever(Job())])
@pytest.mark.parametrize("stage", ["jobError", "commitError"])
def test_a_database_that_is_away_is_waited_for_longer_and_longer_without_end(policy, stage):
    waits = answers(getattr(policy, stage), AWAY, 30)
    assert waits[:12] == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]
    assert set(waits[12:]) == {60}


def test_four_times_does_not_retry_other_errors():
    policy = RetryCommonFourTimes(Job())
    assert policy.jobError(ERROR, {}) is False
    assert policy.commitError(ERROR, {}) is False


def test_four_times_allows_nine_interruptions_and_counts_them_with_the_job():
    job = Job()
    assert [RetryCommonFourTimes(job).interrupted() for _ in range(10)] == [True] * 9 + [False]
    assert job.policy_data["interruptions"] == 10


@pytest.mark.parametrize("factory", [RetryCommonFourTimes, RetryCommonForever, steady().bind])
def test_stops_of_the_dispatcher_never_end_a_job_and_are_counted_apart(factory):
    job = Job(active_start=NOON)
    job.interrupted_by = "stop"
    assert [factory(job).interrupted() for _ in range(50)] == [True] * 50
    job.interrupted_by = "death"
    factory(job).interrupted()
    assert job.policy_data == {"interruptions": 51, "stops": 50, "deaths": 1, "first_active": NOON}


@pytest.mark.parametrize("factory", [RetryCommonFourTimes, steady().bind])
@pytest.mark.parametrize(("by", "key"), [("thread", "thread_ends"), ("death", "deaths")])
def test_nine_interruptions_that_a_job_may_be_at_fault_for_are_allowed_beside_all_stops(factory, by, key):
    job, answers = Job(), []
    for _ in range(10):
        job.interrupted_by = "stop"
        assert factory(job).interrupted() is True
        job.interrupted_by = by
        answers.append(factory(job).interrupted())
    assert answers == [True] * 9 + [False]
    assert (job.policy_data[key], job.policy_data["stops"], job.policy_data["interruptions"]) == (10, 10, 20)


@pytest.mark.parametrize("policy", [NeverRetry, NotOnce, steady(rules=[make_rule("interruption", attempts=1)]).bind])
def test_what_must_not_run_twice_ends_at_a_stop_too(policy):
    job = Job()
    job.interrupted_by = "stop"
    assert policy(job).interrupted() is False


def test_a_stop_ends_no_job_of_a_configured_policy_however_old_it_is():
    job = Job(put_at=NOON - timedelta(days=9))
    job.interrupted_by = "stop"
    assert steady(age_limit=60).bind(job).interrupted() is True


def test_one_interruption_alone_can_be_allowed():
    policy = JustOnce(Job())
    assert [policy.interrupted(), policy.interrupted()] == [True, False]


def test_forever_counts_the_database_and_conflicts_under_the_names_of_the_contract():
    policy, cache = RetryCommonForever(Job()), {}
    policy.jobError(AWAY, cache)
    policy.jobError(CONFLICT, cache)
    assert (cache["zeo_disconnected"], cache["transaction_error"]) == (1, 1)


def test_forever_frees_the_thread_between_attempts_after_many_conflicts():
    policy, cache = RetryCommonForever(Job()), {}
    waits = answers(policy.jobError, CONFLICT, 100, cache)
    assert waits[:25] == [True] * 25
    assert waits[25:28] == [1, 2, 3]
    assert waits[-1] == 60
    assert cache["needs_attention"] is True


def test_forever_does_not_retry_other_errors_of_the_job_itself():
    assert RetryCommonForever(Job()).jobError(ERROR, {}) is False


def test_forever_commits_or_dies_trying_and_says_so(log):
    policy, cache = RetryCommonForever(Job()), {}
    waits = answers(policy.commitError, ERROR, 70, cache)
    assert waits[:4] == [True, 1, 2, 3]
    assert waits[-1] == 60
    assert cache["needs_attention"] is True
    critical = [record for record in log.records if record.levelname == "CRITICAL"]
    assert len(critical) == 1 + 70 // 5
    assert "ValueError: wrong" in critical[0].getMessage()


def test_forever_always_goes_on_after_interruptions():
    policy = RetryCommonForever(Job())
    assert all(policy.interrupted() is True for _ in range(50))


def test_never_retry_never_retries_and_counts_nothing():
    job = Job()
    policy = NeverRetry(job)
    policy.updateData({"other": 1})
    assert [policy.jobError(CONFLICT, {}), policy.commitError(AWAY, {}), policy.interrupted()] == [False] * 3
    assert job.policy_data == {}
    assert not hasattr(policy, "data")


def test_subclasses_change_numbers_by_attributes():
    class Eager(RetryCommonFourTimes):
        internal_exceptions = (((ValueError, "smtplib.SMTPException"), "mail", 3, 1, 2, 60),)
        max_interruptions = 0

    policy = Eager(Job())
    assert answers(policy.jobError, ERROR, 3) == [1, 3, False]
    assert answers(policy.jobError, Failure(smtplib.SMTPDataError(451, "later")), 3) == [1, 3, False]
    assert policy.interrupted() is False
    assert policy.jobError(CONFLICT, {}) is False


def test_what_was_counted_is_stored_with_the_job_as_plain_values():
    job = Job(active_start=NOON)
    policy, cache = RetryCommonFourTimes(job), {}
    policy.jobError(CONFLICT, cache)
    policy.jobError(AWAY, cache)
    policy.updateData(cache)
    assert job.policy_data == {
        "transaction_error": 1,
        "last_transaction_error": "ConflictError: database conflict error",
        "zeo_disconnected": 1,
        "last_zeo_disconnected": "ClientDisconnected",
        "first_active": NOON,
    }


def test_the_first_start_is_never_overwritten():
    job = Job(active_start=NOON)
    RetryCommonFourTimes(job).updateData({})
    job.active_start = NOON + timedelta(hours=1)
    RetryCommonFourTimes(job).updateData({})
    assert RetryCommonFourTimes(job).data["first_active"] == NOON


def test_the_first_and_each_fifth_retry_and_the_end_are_logged(log):
    policy, cache = RetryCommonForever(Job()), {}
    answers(policy.jobError, CONFLICT, 10, cache)
    assert len(log.records) == 3
    log.clear()
    answers(RetryCommonFourTimes(Job()).jobError, CONFLICT, 5)
    assert [record.levelname for record in log.records] == ["WARNING", "WARNING"]
    assert "1f (addon.jobs.publish), job error number 5: ConflictError" in log.records[-1].getMessage()
    assert "gives up" in log.records[-1].getMessage()


# Policies made of numbers


def test_waits_grow_to_the_longest():
    policy = steady(first_wait=1, growth=3, longest_wait=20)
    assert seconds(policy.wait(n) for n in range(1, 6)) == [1, 3, 9, 20, 20]
    assert seconds([policy.wait(10**9)]) == [20]
    assert seconds([steady(first_wait=7, growth=1).wait(10**9)]) == [7]
    assert seconds([steady(first_wait=0).wait(5)]) == [0]


def test_waits_are_spread_but_never_beyond_the_longest():
    policy = ConfiguredPolicy("mail", first_wait=10, growth=1, longest_wait=11, jitter=0.5)
    assert seconds([policy.wait(1, uniform=lambda low, high: low)]) == [5]
    assert seconds([policy.wait(1, uniform=lambda low, high: high)]) == [11]


@pytest.mark.parametrize(
    ("stage", "failure"),
    [("jobError", CONFLICT), ("commitError", CONFLICT), ("jobError", ERROR), ("commitError", ERROR)],
)
def test_the_policys_numbers_hold_for_conflicts_and_errors(stage, failure):
    policy = steady(attempts=4, first_wait=10).bind(Job())
    assert answers(getattr(policy, stage), failure, 4) == [10, 20, 40, False]


def test_without_a_first_wait_the_answer_is_at_once():
    assert answers(steady(attempts=3).bind(Job()).jobError, CONFLICT, 3) == [True, True, False]


def test_one_attempt_means_no_retry():
    assert steady(attempts=1).bind(Job()).jobError(ERROR, {}) is False


def test_no_limit_means_no_end_and_asks_for_attention():
    cache = {}
    policy = steady(attempts=None, first_wait=1, longest_wait=60).bind(Job())
    assert answers(policy.jobError, ERROR, 200, cache)[-1] == 60
    assert cache["needs_attention"] is True


def test_a_database_that_is_away_is_waited_for_whatever_the_numbers_are():
    policy = steady(attempts=1, age_limit=1).bind(Job(put_at=NOON - timedelta(days=9)))
    assert answers(policy.jobError, AWAY, 6) == [5, 10, 20, 40, 60, 60]


def test_a_configured_policy_allows_nine_interruptions_unless_a_rule_says_otherwise():
    job = Job()
    assert [steady().bind(job).interrupted() for _ in range(10)] == [True] * 9 + [False]
    policy = steady(rules=[make_rule("interruption", attempts=1)]).bind(Job())
    assert policy.interrupted() is False
    policy = steady(rules=[make_rule("interruption", attempts=3, first_wait=60)]).bind(Job())
    assert seconds([policy.interrupted() for _ in range(3)]) == [60, 120, False]


def test_a_rule_for_one_kind_of_trouble_leaves_the_others_alone():
    policy = steady(attempts=3, rules=[{"trouble": "error", "attempts": 1}, {"trouble": "commit", "attempts": 2}])
    policy = policy.bind(Job())
    assert answers(policy.jobError, ERROR, 1) == [False]
    assert answers(policy.commitError, ERROR, 2) == [True, False]
    assert answers(policy.commitError, CONFLICT, 3) == [True, True, False]


def test_a_rule_for_an_exception_holds_for_its_subclasses_and_goes_before_general_ones():
    rules = [make_rule("error", attempts=1), make_rule("error", "smtplib.SMTPException", attempts=3, first_wait=60)]
    policy = steady(rules=rules).bind(Job())
    assert answers(policy.jobError, Failure(smtplib.SMTPDataError(451, "later")), 3) == [60, 120, False]
    assert answers(policy.jobError, ERROR, 1) == [False]


def test_kinds_of_trouble_do_not_use_up_each_others_attempts():
    policy = steady(attempts=2, rules=[make_rule("error", "builtins.KeyError", attempts=2)]).bind(Job())
    cache = {}
    for failure in (CONFLICT, ERROR, Failure(KeyError("x"))):
        assert policy.jobError(failure, cache) is True
    for failure in (CONFLICT, ERROR, Failure(KeyError("x"))):
        assert policy.jobError(failure, cache) is False


def test_a_job_beyond_the_age_limit_is_not_retried():
    policy = steady(age_limit=3600)
    assert policy.bind(Job(put_at=NOON - timedelta(minutes=59))).jobError(ERROR, {}) is True
    assert policy.bind(Job(put_at=NOON - timedelta(minutes=61))).jobError(ERROR, {}) is False
    assert policy.bind(Job(put_at=NOON - timedelta(minutes=61))).interrupted() is False


def test_the_age_of_a_job_for_later_counts_from_its_time():
    job = Job(put_at=NOON - timedelta(days=9), begin_after=NOON - timedelta(minutes=5))
    assert steady(age_limit=3600).bind(job).jobError(ERROR, {}) is True


def test_a_change_of_numbers_holds_at_the_next_decision():
    policy = steady(attempts=2)
    bound, cache = policy.bind(Job()), {}
    assert bound.jobError(ERROR, cache) is True
    assert policy.update(attempts=5) is True
    assert bound.jobError(ERROR, cache) is True
    assert policy.update(attempts=5) is False


def test_a_wrong_change_changes_nothing():
    policy = steady(attempts=2)
    with pytest.raises(InvalidValueError):
        policy.update(attempts=7, growth=0)
    assert policy.attempts == 2


def test_configured_policies_store_their_counts_with_the_job():
    job, cache = Job(active_start=NOON), {}
    policy = steady(attempts=None).bind(job)
    answers(policy.jobError, ERROR, 9, cache)
    policy.updateData(cache)
    assert job.policy_data == {"error": 9, "last_error": "ValueError: wrong", "first_active": NOON}


def test_retries_and_the_end_are_logged_with_the_policys_name(log):
    answers(steady(attempts=6, log_every=3).bind(Job()).jobError, ERROR, 6)
    messages = [record.getMessage() for record in log.records]
    assert len(messages) == 3
    assert messages[0].endswith("error number 1: ValueError: wrong; policy 'mail' retries")
    assert messages[-1].endswith("error number 6: ValueError: wrong; policy 'mail' gives up")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("attempts", 0, "whole numbers from 1 to 100000, or None for no limit"),
        ("attempts", 2.5, "whole numbers"),
        ("attempts", True, "whole numbers"),
        ("attempts", "5", "whole numbers"),
        ("first_wait", -1, "from 0 to"),
        ("first_wait", None, "from 0 to"),
        ("growth", 0.5, "from 1 to 100"),
        ("growth", float("nan"), "from 1 to 100"),
        ("longest_wait", float("inf"), "from 0 to"),
        ("jitter", 1.5, "from 0 to 1"),
        ("age_limit", 0, "from 1 to"),
        ("log_every", 0, "from 1 to 1000"),
        ("log_every", None, "from 1 to 1000"),
        ("growth", None, "from 1 to 100"),
        ("longest_wait", None, "from 0 to"),
        ("jitter", None, "from 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused_with_field_value_and_range(field, value, allowed):
    with pytest.raises(InvalidValueError) as raised:
        check_numbers(**{field: value})
    message = str(raised.value)
    assert message.startswith(f"{field}: {value!r}") and allowed in message
    with pytest.raises(InvalidValueError):
        ConfiguredPolicy("mail", **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", 1),
        ("attempts", 100_000),
        ("attempts", None),
        ("first_wait", 0),
        ("growth", 1),
        ("growth", 100),
        ("jitter", 0),
        ("jitter", 1),
        ("age_limit", 1),
        ("age_limit", None),
        ("log_every", 1),
        ("log_every", 1000),
    ],
)
def test_the_ends_of_a_range_belong_to_it(field, value):
    assert getattr(ConfiguredPolicy("mail", **{field: value}), field) == value


def test_a_policy_of_which_nothing_is_said_has_the_documented_numbers():
    policy = ConfiguredPolicy("mail")
    assert (policy.attempts, policy.first_wait, policy.growth, policy.longest_wait) == (5, 0, 2, 3600)
    assert (policy.jitter, policy.age_limit, policy.log_every, policy.rules) == (0.2, None, 5, ())


def test_a_first_wait_above_the_longest_is_refused():
    with pytest.raises(InvalidValueError, match="first_wait: 60 is more than longest_wait, 30"):
        ConfiguredPolicy("mail", first_wait=60, longest_wait=30)


def test_a_number_that_does_not_exist_is_refused():
    with pytest.raises(InvalidValueError, match="tries: a retry policy has no such number"):
        check_numbers(tries=5)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ({"trouble": "rain"}, "trouble: 'rain'"),
        ({"trouble": "error", "exception": "SMTPException"}, "exception: 'SMTPException'"),
        ({"trouble": "error", "exception": "SMTPException."}, "exception: 'SMTPException.'"),
        ({"trouble": "interruption", "exception": "smtplib.SMTPException"}, "exception: "),
        ({"trouble": "error", "attempts": 0}, "attempts: 0"),
        ({"trouble": "error", "age_limit": 5}, "age_limit: a rule cannot change this"),
    ],
)
def test_a_wrong_rule_is_refused(rule, wrong):
    with pytest.raises(InvalidValueError, match=wrong):
        ConfiguredPolicy("mail", rules=[rule])


def test_rules_are_stored_as_tuples_of_pairs():
    policy = ConfiguredPolicy("mail", rules=[{"trouble": "error", "exception": "smtplib.SMTPException", "attempts": 9}])
    assert policy.rules == ((("trouble", "error"), ("exception", "smtplib.SMTPException"), ("attempts", 9)),)


def test_a_configured_policy_is_stored_and_changed_in_a_database(tmp_path):
    db = ZODB.DB(str(tmp_path / "data.fs"))
    with db.transaction() as connection:
        connection.root()["policy"] = steady(rules=[make_rule("error", attempts=1)], owner="plone-1")
    with db.transaction() as connection:
        connection.root()["policy"].update(attempts=9)
    db.close()
    db = ZODB.DB(str(tmp_path / "data.fs"))
    with db.transaction() as connection:
        policy = connection.root()["policy"]
        assert (policy.name, policy.attempts, policy.owner) == ("mail", 9, "plone-1")
        assert policy.numbers_for("error")["attempts"] == 1
    db.close()


# How the policy of a job is found


@implementer(IRetryPolicy)
class Own(NeverRetry):
    """A policy of an add-on."""


def make_policy(job):
    return ConfiguredPolicy("made", attempts=7)


def test_a_job_that_names_nothing_gets_four_times():
    assert type(policy_for(Job())) is RetryCommonFourTimes
    assert type(policy_for(Job(policy=""))) is RetryCommonFourTimes


def test_a_callback_that_names_nothing_gets_forever():
    assert type(policy_for(Job(is_callback=True, policies={"default": steady()}))) is RetryCommonForever


def test_the_configured_default_replaces_four_times():
    assert policy_for(Job(policies={"default": steady(attempts=25)})).policy.attempts == 25


def test_the_adapter_without_a_name_goes_before_the_configured_default(register):
    register(Own)
    assert type(policy_for(Job(policies={"default": steady()}))) is Own


def test_an_adapter_is_given_the_job_and_must_be_one_to_a_policy(register):
    manager, job = getGlobalSiteManager(), Job()
    manager.registerAdapter(list, (Interface,), IJob)
    try:
        assert type(policy_for(job)) is RetryCommonFourTimes
        register(Own)
        assert type(policy_for(job)) is Own and policy_for(job).parent is job
    finally:
        manager.unregisterAdapter(list, (Interface,), IJob)


def test_the_adapter_for_callbacks_is_for_callbacks_only(register):
    register(Own, "callback")
    assert type(policy_for(Job(is_callback=True))) is Own
    assert type(policy_for(Job())) is RetryCommonFourTimes


@pytest.mark.parametrize("attribute", ["retry_policy_factory", "policy"])
def test_a_name_means_a_configured_policy_an_adapter_or_a_class(attribute, register):
    register(Own, "adapted")
    policies = {"mail": steady(attempts=9), "NeverRetry": steady(attempts=8)}

    def found(name, **options):
        return policy_for(Job(**{attribute: name}, **options))

    assert found("mail", policies=policies).policy.attempts == 9
    assert found("NeverRetry", policies=policies).policy.attempts == 8
    assert type(found("NeverRetry")) is NeverRetry
    assert type(found("RetryCommonForever")) is RetryCommonForever
    assert type(found("adapted")) is Own
    assert type(found(f"{__name__}:Own")) is Own
    assert found(f"{__name__}:make_policy").policy.attempts == 7


def test_classes_functions_and_policies_themselves_are_taken_too():
    assert type(policy_for(Job(retry_policy_factory=NeverRetry))) is NeverRetry
    assert policy_for(Job(retry_policy_factory=make_policy)).policy.attempts == 7
    assert policy_for(Job(retry_policy_factory=steady(attempts=6))).policy.attempts == 6
    ready = Own(Job())
    assert policy_for(Job(retry_policy_factory=ready)) is ready


def test_the_factory_goes_before_the_name():
    assert type(policy_for(Job(retry_policy_factory=NeverRetry, policy="RetryCommonForever"))) is NeverRetry


@pytest.mark.parametrize("name", ["mial", "no_such_module:Policy"])
def test_a_policy_that_is_missing_is_an_error_that_names_it_and_the_way_out(name):
    job = Job(policy=name, policies={"default": steady()})
    with pytest.raises(PolicyNotFound) as raised:
        policy_for(job)
    assert name in str(raised.value) and "zcasync.xml" in str(raised.value)
    assert retry.retries_interruptions(job) is False


def test_an_error_of_a_factory_is_passed_on():
    def broken(job):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        policy_for(Job(retry_policy_factory=broken))
    assert retry.retries_interruptions(Job(retry_policy_factory=broken)) is False


class Unwilling(RetryCommonFourTimes):
    def interrupted(self):
        return False


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (None, True),
        (RetryCommonForever, True),
        (NeverRetry, False),
        (Unwilling, False),
        (NotOnce, False),
        (ConfiguredPolicy("x"), True),
        (ConfiguredPolicy("x", rules=[make_rule("interruption", attempts=1)]), False),
    ],
)
def test_whether_interruptions_are_retried_is_told_without_counting(factory, expected):
    job = Job(retry_policy_factory=factory)
    assert retry.retries_interruptions(job) is expected
    assert job.policy_data == {}


# The whole table of the contract: what each policy answers to each trouble, in the job and at the commit

AWAY_WAITS = [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 60]

TABLE = [
    # policy, what is asked, trouble, the first answers, the answer to the hundredth
    (RetryCommonFourTimes, "jobError", CONFLICT, [True] * 4 + [False], False),
    (RetryCommonFourTimes, "commitError", CONFLICT, [True] * 4 + [False], False),
    (RetryCommonFourTimes, "jobError", AWAY, AWAY_WAITS, 60),
    (RetryCommonFourTimes, "commitError", AWAY, AWAY_WAITS, 60),
    (RetryCommonFourTimes, "jobError", ERROR, [False], False),
    (RetryCommonFourTimes, "commitError", ERROR, [False], False),
    (RetryCommonFourTimes, "interrupted", None, [True] * 9 + [False], False),
    (RetryCommonForever, "jobError", CONFLICT, [True] * 25, 60),
    (RetryCommonForever, "commitError", CONFLICT, [True] * 25, 60),
    (RetryCommonForever, "jobError", AWAY, AWAY_WAITS, 60),
    (RetryCommonForever, "commitError", AWAY, AWAY_WAITS, 60),
    (RetryCommonForever, "jobError", ERROR, [False], False),
    (RetryCommonForever, "commitError", ERROR, [True, *range(1, 61), 60], 60),
    (RetryCommonForever, "interrupted", None, [True] * 50, True),
    *(
        (NeverRetry, method, trouble, [False], False)
        for method in ("jobError", "commitError")
        for trouble in (CONFLICT, AWAY, ERROR)
    ),
    (NeverRetry, "interrupted", None, [False], False),
]


@pytest.mark.parametrize(("factory", "method", "trouble", "first", "hundredth"), TABLE)
def test_each_cell_of_the_table_of_policies_is_as_the_contract_says(factory, method, trouble, first, hundredth):
    policy, cache = factory(Job()), {}
    decide = getattr(policy, method)
    given = seconds([decide() if trouble is None else decide(trouble, cache) for _ in range(100)])
    assert given[: len(first)] == first
    assert given[-1] == hundredth


@pytest.mark.parametrize("factory", [RetryCommonFourTimes, RetryCommonForever])
def test_the_numbers_meant_for_subclasses_are_those_of_the_contract(factory):
    assert (factory.log_every, factory.max_interruptions) == (5, 9 if factory is RetryCommonFourTimes else None)
    keys = [rule[1:] for rule in factory.internal_exceptions]
    most = 5 if factory is RetryCommonFourTimes else None
    assert keys == [("zeo_disconnected", None, 5, 5, 60), ("transaction_error", most, 0, 0, 0)]
    assert factory.transaction_exceptions == factory.internal_exceptions
    if factory is RetryCommonForever:
        backoff = (factory.other_commit_initial_backoff, factory.other_commit_incremental_backoff)
        assert (*backoff, factory.other_commit_max_backoff) == (0, 1, 60)


def test_a_factory_that_a_job_was_given_stays_whatever_is_registered_later(register):
    given, plain = Job(retry_policy_factory=f"{__name__}:NotOnce"), Job()
    assert (type(policy_for(given)).__name__, type(policy_for(plain))) == ("NotOnce", RetryCommonFourTimes)
    register(Own)
    assert type(policy_for(given)).__name__ == "NotOnce"
    assert type(policy_for(plain)) is Own, "who named none follows what is registered"


@pytest.mark.parametrize("policy", [RetryCommonFourTimes, RetryCommonForever])
def test_a_job_that_has_doomed_its_transaction_is_not_called_again_for_it(policy):
    cache = {}
    assert policy(Job()).jobError(Failure(DoomedTransaction()), cache) is False
    assert "transaction_error" not in cache
