"""The start rule: whether this process is a server that may run a dispatcher, and what to do if it is not."""

from collections.abc import Iterator
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.subscribers import VETO
from collective.zcasync.zopeapp.config import missing_section_hint
from collective.zcasync.zopeapp.config import SECTION
from collective.zcasync.zopeapp.config import Settings
from dataclasses import dataclass
from types import FrameType
from typing import Any

import os
import sys


@dataclass(frozen=True)
class Decision:
    """Whether to start, and one line that tells why and what would change it."""

    start: bool
    reason: str


def by_itself(settings: Settings) -> Decision:
    """For Zope's start: only where a server builds its pipeline, and never in a process that forks."""
    refusal = _switched_off(settings) or _forking_server()
    if refusal is not None:
        return refusal
    if not on_stack("paste.deploy"):
        return Decision(
            False,
            "this process is not known to be a server (no paste.deploy pipeline is being built; so it is in zconsole,"
            " scripts, exporters and tests). If it is one, call collective.zcasync.zopeapp.start() after its start, or"
            " put the filter egg:collective.zcasync#dispatcher into its pipeline",
        )
    return Decision(True, f"dispatcher is on in zope.conf, and this is a server. {_ways_out()}")


def by_filter(settings: Settings) -> Decision:
    """For the filter factory: whoever puts it into a pipeline says that this is a server."""
    return (
        _switched_off(settings)
        or (None if _is_forked_by_uwsgi() else _forking_server())
        or Decision(True, f"the pipeline has the dispatcher's filter. {_ways_out()}")
    )


def by_call(settings: Settings) -> Decision:
    """For ``zopeapp.start()``: the caller knows that this process serves, and does not fork any more."""
    return _switched_off(settings) or Decision(True, f"zopeapp.start() was called. {_ways_out()}")


def is_server() -> bool:
    """Whether this process serves, or forks processes that serve."""
    return on_stack("paste.deploy") or "gunicorn.arbiter" in sys.modules or "uwsgi" in sys.modules


def on_stack(package: str) -> bool:
    """Whether a function of the package, or of a module in it, is being executed in this thread."""
    return any(name == package or name.startswith(f"{package}.") for name in _modules_on_stack())


def _modules_on_stack() -> Iterator[str]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame.f_globals.get("__name__") or ""
        frame = frame.f_back


def _switched_off(settings: Settings) -> Decision | None:
    veto = os.environ.get(VETO, "").strip().lower()
    if veto not in {"", "on", "off"}:
        raise ConfigurationError(
            f"the environment variable {VETO} is {veto!r}; allowed are off (no dispatcher) and on (as zope.conf says)"
        )
    if veto == "off":
        return Decision(False, f"the environment variable {VETO} is off; unset it to let zope.conf decide")
    if not settings.dispatcher:
        missing = missing_section_hint() or "dispatcher is off in zope.conf"
        return Decision(
            False,
            f"{missing}; this process only puts jobs. To run them here, say 'dispatcher on' in"
            f" <product-config {SECTION}>; to run them in a process of their own, start 'zcasync worker'",
        )
    return None


def _forking_server() -> Decision | None:
    # A reactor's thread does not survive a fork, so only the processes that serve may start one.
    if "uwsgi" in sys.modules:
        return Decision(
            False,
            "uWSGI forks its processes. Say lazy-apps in its configuration, and put the filter"
            " egg:collective.zcasync#dispatcher into the pipeline; or register a function with uwsgidecorators.postfork"
            " that calls collective.zcasync.zopeapp.start()",
        )
    # Loaded by gunicorn itself, and by runwsgi when the [server:main] section is gunicorn's.
    if "gunicorn.arbiter" in sys.modules and not on_stack("gunicorn.workers"):
        return Decision(
            False,
            "this is gunicorn's master, which loads the application before it forks. Use 'gunicorn --paste' without"
            " --preload, or call collective.zcasync.zopeapp.start() in the hook post_fork of gunicorn's configuration",
        )
    return None


def _is_forked_by_uwsgi() -> bool:
    """Whether this is a process of uWSGI that has been forked before it loads Zope, as with lazy-apps."""
    worker_id: Any = getattr(sys.modules.get("uwsgi"), "worker_id", None)
    return worker_id is not None and worker_id() > 0


def _ways_out() -> str:
    return f"'dispatcher off' in zope.conf or {VETO}=off in the environment keeps it from starting"
