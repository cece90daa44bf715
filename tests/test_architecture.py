"""The rings of the package: every import is read, and each must lead inwards."""

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ast
import pytest
import shutil
import sys

PACKAGE = "collective.zcasync"
SOURCE = Path(__file__).parent.parent / "src" / "collective" / "zcasync"

#: What the engine may import beside the standard library: nothing that needs a Zope server.
ENGINE_LIBRARIES = {
    "BTrees",
    "opentelemetry",
    "persistent",
    "transaction",
    "twisted",
    "ZEO",
    "ZODB",
    "zodbpickle",
    "zope.component",
    "zope.event",
    "zope.i18nmessageid",
    "zope.interface",
}

#: The modules of the engine in import order: each imports only those before it. A new one is given its place here.
ENGINE_ORDER = """
    logs exceptions inprocess counters events i18n interfaces states
    clock instanceuuid persistence readchecks schema threadlocal failuredata failure transactions freshoids
    notify lookup lanes waiting coroutines outcomes sequences callables readable representation utils jobinfo door
    configuredpolicy retry fence neighbours politeness shares solitude
    tracing surroundings ending joblog running deferreds decisions attempts interruptions
    letters filing sweeping
    callbacks callbackruns direct execution calls job quota history slot series entries rejections moves
    spilling claims
    takeover dispatchers places puts queues rightofway deployment
    groups queue agent wakeup threadpool pollinfo introspection observer heartbeat mail seenfile
    ownership membership news
    laning agentclaims upkeep claiming claimthread dispatcher reactor signals subscribers adapters configure
    z3
    monitorrows jobdetail jobtree jobsearch jobentries joblists
    activity plaindata monitor jobselection monitordb findings doctordispatchers doctor putmany tasks jsonvalues
    taskarguments api actions queueactions policyactions
    ownjobs
    processes copies alarms figures figurereading spans
    bulk manyjobs foreground queuemoves
    testtime testwait testreactor testputs testinline testing testmixins ftesting
""".split()

#: The rings around the engine, from the inside out, each with the libraries that it may not import.
#: A ring may import the rings before it, but not those that stand on the same line.
OUTER_RINGS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"zopeapp": ("plone", "Products.CMFCore", "Products.CMFPlone", "Products.GenericSetup", "z3c.form")},
    {"ploneapp": ()},
    {"browser": (), "restapi": (), "upgrades": ()},
    {"demo": ()},
)


@dataclass(frozen=True)
class Import:
    """One name that a module imports, and where."""

    path: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.name}"


