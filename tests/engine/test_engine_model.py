"""Interleavings in random order, with the invariants of docs/concepts/invariants.md checked after each step."""

from enginemachine import drive
from enginemachine import Machine

import os
import pytest

#: Worlds of one run; .ci/run asks for 1,000. By hand many more: `make model ARGS="--examples 50000"`.
EXAMPLES = int(os.environ.get("ZCASYNC_EXAMPLES", "200"))


@pytest.mark.timeout(1500)
def test_whatever_the_order_no_invariant_is_violated() -> None:
    drive(EXAMPLES)
    assert Machine.driven >= EXAMPLES and Machine.found is None
