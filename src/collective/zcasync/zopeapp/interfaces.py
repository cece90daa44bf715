"""What the Zope ring asks of the rings around it."""

from zope.interface import Interface


class IPurge(Interface):
    """Utility that deletes everything of one site from the queues; the Plone ring registers it."""

    def __call__(app, path):
        """Delete the jobs and all that the site at ``path`` owns; return what was deleted, for people to read.

        ``path``: the site's path, which need not exist any more. Does not commit.
        """
