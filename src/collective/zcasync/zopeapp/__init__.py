"""The Zope ring: settings in zope.conf, the start and stop of dispatchers, workers, and the console script.

A server that Zope does not recognise calls ``start()`` once it serves, in each process that serves.
"""

from collective.zcasync.zopeapp.starting import running
from collective.zcasync.zopeapp.starting import start
from collective.zcasync.zopeapp.starting import stop

__all__ = ["running", "start", "stop"]