def imports(root: Path) -> Iterator[Import]:
    """All names that the modules below this folder import, wherever in the module that is done."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        package = [*PACKAGE.split("."), *relative.parts[:-1]]
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # One dot is the package of the module itself, each further one its parent.
                above = package[: len(package) + 1 - node.level] if node.level else []
                module = ".".join([*above, *(node.module or "").split(".")]).strip(".")
                names = [f"{module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                yield Import(str(relative), node.lineno, name)


def belongs_to(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def ring_of(path: str) -> str:
    """The folder that a module stands in; "" for the engine."""
    first, *rest = Path(path).parts
    return first if rest else ""


def own_part(name: str) -> str | None:
    """The module or ring in a name of ours: "job" in collective.zcasync.job.Job, "" for the package; else None."""
    if not belongs_to(name, (PACKAGE,)):
        return None
    return name.removeprefix(PACKAGE).lstrip(".").split(".")[0]


def leads_to_a_ring(root: Path, part: str) -> bool:
    return part != "" and (root / part).is_dir()


def engine_faults(root: Path) -> list[str]:
    """Imports of the engine that lead to Zope, to Plone, or outwards."""
    faults = []
    for found in imports(root):
        if ring_of(found.path):
            continue
        part = own_part(found.name)
        if part is not None:
            allowed = not leads_to_a_ring(root, part)
        else:
            top = found.name.split(".")[0]
            allowed = top in sys.stdlib_module_names or belongs_to(found.name, ENGINE_LIBRARIES)
        if not allowed:
            faults.append(str(found))
    return faults


def ring_faults(root: Path) -> list[str]:
    """Imports of the outer rings that lead outwards or sideways, or to a library that is not theirs."""
    faults = []
    every = list(imports(root))
    inner: set[str] = set()
    for level in OUTER_RINGS:
        for ring, forbidden in level.items():
            for found in every:
                if ring_of(found.path) != ring:
                    continue
                part = own_part(found.name)
                outwards = part is not None and leads_to_a_ring(root, part) and part not in {*inner, ring}
                if outwards or belongs_to(found.name, forbidden):
                    faults.append(str(found))
        inner.update(level)
    return faults


def order_faults(root: Path) -> list[str]:
    """Imports within the engine that lead to a module further down in the order."""
    faults = []
    for found in imports(root):
        module, part = Path(found.path).stem, own_part(found.name)
        if ring_of(found.path) or module == "__init__" or part not in ENGINE_ORDER:
            continue
        if module in ENGINE_ORDER and ENGINE_ORDER.index(part) >= ENGINE_ORDER.index(module):
            faults.append(str(found))
    return faults


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package as it is, with every ring in place."""
    copy = Path(shutil.copytree(SOURCE, tmp_path / "zcasync"))
    for level in OUTER_RINGS:
        for ring in level:
            (copy / ring).mkdir(exist_ok=True)
    return copy


def add(line: str, module: Path) -> None:
    old = module.read_text() if module.exists() else ""
    module.write_text(f"{old}\n{line}\n")


def modules_of(faults: list[str]) -> list[str]:
    return [fault.split(":")[0] for fault in faults]


def test_the_engine_imports_neither_zope_nor_plone_nor_an_outer_ring() -> None:
    assert engine_faults(SOURCE) == []


def test_outer_rings_import_only_inwards() -> None:
    assert ring_faults(SOURCE) == []


def test_modules_of_the_engine_import_only_those_before_them() -> None:
    assert order_faults(SOURCE) == []


def test_every_module_of_the_engine_has_its_place_in_the_order() -> None:
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    assert modules - set(ENGINE_ORDER) == set()


def test_every_folder_with_modules_is_a_known_ring() -> None:
    folders = {ring_of(found.path) for found in imports(SOURCE)} - {""}
    assert folders - {ring for level in OUTER_RINGS for ring in level} == set()


@pytest.mark.parametrize(
    "line",
    [
        "from plone import api",
        "import Products.CMFPlone",
        "from AccessControl import getSecurityManager",
        "from zope.globalrequest import getRequest",
        "from collective.zcasync.ploneapp import context",
        "from .zopeapp import config",
        "def late():\n    from OFS.SimpleItem import SimpleItem",
    ],
)
def test_an_import_that_leads_out_of_the_engine_is_found(copy: Path, line: str) -> None:
    add(line, copy / "job.py")
    assert modules_of(engine_faults(copy)) == ["job.py"]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("zopeapp/added.py", "from plone import api"),
        ("zopeapp/added.py", "from Products.CMFCore.utils import getToolByName"),
        ("zopeapp/added.py", "from collective.zcasync.ploneapp import context"),
        ("zopeapp/added.py", "from ..browser import anything"),
        ("ploneapp/added.py", "from collective.zcasync.browser import anything"),
        ("browser/added.py", "from collective.zcasync import upgrades"),
        ("browser/added.py", "from collective.zcasync.demo import anything"),
    ],
)
def test_an_import_that_leads_outwards_or_sideways_is_found(copy: Path, module: str, line: str) -> None:
    add(line, copy / module)
    assert modules_of(ring_faults(copy)) == [module]


def test_an_import_against_the_order_is_found(copy: Path) -> None:
    add("from collective.zcasync.queue import Queue", copy / "job.py")
    assert modules_of(order_faults(copy)) == ["job.py"]
