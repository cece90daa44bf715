"""Whether all is well, in one look: ``@background-overview``."""

from collective.zcasync import activity
from collective.zcasync import alarms
from collective.zcasync import joblists
from collective.zcasync.ploneapp.settings import alarm_limits
from collective.zcasync.queues import shown_queue
from collective.zcasync.restapi import data
from collective.zcasync.restapi.service import check_choice
from collective.zcasync.restapi.service import JobsService
from typing import Any

#: Minutes of a span, unless the query says otherwise, and those that are allowed.
MINUTES = 30
ALLOWED = (5, 10, 15, 30, 60)


class OverviewGet(JobsService):
    """Alarms in words, the site's jobs by state, and what has happened in the last 24 hours in all sites."""

    name = "@background-overview"

    def reply(self) -> Any:
        """See Service."""
        minutes = self.number("minutes", MINUTES, max(ALLOWED))
        check_choice("minutes", minutes, ALLOWED)
        queue = self.asked_queue()
        found = alarms.examine(self.queues, alarm_limits(self.context), self.rights.group)
        if queue is not None:
            found = [alarm for alarm in found if alarm.queue == queue]
        counts = joblists.counts(self.queues, group=self.rights.group, queue=queue)
        return {
            "@id": self.url(),
            "well": not any(alarm.urgent for alarm in found),
            "alarms": [
                {
                    "kind": alarm.kind,
                    "text": self.translated(alarm.text),
                    "advice": self.translated(alarm.advice),
                    "queue": None if alarm.queue is None else shown_queue(alarm.queue),
                    "urgent": alarm.urgent,
                }
                for alarm in found
            ],
            "counts": {state: data.count(number) for state, number in counts.items()},
            "last_hour": data.span(activity.last_hour(self.queues, queue)),
            "last_day": [data.span(span) for span in activity.last_day(self.queues, queue, minutes)],
        }
