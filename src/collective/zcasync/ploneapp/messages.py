"""Status messages in jobs: nobody would see them, so their author is told what people do see."""

from collective.zcasync.ploneapp.interfaces import IJobRequest
from collective.zcasync.ploneapp.seldom import Seldom
from collective.zcasync.threadlocal import local
from Products.statusmessages.adapter import StatusMessage
from Products.statusmessages.interfaces import IStatusMessage
from typing import Any
from zope.component import adapter
from zope.interface import implementer

import logging
import math

logger = logging.getLogger("collective.zcasync")

#: Once a job, also if it is tried again.
_first = Seldom(math.inf)


@implementer(IStatusMessage)
@adapter(IJobRequest)
class JobStatusMessage(StatusMessage):
    """Status messages under the request of a job: kept for the code in the job that asks for them, as in a request."""

    def add(self, text: Any, type: str = "info") -> None:
        """See IStatusMessage."""
        job = local.getJob()
        if job is not None and _first(str(job.id)):
            logger.warning(
                "%s (job %s) shows a status message that nobody will see, for there is no browser behind a job: %.200r."
                " Return the text as the job's result, which its page in Site Setup, Background jobs shows; while the"
                " job works, tell how far it is by collective.zcasync.api.progress(done, total, text)",
                job.task,
                job.id,
                str(text),
            )
        super().add(text, type)

    # The old name, still in use.
    addStatusMessage = add
