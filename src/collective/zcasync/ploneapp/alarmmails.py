"""Mails that tell of alarms: one when an alarm begins, one when it has ended."""

from collective.zcasync import alarms
from collective.zcasync.exceptions import ContentGone
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp import requests
from collective.zcasync.ploneapp.settings import alarm_limits
from collective.zcasync.ploneapp.settings import settings_of
from collective.zcasync.ploneapp.sites import application
from collective.zcasync.ploneapp.sites import locate
from collective.zcasync.queue import get_queues
from collective.zcasync.transactions import is_conflict
from collective.zcasync.zopeapp.interfaces import IWatch
from plone import api
from typing import Any
from zope.component.hooks import site as local_site
from zope.i18n import translate
from zope.interface import implementer

import logging
import transaction

logger = logging.getLogger("collective.zcasync.ploneapp")

#: Looks in a row that must have missed an alarm before it has ended: one that comes and goes is one alarm.
MISSED = 3

#: Where a site is: the name of its database, and its group, which is an oid and so means nothing without the other.
Place = tuple[str, str]


@implementer(IWatch)
class AlarmMails:
    """Looks at all sites that name an address. Which alarms were told of is stored with the site, in the transaction
    that sends the mail, so that of several dispatchers that look one tells."""

    def __init__(self) -> None:
        #: (place, key of the alarm) -> looks in a row that have missed it.
        self._missed: dict[tuple[Place, str], int] = {}
        #: Why the last mail of a site could not be sent: said once, and not each minute.
        self._trouble: dict[Place, str] = {}

    def __call__(self, database: Any) -> None:
        """See IWatch."""
        transaction.begin()
        connection = database.open()
        try:
            queues = get_queues(connection)
            for group, known in list(queues.sites.items()) if queues is not None else ():
                self._look(connection, queues, group, known)
        finally:
            transaction.abort()
            connection.close()

    def _look(self, connection: Any, queues: Any, group: str, known: Any) -> None:
        app = requests.make(application(connection), {})
        try:
            site = locate(app, connection, group, known.path)
        except ContentGone:
            return
        place = (connection.db().database_name, group)
        with local_site(site):
            address = getattr(settings_of(site), "alarm_address", None)
            if not address:
                return
            found = [alarm for alarm in alarms.examine(queues, alarm_limits(site), group) if alarm.urgent]
            begun = [alarm for alarm in found if alarm.key not in known.alarms]
            present = {alarm.key for alarm in found}
            ended = [key for key in known.alarms if self._has_ended((place, key), key in present)]
            if not begun and not ended:
                return
            try:
                self._tell(address, known, begun, ended)
                transaction.commit()
                self._trouble.pop(place, None)
            except Exception as error:
                transaction.abort()
                if not is_conflict(error):  # else another dispatcher has told of them
                    self._say_trouble(place, f"{known.path}: no mail about alarms could be sent to {address}: {error}")

    def _has_ended(self, which: tuple[Place, str], there: bool) -> bool:
        """Whether an alarm that was told of is over. ``there``: whether this look has met it."""
        self._missed[which] = 0 if there else self._missed.get(which, 0) + 1
        if self._missed[which] < MISSED:
            return False
        del self._missed[which]
        return True

    def _tell(self, address: str, known: Any, begun: list[alarms.Alarm], ended: list[str]) -> None:
        language = api.portal.get_default_language()

        def say(message: Any) -> str:
            return str(translate(message, target_language=language))

        texts = {alarm.key: say(alarm.text) for alarm in begun}
        lines = [line for alarm in begun for line in (texts[alarm.key], say(alarm.advice), "")]
        for key in ended:
            lines += [say(_("mail_ended", default="Over: ${text}", mapping={"text": known.alarms[key]})), ""]
        lines.append(say(_("mail_where", default="See Site Setup, Background jobs.")))
        known.alarms = {key: text for key, text in known.alarms.items() if key not in ended} | texts
        if begun:
            subject = _("mail_begun_subject", default="Background jobs: ${text}", mapping={"text": lines[0]})
        elif known.alarms:
            subject = _("mail_less_subject", default="Background jobs: an alarm is over")
        else:
            subject = _("mail_ended_subject", default="Background jobs: all is well again")
        body = "\n".join(("", *lines))  # else a first line with a colon would be taken for a header
        api.portal.send_email(recipient=address, subject=say(subject), body=body)
        logger.info("%s: %d alarms began and %d ended: mail to %s", known.path, len(begun), len(ended), address)

    def _say_trouble(self, place: Place, text: str) -> None:
        if self._trouble.get(place) != text:
            self._trouble[place] = text
            logger.error("%s", text)
