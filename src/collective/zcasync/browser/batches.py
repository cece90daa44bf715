"""Long lists of which one page is at hand, for Plone's batches."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any


class Window(Sequence[Any]):
    """A long sequence of which only one page is at hand: what a batch needs."""

    def __init__(self, start: int, lines: list[Any], total: int) -> None:
        self.start = start
        self.lines = lines
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self.total))]
        return self.lines[index - self.start]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.lines)
