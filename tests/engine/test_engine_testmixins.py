"""The mixins for unittest, in test cases that are run here."""

from collective.zcasync import clock
from collective.zcasync import dispatcher as dispatchers
from collective.zcasync.job import Job
from collective.zcasync.testing import JobFailed
from collective.zcasync.testmixins import DispatcherMixin
from collective.zcasync.testmixins import FrozenTimeMixin
from collective.zcasync.testmixins import JobsMixin
from collective.zcasync.testtime import START
from datetime import timedelta
from typing import Any

import enginejobs
import transaction
import unittest


def run(case: type[unittest.TestCase], name: str) -> unittest.TestResult:
    """Run one test of a case, as a runner does."""
    result = unittest.TestResult()
    case(name).run(result)
    return result


def failures(case: type[unittest.TestCase], name: str) -> list[str]:
    result = run(case, name)
    assert result.testsRun == 1
    return [text for _test, text in (*result.errors, *result.failures)]


def test_a_test_case_lists_asserts_and_runs_jobs(queue: Any) -> None:
    class Case(JobsMixin, unittest.TestCase):
        layer = {"portal": queue}

        def test_jobs(self) -> None:
            job = queue.put(Job(enginejobs.note, 1))
            queue.put(Job(enginejobs.note, 1))
            self.assertEqual(len(self.put_jobs()), 2)
            self.assertEqual(self.put_jobs(enginejobs.add, ...), [])
            self.assertIn(job, self.assert_put_count(2, enginejobs.note, 1))
            self.run_jobs()
            self.assertEqual(job.result, 1)
            with self.assertRaises(AssertionError):
                self.assert_put(enginejobs.note, 1)
            queue.put(Job(enginejobs.change_and_raise))
            self.assert_put(enginejobs.change_and_raise)
            with self.assertRaises(JobFailed):
                self.run_jobs()

    assert failures(Case, "test_jobs") == []


def test_a_test_case_may_name_another_place_than_the_site_of_a_layer(connection: Any, queue: Any) -> None:
    class Case(JobsMixin, unittest.TestCase):
        jobs_context = connection

        def test_jobs(self) -> None:
            queue.put(Job(enginejobs.note, 1))
            self.assert_put(enginejobs.note, 1)

    assert failures(Case, "test_jobs") == []


def test_a_failed_assertion_fails_the_test_of_the_case(connection: Any) -> None:
    class Case(JobsMixin, unittest.TestCase):
        jobs_context = connection

        def test_jobs(self) -> None:
            self.assert_put(enginejobs.note, 1)

    (text,) = failures(Case, "test_jobs")
    assert "1 of enginejobs.note(1) should wait, 0 do" in text


def test_the_clock_stands_still_during_a_test_and_runs_after_it() -> None:
    class Case(FrozenTimeMixin, unittest.TestCase):
        def test_clock(self) -> None:
            self.assertEqual(clock.utcnow(), START)
            self.set_now(START + timedelta(days=1))
            self.assertEqual(clock.utcnow() - START, timedelta(days=1))

    assert failures(Case, "test_clock") == []
    assert clock.utcnow().year > START.year


def test_a_dispatcher_works_during_a_test_and_is_gone_after_it(db: Any, queue: Any) -> None:
    class Case(DispatcherMixin, unittest.TestCase):
        def test_dispatcher(self) -> None:
            dispatcher = self.start_dispatcher(db, poll_interval=1)
            self.assertIs(dispatchers.serving(db), dispatcher)
            job = queue.put(Job(enginejobs.add, 1, 2))
            transaction.commit()
            self.assertEqual(self.wait_for_result(job, 20), 3)

    assert failures(Case, "test_dispatcher") == []
    assert dispatchers.serving(db) is None
