"""``zcasync purge``: everything of one site out of the queues."""

from AccessControl.SecurityManagement import newSecurityManager
from AccessControl.SecurityManagement import noSecurityManager
from AccessControl.users import system
from collective.zcasync import schema
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.zopeapp.interfaces import IPurge
from collective.zcasync.zopeapp.worker import zope_started
from zope.component import queryUtility

import transaction


def purge_site(zope_conf: str, path: str) -> str:
    """Start Zope, purge, commit; returns what was deleted, for people to read."""
    with zope_started(zope_conf) as Zope2:
        purge = queryUtility(IPurge)
        if purge is None:
            raise ConfigurationError("this Zope has no Plone, so no site owns anything in its queues")
        app = Zope2.app()
        newSecurityManager(None, system)
        try:
            with transaction.manager:
                schema.check_database(app._p_jar)
                return str(purge(app, path))
        finally:
            noSecurityManager()
            app._p_jar.close()
