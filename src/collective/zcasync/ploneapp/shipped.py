"""What the add-on's own profile ships, for those who want to go back to it."""

from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.ploneapp import profilexml
from functools import cache
from pathlib import Path
from typing import Any

PROFILE = Path(__file__).parent.parent / "profiles" / "default" / profilexml.FILENAME


@cache
def shipped_policies() -> dict[str, dict[str, Any]]:
    """Name of each shipped retry policy -> all its numbers, and ``rules``."""
    found = {}
    for node in profilexml.parse(PROFILE.read_bytes()).policies:
        policy = ConfiguredPolicy(node.name, rules=[rule.rule for rule in node.rules], **node.values)
        found[node.name] = {**policy.numbers(), "rules": policy.rules}
    return found
