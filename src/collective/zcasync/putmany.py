"""Many puts in one call, in batches, so that memory does not grow with their number."""

from collections.abc import Callable
from collections.abc import Iterable
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import InvalidTypeError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ZCAsyncError
from collective.zcasync.readable import text_of
from typing import Any

#: Characters of an item that an error shows.
ITEM_LIMIT = 400

Put = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class Batches:
    """The batches of one call of put_many: what ends each of them, and what stays if the call breaks off."""

    def __init__(self, manager: Any, batch: int, commit: bool) -> None:
        if type(batch) is not int or batch < 1:
            raise InvalidValueError(f"batch must be a whole number of at least 1, not {batch!r}")
        if type(commit) is not bool:
            raise InvalidTypeError(f"commit must be True or False, not {commit!r}")
        self.manager = manager
        self.batch = batch
        self.commit = commit
        #: How many were put, and how many of them in batches that have ended.
        self.number = self.ended = 0

    def put(self, items: Iterable[Any], put: Put) -> int:
        """Call ``put(args, kwargs)`` for each item; return how many there were."""
        if not isinstance(items, Iterable):
            raise InvalidTypeError(f"items must be a list or another iterable, not {text_of(items, ITEM_LIMIT)}")
        try:
            for item in items:
                self._put_one(item, put)
                if self.number - self.ended == self.batch:
                    self._end()
            if self.number > self.ended:
                self._end()
        except BaseException as error:
            self._break_off(error)
            raise
        return self.number

    def _put_one(self, item: Any, put: Put) -> None:
        try:
            put(*_call_of(item))
        except Exception as error:
            which = f"item {self.number} of put_many, {text_of(item, ITEM_LIMIT)}"
            if isinstance(error, ZCAsyncError):
                error.args = (f"{which}: {' '.join(map(str, error.args))}",)
            else:
                error.add_note(which)
            raise
        self.number += 1

    def _end(self) -> None:
        if self.commit:
            self.manager.commit()
            self._begin()
        else:
            self.manager.savepoint(optimistic=True)
        self.ended = self.number

    def _begin(self) -> None:
        """Leave a manager that begins no transaction by itself as it was found: in one."""
        if getattr(self.manager, "explicit", False):
            self.manager.begin()

    def _break_off(self, error: BaseException) -> None:
        if self.commit:
            self.manager.abort()
            self._begin()
            error.add_note(f"put_many: {self.ended} jobs are committed, and no others are put")
        else:
            error.add_note(f"put_many: {self.number} jobs are put, unless this transaction is aborted")


def _call_of(item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of an item."""
    if isinstance(item, tuple):
        return item, {}
    if not isinstance(item, dict):
        raise InvalidJobError("it must be a tuple (positional arguments) or a dict (keywords)")
    for name in item:
        if not isinstance(name, str):
            raise InvalidJobError(f"keywords are texts, not {text_of(name, ITEM_LIMIT)}")
    return (), item
