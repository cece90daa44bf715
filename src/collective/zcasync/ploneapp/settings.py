"""What a site's registry says about its jobs, read where forms are not at hand; and who has changed it, for the log."""

from AccessControl import getSecurityManager
from collective.zcasync.alarms import Limits
from collective.zcasync.ploneapp.interfaces import ISettings
from collective.zcasync.ploneapp.interfaces import PREFIX
from datetime import timedelta
from plone.registry.interfaces import IRecordModifiedEvent
from typing import Any
from zope.component import adapter

import logging

logger = logging.getLogger("collective.zcasync.panel")


def settings_of(site: Any) -> Any:
    """The settings of a site; defaults where a record is missing, as the add-on was updated and not yet upgraded."""
    registry = getattr(site, "portal_registry", None)
    if registry is None:
        return None
    return registry.forInterface(ISettings, check=False, prefix=PREFIX)


def alarm_limits(site: Any) -> Limits:
    """Where the site's alarms begin."""
    known = settings_of(site)
    defaults = Limits()
    return Limits(
        defaults.waiting if not getattr(known, "alarm_waiting", None) else timedelta(minutes=known.alarm_waiting),
        defaults.failing if not getattr(known, "alarm_failing", None) else known.alarm_failing / 100,
    )


@adapter(IRecordModifiedEvent)
def setting_changed(event: Any) -> None:
    """Tell the log who has changed a setting, by whatever form or service."""
    record = event.record
    if record.interfaceName == ISettings.__identifier__ and event.oldValue != event.newValue:
        logger.info("%s: changed the setting %s", getSecurityManager().getUser().getUserName(), record.fieldName)
