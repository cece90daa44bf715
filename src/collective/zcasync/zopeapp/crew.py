"""The workers of one supervisor: which of them runs, which one is started again and when, and when all is over."""

from collections.abc import Callable
from collective.zcasync.zopeapp import health
from collective.zcasync.zopeapp.exitcodes import FAILED
from collective.zcasync.zopeapp.exitcodes import RECYCLED
from collective.zcasync.zopeapp.exitcodes import WRONG_USE
from typing import Protocol

import logging
import signal
import time

logger = logging.getLogger("collective.zcasync.zopeapp.supervisor")

#: Seconds between two looks at the workers.
EVERY = 1.0

#: Seconds until a worker that has ended is started again: the first time, and at most. Each time twice as many.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0

#: A worker that has lived for so many seconds is no failed start; one that has run its share sooner has too little.
LONG_LIFE, SHORT_LIFE = 60.0, 10.0

#: Seconds without a sign of life, counted while the supervisor itself runs, after which a worker is killed.
SILENT = 120.0

#: Seconds beyond their grace that workers get to stop.
BEYOND_GRACE = 30.0


class Process(Protocol):
    """What a crew knows of a worker's process."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None while it lives."""

    def tell(self, word: str) -> None:
        """Tell it to ``stop``, or to stop ``now``."""

    def kill(self) -> None:
        """End it without asking."""

    def sign(self) -> tuple[float, str] | None:
        """When it has given its last sign of life, by whatever clock, and what it said of itself; None: not yet."""


class Member:
    """The place of one worker, and the process that has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        #: When its process was started, and when the next one is to be, by the monotonic clock.
        self.started = self.due = 0.0
        #: How often in a row it has ended when it should not.
        self.failures = 0
        #: How often at all, and how often because it had run its share.
        self.failed = self.recycled = 0
        #: Its last sign of life, and for how many seconds there was none.
        self.sign: tuple[float, str] | None = None
        self.silence = 0.0
        #: The exit code of the process that was its last.
        self.code: int | None = None

    @property
    def reason(self) -> str:
        """Why it takes no jobs, in a word; empty if it does."""
        return "starting" if self.process is None or self.sign is None else self.sign[1].replace("ok", "")

    def __str__(self) -> str:
        return f"Worker {self.number} (pid {self.process.pid if self.process is not None else 'none'})"


class Crew:
    """So many workers. ``begin``: starts the process of the worker with a number. ``once``: none is started again but
    those that have run their share. ``grace``: seconds that they get to stop."""

    def __init__(self, count: int, begin: Callable[[int], Process], once: bool = False, grace: float = 8.0) -> None:
        self.members = [Member(number) for number in range(1, count + 1)]
        self._begin = begin
        self._once = once
        self._grace = grace
        self._looked: float | None = None
        #: How often it was told to stop, and when the workers' time is over.
        self._stops = 0
        self._end = 0.0
        self._misused = False
        self._worked = False

    def look(self, now: float) -> int | None:
        """Start what is due, and deal with what has ended; the exit code when all is over. ``now``: seconds."""
        passed = 0.0 if self._looked is None else min(now - self._looked, 2 * EVERY)
        self._looked = now
        for member in self.members:
            if member.process is not None:
                self._watch(member, now, passed)
            if member.process is None and member.code is None:
                if self._stops:
                    member.code = 0
                elif now >= member.due:
                    self._start(member, now)
        if self._stops and now > self._end:
            self._kill_all()
        codes = [FAILED if member.code is not None and member.code < 0 else member.code for member in self.members]
        if None in codes:
            return None
        return WRONG_USE if self._misused else max(code for code in codes if code is not None)

    def stop(self, now: float) -> None:
        """Stop all: cleanly when it is called first, then at once, then without asking."""
        self._stops += 1
        self._end = now + self._grace + BEYOND_GRACE
        if self._stops > 2:
            self._kill_all()
        for member in self.members:
            if member.process is not None:
                member.process.tell("stop" if self._stops == 1 else "now")

    def state(self) -> tuple[str, str]:
        """As ``health.live`` and ``health.ready`` say it: ready, if one of the workers is."""
        still = self._looked is not None and time.monotonic() - self._looked > health.SILENCE
        reasons = [member.reason for member in self.members]
        reason = "leaving" if self._stops else "" if "" in reasons else reasons[0]
        return "supervisor" if still else "", reason

    def _start(self, member: Member, now: float) -> None:
        member.started, member.sign, member.silence = now, None, 0.0
        try:
            member.process = self._begin(member.number)
        except OSError as error:
            self._again(member, f"Worker {member.number} cannot be started: {error}", now)
        else:
            logger.info("%s started", member)

    def _watch(self, member: Member, now: float, passed: float) -> None:
        process = member.process
        assert process is not None
        code = process.poll()
        if code is not None:
            self._ended(member, code, now)
            return
        sign = process.sign()
        self._worked = self._worked or sign is not None and sign[1] == "ok"
        member.silence = member.silence + passed if sign == member.sign else 0.0
        member.sign = sign
        if sign is not None and member.silence > SILENT and not self._stops:
            logger.error("%s has given no sign of life for %d s: it is killed", member, member.silence)
            process.kill()

    def _ended(self, member: Member, code: int, now: float) -> None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lived = now - member.started
        if self._stops or self._once and code != RECYCLED:
            logger.info("%s %s", member, how)
            member.code = 0 if code == RECYCLED else code  # it was about to leave, and has left well
        elif code == WRONG_USE and not self._worked:
            logger.error("%s %s: nothing can be started so, its last log line says why", member, how)
            member.code, self._misused = code, True
            member.process = None
            self.stop(now)
            return
        elif code == RECYCLED and lived > SHORT_LIFE:
            logger.info("%s has run its share; the next one starts", member)
            member.failures, member.due = 0, now
            member.recycled += 1
        else:
            self._again(member, f"{member} {how} after {lived:.0f} s", now)
        member.process = None

    def _again(self, member: Member, why: str, now: float) -> None:
        """Start its next process after a wait that grows."""
        member.failed += 1
        member.failures = 1 if now - member.started > LONG_LIFE else member.failures + 1
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(member.failures - 1, 10))
        member.due = now + wait
        logger.error("%s; the next one starts in %d s", why, wait)

    def _kill_all(self) -> None:
        for member in self.members:
            if member.process is not None:
                logger.error("%s does not stop: it is killed", member)
                member.process.kill()
