"""What ends a worker before a signal does: it has done its share and is to be replaced, or nothing is left to do."""

from collective.zcasync import instanceuuid
from collective.zcasync.zopeapp.config import Settings
from typing import Any

import random
import time

MEGABYTE = 2**20

#: By how much of itself a limit may be smaller: workers that started together do not leave together.
SPREAD = 0.1

#: Polls in a row that must bring nothing before a queue counts as drained: what lies in the inbox of another process is
#: taken at a second look.
QUIET = 3

#: Seconds that such a poll may take.
PATIENCE = 10.0


class Limits:
    """How many jobs, minutes and megabytes a worker may have. 0 in the settings: as many as it likes."""

    def __init__(self, settings: Settings, running: Any, spread: float = SPREAD) -> None:
        self._running = running
        self._began = time.monotonic()
        share = 1 - random.uniform(0, spread)
        self._jobs = settings.max_jobs * share
        self._minutes = settings.max_minutes * share
        self._megabytes = settings.max_megabytes
        #: Which of them was reached, in words; "": none yet.
        self.reached = ""

    def __call__(self) -> bool:
        """Whether one of them is reached."""
        minutes = (time.monotonic() - self._began) / 60
        megabytes = instanceuuid.process_memory() / MEGABYTE if self._megabytes else 0.0
        if 0 < self._jobs <= self._running.ran:
            self.reached = f"it has run {self._running.ran} jobs"
        elif 0 < self._minutes <= minutes:
            self.reached = f"it has run for {minutes:.0f} minutes"
        elif 0 < self._megabytes <= megabytes:
            self.reached = f"it uses {megabytes:.0f} MB of memory"
        return bool(self.reached)


class Drained:
    """Whether nothing is left that a dispatcher could run now: whatever waits for its time, for a free quota, for the
    end of a pause or for other code is not its business."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._quiet = 0

    def __call__(self) -> bool:
        """Poll as often as needed to know; false as soon as there is something to do."""
        while self._quiet < QUIET and self._nothing_new():
            self._quiet += 1
        drained = self._quiet >= QUIET
        self._quiet = 0
        return drained

    def _nothing_new(self) -> bool:
        dispatcher = self._dispatcher
        ran, polls = dispatcher.ran, dispatcher.polls.count
        dispatcher.poll_soon()
        poll = dispatcher.polls.wait_for(polls, PATIENCE)
        if poll is None or ran != dispatcher.ran or not dispatcher.idle:
            return False
        entries = [entry for agents in poll.values() for entry in (agents or {}).values()]
        return not any(entry["new jobs"] or entry["error"] for entry in entries)
