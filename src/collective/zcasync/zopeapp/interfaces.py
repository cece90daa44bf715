"""What the Zope ring asks of the rings around it."""

from zope.interface import Interface


class IWatch(Interface):
    """Utility that is called each minute in every process that runs a dispatcher, in a thread that runs no jobs."""

    def __call__(database):
        """Look at what nobody asks about. ``database``: the one that the dispatcher works for.

        Opens its own connection, and leaves the thread's transaction aborted or committed. What it raises is logged.
        """


class IPurge(Interface):
    """Utility that deletes everything of one site from the queues; the Plone ring registers it."""

    def __call__(app, path):
        """Delete the jobs and all that the site at ``path`` owns; return what was deleted, for people to read.

        ``path``: the site's path, which need not exist any more. What waits, which may be much, is deleted in batches,
        each with a commit of its own; then a transaction begins, and the rest is left to the commit of the caller.
        """
