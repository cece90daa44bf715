"""Retry policies: ``@background-policies`` and ``@background-policies/NAME``."""

from collective.zcasync import policyactions
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.configuredpolicy import RULE_FIELDS
from collective.zcasync.exceptions import PolicyNotFound
from collective.zcasync.jsonvalues import SHOWN
from collective.zcasync.ploneapp.shipped import shipped_policies
from collective.zcasync.readable import text_of
from collective.zcasync.restapi import data
from collective.zcasync.restapi.errors import Conflict
from collective.zcasync.restapi.service import JobsService
from datetime import timedelta
from typing import Any
from zExceptions import BadRequest
from zExceptions import NotFound

#: Jobs of each kind in each queue that the list looks at for who uses a policy; one policy alone looks at more.
LOOK = 1_000

#: The numbers of a policy.
NUMBERS = tuple(ConfiguredPolicy("any").numbers())

#: What a rule may say.
RULE_KEYS = ("trouble", "exception", *RULE_FIELDS)


class Policies(JobsService):
    """The base of the services about retry policies."""

    name = "@background-policies"
    most = 1

    def told(self, policy: ConfiguredPolicy) -> dict[str, Any]:
        """One policy as JSON."""
        may_edit = self.rights.may_edit(policy.owner)
        return data.policy_line(policy, self.url(policy.name), self.rights.group, may_edit)

    def named(self) -> ConfiguredPolicy:
        """The policy that the path names."""
        if not self.path:
            raise BadRequest(f"Say which policy is meant: {self.url('NAME')}.")
        name = self.path[0]
        found: ConfiguredPolicy | None = self.queues.policies.get(name)
        if found is None:
            known = ", ".join(self.queues.policies) or "none"
            raise PolicyNotFound(f"There is no retry policy {name!r}; there are: {known}.")
        return found

    def editable(self) -> ConfiguredPolicy:
        """The same, if the user may change it."""
        policy = self.named()
        self.demand(
            self.rights.may_edit(policy.owner), "change this policy: it belongs to all sites, or to another one"
        )
        return policy

    def rules(self) -> list[dict[str, Any]] | None:
        """The rules of the body, or None."""
        found = self.take("rules", list)
        for rule in found or ():
            if not isinstance(rule, dict) or not {"trouble"} <= rule.keys() <= set(RULE_KEYS):
                raise BadRequest(
                    f"rules: {text_of(rule, SHOWN)} is not allowed; each must be an object with trouble, and may have"
                    f" {', '.join(RULE_KEYS[1:])}."
                )
        checked: list[dict[str, Any]] | None = found
        return checked


class PoliciesGet(Policies):
    """One policy with those who use it, or all."""

    def reply(self) -> Any:
        """See Service."""
        if not self.path:
            uses = policyactions.policy_uses(self.queues, LOOK)
            return self.listed(self.used(one, uses[one.name]) for one in self.queues.policies.values())
        policy = self.named()
        return {
            **self.used(policy, policyactions.policy_use(self.queues, policy.name)),
            "waits": seconds(policyactions.waits(policy)),
            "rule_waits": [seconds(policyactions.waits(policy, rule=rule)) for rule in policy.rules],
        }

    def used(self, policy: ConfiguredPolicy, use: policyactions.PolicyUse) -> dict[str, Any]:
        """One policy, with those who use it."""
        return {**self.told(policy), "used_by": {"tasks": list(use.tasks), "jobs": data.count(use.jobs)}}


def seconds(spans: list[timedelta]) -> list[float]:
    """Spans as JSON has them."""
    return [span.total_seconds() for span in spans]


class PoliciesPost(Policies):
    """Make a policy, which then belongs to the site; or make one again what the add-on ships."""

    most = 2

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        if self.path:
            return self._reset()
        self.refuse_others("name", "rules", *NUMBERS)
        name = self.take("name", str, required=True)
        policy = policyactions.create_policy(
            self.queues, name, self.rights.group, rules=self.rules() or (), **self.given(*NUMBERS)
        )
        self.made(self.url(name))
        return self.told(policy)

    def _reset(self) -> Any:
        if self.path[1:] != ["reset"]:
            raise NotFound(f"There is nothing at {self.said()!r}; POST {self.url(self.path[0], 'reset')}.")
        policy = self.editable()
        self.refuse_others()
        shipped = shipped_policies()
        if policy.name not in shipped:
            raise Conflict(f"The add-on ships no retry policy {policy.name!r}; it ships {', '.join(shipped)}.")
        policyactions.change_policy(policy, **shipped[policy.name])
        return self.told(policy)


class PoliciesPatch(Policies):
    """Change a policy. With ``version`` only if nobody has changed it since: else 409."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        policy = self.editable()
        self.refuse_others("rules", "version", *NUMBERS)
        version = self.take("version", str)
        policy._p_activate()
        if version is not None and version != policy._p_serial.hex():
            raise Conflict(
                f"The retry policy {policy.name!r} was changed since version {text_of(version, SHOWN)}; it is"
                f" {policy._p_serial.hex()!r} now. Look at it again."
            )
        policyactions.change_policy(policy, rules=self.rules(), **self.given(*NUMBERS))
        return self.told(policy)


class PoliciesDelete(Policies):
    """Remove a policy that nobody uses."""

    def reply(self) -> Any:
        """See Service."""
        self.permit_writing()
        policyactions.remove_policy(self.queues, self.editable().name)
        return self.reply_no_content()
