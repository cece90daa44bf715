"""A brake for log lines that would else come with every put."""

from collections import OrderedDict

import threading
import time


class Seldom:
    """Says once in so many seconds and key that it is time to speak. Safe in threads; forgets the oldest keys."""

    def __init__(self, seconds: float, most: int = 1000) -> None:
        self.seconds = seconds
        self.most = most
        self._last: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: str) -> bool:
        now = time.monotonic()
        with self._lock:
            last = self._last.get(key)
            if last is not None and now - last < self.seconds:
                return False
            self._last[key] = now
            self._last.move_to_end(key)
            if len(self._last) > self.most:
                self._last.popitem(last=False)
        return True

    def clear(self) -> None:
        """Forget who was told."""
        with self._lock:
            self._last.clear()
