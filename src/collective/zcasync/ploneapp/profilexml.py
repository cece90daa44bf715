"""The file zcasync.xml of a profile: read into plain descriptions, checked as a whole, and written back."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collective.zcasync.configuredpolicy import check_numbers
from collective.zcasync.configuredpolicy import ConfiguredPolicy
from collective.zcasync.configuredpolicy import make_rule
from collective.zcasync.configuredpolicy import RANGES
from collective.zcasync.configuredpolicy import RULE_FIELDS
from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.queueactions import AGENT_NUMBERS
from collective.zcasync.queueactions import QUEUE_NUMBERS
from collective.zcasync.queueactions import QUOTA_SIZES
from dataclasses import dataclass
from dataclasses import field
from lxml import etree
from typing import Any

FILENAME = "zcasync.xml"

#: How the file writes "no limit".
UNLIMITED = "unlimited"


@dataclass(frozen=True)
class Node:
    """One element that names a thing: create it if it is missing, change it, or remove it."""

    name: str
    line: int = 0
    update: bool = False
    remove: bool = False
    #: Python names of the attributes that the element gives, with their values.
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RuleNode(Node):
    """One <on>. Its name is what it is about: kind of trouble and, if it is about one, exception class."""

    rule: Any = ()


@dataclass(frozen=True)
class PolicyNode(Node):
    rules: tuple[RuleNode, ...] = ()


@dataclass(frozen=True)
class AgentNode(Node):
    role: str = ""


@dataclass(frozen=True)
class QueueNode(Node):
    quotas: tuple[Node, ...] = ()
    agents: tuple[AgentNode, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a whole file says."""

    policies: tuple[PolicyNode, ...] = ()
    queues: tuple[QueueNode, ...] = ()


def parse(source: str | bytes) -> Description:
    """Read a file; ConfigurationError names line and attribute of everything that is wrong in it."""
    return _Reader().read(source)


def serialize(description: Description) -> bytes:
    """Write a file that ``parse`` reads as the same description."""
    root = etree.Element("zcasync")
    for policy in description.policies:
        element = etree.SubElement(root, "policy", name=policy.name)
        _write(element, policy.values)
        for node in policy.rules:
            _write(etree.SubElement(element, "on"), {key: value for key, value in node.rule if value != ""})
    for queue in description.queues:
        element = etree.SubElement(root, "queue", name=queue.name)
        _write(element, queue.values)
        for quota in queue.quotas:
            _write(etree.SubElement(element, "quota", name=quota.name), quota.values)
        for agent in queue.agents:
            _write(etree.SubElement(element, "agent", name=agent.name, role=agent.role), agent.values)
    return etree.tostring(root, pretty_print=True, xml_declaration=True, encoding="utf-8")


def rule_name(rule: Any) -> str:
    """What a stored rule is about, as the name of its node."""
    told = dict(rule)
    return f"{told['trouble']} {told['exception']}".strip()


def fault(line: int, attribute: str, why: str) -> str:
    """How a fault is told, wherever it is found."""
    return f"{FILENAME}, line {line}, attribute {attribute!r}: {why}"


