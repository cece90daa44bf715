"""The requests that this process publishes, which the jobs of a polite dispatcher let go first."""

from collective.zcasync.politeness import Politeness
from typing import Any

#: The requests of this process.
politeness = Politeness()


def request_begins(event: Any) -> None:
    """Subscriber of IPubStart; each try of a request is one of its own."""
    request = event.request
    if hasattr(request, "_hold"):
        # The publisher closes every request, whatever becomes of it, and it lets go of this then.
        request._hold(politeness.begin())


def request_ends(event: Any) -> None:
    """Subscriber of IPubSuccess and IPubFailure. Not all failures are told of."""
    politeness.end()


def response_streams(event: Any) -> None:
    """Subscriber of IPubBeforeStreaming: what is sent bit by bit may take minutes, and is on its way to its reader."""
    politeness.end()
