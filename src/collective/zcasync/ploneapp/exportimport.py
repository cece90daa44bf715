"""The profile steps for zcasync.xml: they create what is missing, and change what is marked so and one's own."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collective.zcasync import queueactions
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.ploneapp import profilexml
from collective.zcasync.ploneapp import sites
from collective.zcasync.queue import get_queues
from collective.zcasync.queue import install
from typing import Any

import logging

logger = logging.getLogger("collective.zcasync.profile")


def import_step(context: Any) -> None:
    """Read zcasync.xml, if the profile has one."""
    source = context.readDataFile(profilexml.FILENAME)
    if source is not None:
        description = profilexml.parse(source)
        site = context.getSite()
        Import(sites.connection_of(site), sites.group_of(site)).apply(description)


def export_step(context: Any) -> None:
    """Write zcasync.xml, if there are queues."""
    queues = get_queues(sites.connection_of(context.getSite()))
    if queues is not None:
        context.writeDataFile(profilexml.FILENAME, profilexml.serialize(describe(queues)), "text/xml")


def describe(queues: Any) -> profilexml.Description:
    """Everything that a file can say, as it is now."""
    return profilexml.Description(
        tuple(
            profilexml.PolicyNode(
                name,
                values={
                    key: value for key, value in policy.numbers().items() if key != "age_limit" or value is not None
                },
                rules=tuple(profilexml.RuleNode(profilexml.rule_name(rule), rule=rule) for rule in policy.rules),
            )
            for name, policy in queues.policies.items()
        ),
        tuple(
            profilexml.QueueNode(
                name,
                values={
                    "retention_days": queue.retention_days,
                    "failed_days": queue.failed_days,
                    "retention_jobs": queue.retention_jobs,
                    **({"default_priority": queue.default_priority} if queue.default_priority else {}),
                    **({"time_limit": queue.time_limit} if queue.time_limit is not None else {}),
                },
                quotas=tuple(
                    profilexml.Node(quota, values={"size": queue.quotas[quota].size}) for quota in sorted(queue.quotas)
                ),
                agents=tuple(_describe_agents(queue)),
            )
            for name, queue in queues.items()
        ),
    )


def _describe_agents(queue: Any) -> Iterator[profilexml.AgentNode]:
    for role, templates in queue.templates.items():
        for name, template in templates.items():
            values = {"size": template.size, "weight": template.weight, "prefetch": template.prefetch}
            yield profilexml.AgentNode(name, values=values, role=role)


class Import:
    """One import of a description by one site."""

    def __init__(self, connection: Any, group: str) -> None:
        self.queues = get_queues(connection) or install(connection, names=())
        self.connection = connection
        self.group = group

    def apply(self, description: profilexml.Description) -> None:
        """Do what the description says. What cannot be done is found before anything is changed."""
        self._check(description.policies)
        for policy in description.policies:
            self._policy(policy)
        for queue in description.queues:
            self._queue(queue)

    def _check(self, nodes: Iterable[profilexml.PolicyNode]) -> None:
        """Numbers that are right by themselves can be wrong beside those that a policy has."""
        for node in nodes:
            policy = self.queues.policies.get(node.name)
            if policy is None or not node.update:
                continue
            try:
                ConfiguredPolicy(node.name, **{**policy.numbers(), **node.values})
            except InvalidValueError as error:
                name, _, why = str(error).partition(": ")
                raise ConfigurationError(profilexml.fault(node.line, name.replace("_", "-"), why)) from error

    def _policy(self, node: profilexml.PolicyNode) -> None:
        policies = self.queues.policies
        policy = policies.get(node.name)
        what = f"retry policy {node.name!r}"
        if policy is None:
            if not node.remove:
                rules = [rule.rule for rule in node.rules if not rule.remove]
                policies[node.name] = ConfiguredPolicy(node.name, owner=self.group, rules=rules, **node.values)
                logger.info("%s added", what)
            return
        mine = self._own(what, policy.owner, lambda owner: setattr(policy, "owner", owner))
        if node.remove:
            if self._may(mine, what, node):
                del policies[node.name]
                logger.info("%s removed", what)
            return
        wanted = [rule for rule in node.rules if node.update or rule.update or rule.remove]
        if (node.update or wanted) and self._may(mine, what, node):
            changed = policy.update(rules=_merged(policy.rules, wanted), **(node.values if node.update else {}))
            if changed:
                logger.info("%s changed", what)

    def _queue(self, node: profilexml.QueueNode) -> None:
        what = f"queue {node.name!r}"
        queue = self.queues.get(node.name)
        if queue is None:
            if node.remove:
                return
            queue = queueactions.new_queue(self.connection, node.name, self.group)
            queueactions.set_values(queue, node.values)
        else:
            mine = self._own(what, queue.owner, lambda owner: setattr(queue, "owner", owner))
            if node.remove:
                self._remove_queue(queue, mine, node)
                return
            if node.update and self._may(mine, what, node) and queueactions.set_values(queue, node.values):
                logger.info("%s changed", what)
        for quota in node.quotas:
            self._quota(queue, quota)
        for agent in node.agents:
            self._agent(queue, agent)

    def _remove_queue(self, queue: Any, mine: bool, node: profilexml.QueueNode) -> None:
        what = f"queue {queue.name!r}"
        if not self._may(mine, what, node):
            return
        counts = queue.counts()
        if any(counts.values()) or any(da.activated is not None for da in queue.dispatchers.values()):
            logger.warning(
                "%s stays: it holds jobs (%s), or a dispatcher works for it. Import the profile again after that",
                what,
                _said(counts),
            )
            return
        del self.queues[queue.name]
        logger.info("%s removed", what)

    def _quota(self, queue: Any, node: profilexml.Node) -> None:
        what = f"quota {node.name!r} of queue {queue.name!r}"
        key = f"quota:{node.name}"
        if node.name not in queue.quotas:
            if not node.remove:
                queue.quotas.create(node.name, node.values.get("size", 1))
                queue.owners[key] = self.group
                logger.info("%s added", what)
            return
        mine = self._own(what, queue.owners.get(key, ""), lambda owner: queue.owners.update({key: owner}))
        if node.remove:
            if self._may(mine, what, node):
                queue.quotas.remove(node.name)
                queue.owners.pop(key, None)
                logger.info("%s removed", what)
            return
        size = node.values.get("size")
        if node.update and size is not None and self._may(mine, what, node) and queue.quotas[node.name].size != size:
            queue.quotas.resize(node.name, size)
            logger.info("%s changed", what)

    def _agent(self, queue: Any, node: profilexml.AgentNode) -> None:
        what = f"agent {node.role}/{node.name} of queue {queue.name!r}"
        key = f"agent:{node.role}/{node.name}"
        template = queue.templates.get(node.role, {}).get(node.name)
        if template is None:
            if not node.remove:
                queue.set_template(node.role, node.name, **node.values)
                queue.owners[key] = self.group
                logger.info("%s added", what)
            return
        mine = self._own(what, queue.owners.get(key, ""), lambda owner: queue.owners.update({key: owner}))
        if node.remove:
            if self._may(mine, what, node):
                queue.remove_template(node.role, node.name)
                queue.owners.pop(key, None)
                logger.info("%s removed", what)
            return
        if not node.update or not self._may(mine, what, node):
            return
        now = {"size": template.size, "weight": template.weight, "prefetch": template.prefetch}
        if {**now, **node.values} != now:
            queue.set_template(node.role, node.name, **{**now, **node.values})
            logger.info("%s changed", what)

    def _own(self, what: str, owner: str, pass_to: Callable[[str], None]) -> bool:
        """Whether this site owns it. What a second site names too belongs to none of them from then on."""
        if owner in ("", self.group):
            return owner == self.group
        pass_to("")
        logger.info(
            "%s was made by site %s and is named by site %s too: it belongs to the root now, and only a Zope manager"
            " changes it",
            what,
            self.queues.site_path(owner),
            self.queues.site_path(self.group),
        )
        return False

    def _may(self, mine: bool, what: str, node: profilexml.Node) -> bool:
        if not mine:
            logger.warning(
                "%s, line %d: %s stays as it is, since it does not belong to this site; a Zope manager can change it at"
                " the Zope root",
                profilexml.FILENAME,
                node.line,
                what,
            )
        return mine


def _merged(rules: Iterable[Any], nodes: Iterable[profilexml.RuleNode]) -> list[Any]:
    """A policy's rules with those of the nodes put over them."""
    merged = {profilexml.rule_name(rule): rule for rule in rules}
    for node in nodes:
        if node.remove:
            merged.pop(node.name, None)
        else:
            merged[node.name] = node.rule
    return list(merged.values())


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