def _write(element: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        element.set(name.replace("_", "-"), _as_text(value))


def _as_text(value: Any) -> str:
    if value is None:
        return UNLIMITED
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


class _Reader:
    """One reading. It goes on after a fault, so that a person sees all of them at once."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def read(self, source: str | bytes) -> Description:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
        try:
            root = etree.fromstring(source.encode() if isinstance(source, str) else source, parser)
        except etree.XMLSyntaxError as error:
            raise ConfigurationError(
                f"{FILENAME}, line {error.lineno}: this is no XML: {error.msg}; correct the line"
            ) from error
        if root.tag != "zcasync":
            self.faults.append(
                f"{FILENAME}, line {root.sourceline}: <{root.tag}> is not <zcasync>, the root that is wanted"
            )
        self.attributes(root, {})
        policies, queues = [], []
        for child in self.children(root, ("policy", "queue")):
            if child.tag == "policy":
                policies.append(self.policy(child))
            else:
                queues.append(self.queue(child))
        self.no_doubles("policy", policies)
        self.no_doubles("queue", queues)
        if self.faults:
            raise ConfigurationError("\n".join(self.faults))
        return Description(tuple(policies), tuple(queues))

    def policy(self, element: Any) -> PolicyNode:
        known: dict[str, Callable[[str], Any]] = {name: _policy_number(name) for name in RANGES}
        node = self.node(element, known)
        rules = [self.rule(child) for child in self.children(element, ("on",))]
        self.no_doubles("on", rules)
        self.checked(element, lambda: ConfiguredPolicy(node["name"], **node["values"]))
        return PolicyNode(**node, rules=tuple(rules))

    def rule(self, element: Any) -> RuleNode:
        known: dict[str, Callable[[str], Any]] = {name: _policy_number(name) for name in RULE_FIELDS}
        told = self.attributes(
            element,
            {"trouble": str, "exception": str, "update": _flag, "remove": _flag, **known},
            required=("trouble",),
        )
        list(self.children(element, ()))
        flags = self.flags(element, told)
        rule = self.checked(element, lambda: make_rule(**told)) if "trouble" in told else None
        name = rule_name(rule) if rule else f"in line {element.sourceline}"
        return RuleNode(name=name, line=element.sourceline, **flags, rule=rule or ())

    def queue(self, element: Any) -> QueueNode:
        numbers = {
            "retention_days": _days,
            "failed_days": _days,
            "retention_jobs": _whole(*QUEUE_NUMBERS["retention_jobs"]),
            "default_priority": _whole(*QUEUE_NUMBERS["default_priority"]),
            "time_limit": _limit,
        }
        node = self.node(element, numbers, empty_name=True)
        quotas, agents = [], []
        for child in self.children(element, ("quota", "agent")):
            if child.tag == "quota":
                quotas.append(Node(**self.node(child, {"size": _whole(*QUOTA_SIZES)})))
            else:
                told = self.node(
                    child,
                    {"role": _text, **{number: _whole(*limits) for number, limits in AGENT_NUMBERS.items()}},
                    required=("role",),
                )
                role = told["values"].pop("role", "")
                agents.append(AgentNode(**told, role=role))
            list(self.children(child, ()))
        self.no_doubles("quota", quotas)
        self.no_doubles("agent", agents, lambda agent: f"{agent.role}/{agent.name}")
        return QueueNode(**node, quotas=tuple(quotas), agents=tuple(agents))

    def node(
        self,
        element: Any,
        known: Mapping[str, Callable[[str], Any]],
        required: tuple[str, ...] = (),
        empty_name: bool = False,
    ) -> dict[str, Any]:
        """What all elements with a name have in common, as arguments of a Node."""
        common = {"name": str if empty_name else _text, "update": _flag, "remove": _flag}
        told = self.attributes(element, {**common, **known}, required=("name", *required))
        name, flags = told.pop("name", ""), self.flags(element, told)
        return {"name": name, "line": element.sourceline, **flags, "values": told}

    def flags(self, element: Any, told: dict[str, Any]) -> dict[str, bool]:
        """Take update and remove out of the attributes."""
        update, remove = told.pop("update", False), told.pop("remove", False)
        if update and remove:
            self.faults.append(fault(element.sourceline, "update", "a thing cannot be changed and removed at once"))
        return {"update": update, "remove": remove}

    def attributes(
        self, element: Any, known: Mapping[str, Callable[[str], Any]], required: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The attributes as Python values under Python names; what is wrong is noted and left out."""
        values = {}
        for name, text in element.attrib.items():
            convert = known.get(name.replace("-", "_")) if "_" not in name else None
            if convert is None:
                allowed = ", ".join(key.replace("_", "-") for key in known) or "none"
                why = f"<{element.tag}> has no such attribute; it has {allowed}"
                self.faults.append(fault(element.sourceline, name, why))
                continue
            try:
                values[name.replace("-", "_")] = convert(text)
            except ValueError as error:
                self.faults.append(fault(element.sourceline, name, str(error)))
        for name in required:
            if name not in element.attrib:
                self.faults.append(fault(element.sourceline, name, f"<{element.tag}> needs it"))
        return values

    def children(self, element: Any, allowed: tuple[str, ...]) -> Iterable[Any]:
        for child in element:
            if child.tag in allowed:
                yield child
                continue
            inside = ", ".join(f"<{tag}>" for tag in allowed) or "nothing"
            self.faults.append(
                f"{FILENAME}, line {child.sourceline}: <{child.tag}> does not belong into <{element.tag}>; allowed:"
                f" {inside}"
            )

    def checked(self, element: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` returns; the engine's own word about a value becomes a fault of this line."""
        try:
            return make()
        except InvalidValueError as error:
            name, _, why = str(error).partition(": ")
            for word in RANGES:
                why = why.replace(word, word.replace("_", "-"))
            self.faults.append(fault(element.sourceline, name.replace("_", "-"), why))
        return None

    def no_doubles(self, tag: str, nodes: Iterable[Any], key: Callable[[Any], str] = lambda node: node.name) -> None:
        seen: dict[str, int] = {}
        for node in nodes:
            if key(node) in seen:
                why = f"there is a <{tag}> for {key(node)!r} in line {seen[key(node)]} already"
                self.faults.append(fault(node.line, "trouble" if tag == "on" else "name", why))
            seen.setdefault(key(node), node.line)


def _policy_number(name: str) -> Callable[[str], Any]:
    """Reads one number of a policy, within the bounds that the engine knows."""

    def convert(text: str) -> Any:
        value: Any = None
        if text.strip() != UNLIMITED:
            try:
                value = int(text)
            except ValueError:
                try:
                    value = float(text)
                except ValueError:
                    value = text
        try:
            return check_numbers(**{name: value})[name]
        except InvalidValueError as error:
            why = str(error).partition(": ")[2]
            raise ValueError(why.replace("None for no limit", UNLIMITED)) from error

    return convert


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ValueError(f"{text!r} is not allowed; allowed are whole numbers from {least} to {most}")
        return value

    return convert


def _days(text: str) -> int | float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 36500:
        raise ValueError(f"{text!r} is not allowed; allowed are days, more than 0 and at most 36500")
    return int(value) if value.is_integer() else value


def _limit(text: str) -> float | None:
    try:
        value = None if text.strip() == UNLIMITED else float(text)
    except ValueError:
        value = 0.0
    least, most = QUEUE_NUMBERS["time_limit"]
    if value is not None and not least <= value <= most:
        raise ValueError(f"{text!r} is not allowed; allowed are seconds from {least:g} to {most:.0f}, or {UNLIMITED!r}")
    return value


def _text(text: str) -> str:
    if not text.strip() or text != text.strip():
        raise ValueError(f"{text!r} is not allowed; allowed is text that does not begin or end with a space")
    return text


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is not allowed; allowed are 'true' and 'false'")
    return text == "true"
