"""Background jobs for Zope and Plone whose queue lives in the ZODB.

Put a ``Job`` in a ``Queue``; an ``Agent`` claims it for a ``Dispatcher``, which runs it in a thread, and its outcome
is stored in the same commit as what it changed. Most people need ``collective.zcasync.api`` only; to understand the
engine, start reading at ``interfaces``, then ``job``, ``execution``, ``queue``, ``claims`` and ``dispatcher``.

Three rings, and imports run one way: the modules here know ZODB and Twisted; ``zopeapp`` knows Zope; ``ploneapp`` and
``browser`` know Plone.
"""

from collective.zcasync import logs
from collective.zcasync.threadlocal import local

logs.install()

PACKAGE_NAME = "collective.zcasync"

__all__ = ("PACKAGE_NAME", "local")
