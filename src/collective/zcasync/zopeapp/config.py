"""Settings of this process: what zope.conf says in ``<product-config collective.zcasync>``."""

from collections.abc import Callable
from collections.abc import Mapping
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.queues import shown_queue
from collective.zcasync.queues import stored_queue
from dataclasses import dataclass
from dataclasses import field
from difflib import get_close_matches
from typing import Any

import os
import re

#: Name of the section in zope.conf.
SECTION = "collective.zcasync"

#: Name of the file, in Zope's client home, that remembers what the instance has seen of its databases.
SEEN_FILE = "zcasync-seen.json"

DAY = 86400.0
YEAR = 365 * DAY

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Settings:
    """The checked settings. Each field is a key of the section, with ``-`` for ``_``."""

    #: Whether a server process runs a dispatcher.
    dispatcher: bool = False
    #: Which agent templates of the queues hold for this process.
    role: str = "embedded"
    #: Job threads of this process, at most.
    threads: int = 1
    #: Whether a job begins only while this process publishes no request.
    polite: bool = True
    #: Names of the queues that are served; None: all.
    queues: tuple[str, ...] | None = None
    #: Seconds between two polls; jobs do not wait for them, it is the safety net.
    poll_interval: float = 5.0
    #: Name of the deployment that owns the queues; "": the storage's address.
    deployment: str = ""
    #: File that holds the dispatcher's UUID; "": a new one at each start.
    uuid_file: str = ""
    #: Seconds that running jobs get at a clean stop.
    shutdown_grace: float = 8.0
    #: Name of the database that holds the queues; "": the main one.
    db_name: str = ""
    #: Seconds without a sign of any dispatcher after which the database is taken for a copy.
    stale_after: float = DAY
    #: File in which the instance remembers what it has seen of the database; "": one beside Zope's var.
    seen_file: str = ""
    #: Whether PostgreSQL's NOTIFY wakes the dispatchers.
    notify: bool = False
    #: Port at which a worker tells whether it lives and is ready; 0: none.
    health_port: int = 0
    #: The address of this machine that the port belongs to.
    health_host: str = "127.0.0.1"
    #: File that a worker touches every few seconds while it lives; "": none.
    health_file: str = ""
    #: How many processes a worker consists of.
    processes: int = 1
    #: After how many jobs, minutes and megabytes of memory a worker ends, to be replaced by a fresh one; 0: never.
    max_jobs: int = 0
    max_minutes: int = 0
    max_megabytes: int = 0
    #: How a worker logs: "text" or "json".
    log_format: str = "text"
    #: The keys that zope.conf gives; all others have their defaults.
    given: frozenset[str] = field(default=frozenset(), compare=False)


def read_settings(section: Any) -> Settings:
    """The settings of one section, which is a mapping of texts; ConfigurationError names everything wrong in it."""
    if not isinstance(section, Mapping):
        raise ConfigurationError(
            f"The section {SECTION} in zope.conf must be a plain <product-config {SECTION}>, not {section!r}"
        )
    values: dict[str, Any] = {}
    faults = []
    for key, text in section.items():
        parse = _PARSERS.get(key)
        if parse is None:
            faults.append(f"unknown key {key!r}{did_you_mean(key, _PARSERS)}; known are {', '.join(sorted(_PARSERS))}")
            continue
        try:
            values[key.replace("-", "_")] = parse((text or "").strip())
        except ValueError as error:
            faults.append(f"{key}: {text!r} is not allowed; {error}")
    if faults:
        raise ConfigurationError(f"<product-config {SECTION}> in zope.conf: " + "\n".join(faults))
    return Settings(given=frozenset(section), **values)


def get_settings() -> Settings:
    """The settings of this process; the defaults where there is no zope.conf, as in tests."""
    return read_settings(_sections().get(SECTION) or {})


def parser_of(key: str) -> Callable[[str], Any]:
    """What reads the text of one key; it raises a ValueError that says what is allowed."""
    return _PARSERS[key]


def seen_file() -> str | None:
    """Where the instance remembers what it has seen, unless zope.conf says so; None where Zope has no folder for it."""
    from App.config import getConfiguration

    home = getattr(getConfiguration(), "clienthome", None)
    return os.path.join(home, SEEN_FILE) if home else None


def missing_section_hint() -> str:
    """A sentence about the section, if zope.conf lacks it; else an empty text."""
    sections = _sections()
    if SECTION in sections:
        return ""
    return f"zope.conf has no <product-config {SECTION}>{did_you_mean(SECTION, sections)}"


def did_you_mean(name: str, known: Any) -> str:
    """A question about a similar name, to be put behind the wrong one; empty if none is similar."""
    similar = get_close_matches(name.replace("_", "-"), list(known), n=1)
    return f" (did you mean {similar[0]!r}?)" if similar else ""


def describe_queues(settings: Settings) -> str:
    """The queues that are served, for a log line."""
    return "all" if settings.queues is None else ", ".join(shown_queue(name) for name in settings.queues)


def _sections() -> Mapping[str, Any]:
    from App.config import getConfiguration

    # In test layers the attribute is missing; in Zope without a section it is an empty dict.
    return getattr(getConfiguration(), "product_config", None) or {}


def _switch(text: str) -> bool:
    words = {"on": True, "off": False}
    if text.lower() not in words:
        raise ValueError("allowed are on and off")
    return words[text.lower()]


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ValueError(f"allowed is a whole number from {least} to {most}")
        return value

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = least - 1
        # Written so that "nan", which compares with nothing, is refused too.
        if not least <= value <= most:
            raise ValueError(f"allowed is a number of seconds from {least:g} to {most:.0f}, without a unit")
        return value

    return parse


def _name(text: str) -> str:
    if not text or any(character.isspace() for character in text):
        raise ValueError("allowed is a name without spaces")
    return text


def _role(text: str) -> str:
    if not _ROLE.fullmatch(text):
        raise ValueError("allowed is a name of letters, digits, '-', '_' and '.', for example embedded or worker")
    return text


def _format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("allowed are text and json")
    return text


def _path(text: str) -> str:
    if not os.path.isabs(text):
        raise ValueError("allowed is an absolute path, for example $INSTANCE/var/zcasync-uuid.txt")
    return text


def queue_names(text: str) -> tuple[str, ...]:
    """Queue names as people write them: separated by spaces or commas, ``default`` for the one without a name."""
    names = [name for name in re.split(r"[\s,]+", text) if name]
    if not names:
        raise ValueError("allowed are names of queues, separated by spaces or commas; without the key all are served")
    return tuple(dict.fromkeys(map(stored_queue, names)))


_count = _integer(1, 64)
_limit = _integer(0, 1_000_000_000)

_PARSERS: dict[str, Callable[[str], Any]] = {
    "dispatcher": _switch,
    "role": _role,
    "threads": _count,
    "polite": _switch,
    "queues": queue_names,
    "poll-interval": _seconds(0.1, 60),
    "deployment": _name,
    "uuid-file": _path,
    "shutdown-grace": _seconds(0, 3600),
    "db-name": _name,
    "stale-after": _seconds(60, YEAR),
    "seen-file": _path,
    "notify": _switch,
    "health-port": _integer(0, 65535),
    "health-host": _name,
    "health-file": _path,
    "processes": _count,
    "max-jobs": _limit,
    "max-minutes": _limit,
    "max-megabytes": _limit,
    "log-format": _format,
}
