"""Mutation testing of engine modules by hand: each small change of a module is to be noticed by a test.

make mutants ARGS="retry callbacks"

The changes are those of mutmut; each is tried in a process of its own, which is forked when all that is not ours is
imported, with the tests that came to the changed line when they ran under coverage. What was tried is remembered, and
not tried again unless the module changes: a run can be stopped and resumed. Not changed are annotations, decorators,
docstrings, imports and the texts of the log.
"""

from collections.abc import Iterator
from coverage import CoverageData
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.mutators import operator_string
from pathlib import Path
from typing import Any

import argparse
import contextlib
import difflib
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import libcst
import os
import pytest
import signal
import sys
import time

REPOSITORY = Path(__file__).parent.parent
SOURCES = REPOSITORY / "src" / "collective" / "zcasync"
LEARNT = REPOSITORY / ".mutants.coverage"
SECONDS = LEARNT.with_suffix(".json")

#: Not asked: they drive whole worlds, processes or races, and would find nearly everything, in minutes.
SLOW = ("model", "modelmutations", "races", "processes", "startprocess")

#: Seconds after which a mutant is taken to hang.
PATIENCE = 120


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="such as retry")
    parser.add_argument("--share", type=int, default=1, help="try every so many-th mutant")
    parser.add_argument("--learn", action="store_true", help="see anew which tests come to which lines")
    parser.add_argument("--again", action="store_true", help="try those again that survived")
    parser.add_argument(
        "--most", type=float, default=20, help="seconds of tests for one mutant; the quickest are taken"
    )
    parser.add_argument("--state", type=Path, default=REPOSITORY / ".mutants.results.json", help="what was tried")
    return parser.parse_args()


# Which tests come to which lines


class Stopwatch:
    """A plugin that notes how long each test took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = round(self.seconds.get(report.nodeid, 0) + report.duration, 3)


def learn() -> None:
    """Run the engine's quick tests under coverage, each as a context of its own."""
    os.environ["COVERAGE_FILE"] = str(LEARNT)
    watch = Stopwatch()
    slow = [f"--ignore=tests/engine/test_engine_{name}.py" for name in SLOW]
    quiet = ["-q", "--cov=collective.zcasync", "--cov-context=test", "--cov-report=", "--cov-config=/dev/null"]
    pytest.main(["tests/engine", *slow, *quiet, "-k", "not zeo", "-m", "not processes"], plugins=[watch])
    SECONDS.write_text(json.dumps(watch.seconds, indent=1))


class Tests:
    """The tests to ask about a line."""

    def __init__(self, path: Path, most: float) -> None:
        data = CoverageData(str(LEARNT))
        data.read()
        self.most = most
        self.seconds = json.loads(SECONDS.read_text())
        learnt = [name for name in data.measured_files() if name.endswith(f"/zcasync/{path.name}")]
        self.by_line = data.contexts_by_lineno(learnt[0]) if learnt else {}

    def ask(self, first: int, last: int) -> list[str]:
        """Those that came to one of the lines, the quickest first. A line that runs at import concerns all."""
        contexts = {one for line in range(first, last + 1) for one in self.by_line.get(line, ())}
        if "" in contexts:
            contexts = {one for line in self.by_line.values() for one in line}
        names = {context.rpartition("|")[0] for context in contexts if context}
        chosen, total = [], 0.0
        for name in sorted(names, key=lambda name: (self.seconds.get(name, 1), name)):
            total += self.seconds.get(name, 1)
            if chosen and total > self.most:
                break
            chosen.append(name)
        return chosen


# The mutants


class Finder(libcst.CSTVisitor):
    """Finds the nodes that can be changed: (node, changed node)."""

    METADATA_DEPENDENCIES = (libcst.metadata.ByteSpanPositionProvider,)

    def __init__(self) -> None:
        self.found: list[tuple[libcst.CSTNode, libcst.CSTNode]] = []
        self.spans: dict[libcst.CSTNode, Any] = {}

    def on_visit(self, node: libcst.CSTNode) -> bool:
        if self._is_left_out(node):
            return False
        self.spans[node] = self.get_metadata(libcst.metadata.ByteSpanPositionProvider, node, None)
        for kind, change in mutation_operators:
            if isinstance(node, kind):
                changed = list(change(node))[: 1 if change is operator_string else None]  # not also upper and lower
                self.found += [(node, one) for one in changed]
        return True

    @staticmethod
    def _is_left_out(node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.Call):
            called = libcst.Module([]).code_for_node(node.func)
            return called.startswith(("logger.", "tracelog.", "logging.")) or called in ("len", "isinstance", "repr")
        if isinstance(node, libcst.SimpleStatementLine) and isinstance(node.body[0], libcst.Expr):
            return isinstance(node.body[0].value, libcst.SimpleString)
        if isinstance(node, libcst.Assign):
            return libcst.Module([]).code_for_node(node.targets[0].target) == "__all__"
        return isinstance(node, libcst.Annotation | libcst.Decorator | libcst.Import | libcst.ImportFrom)


def mutants(text: str) -> Iterator[tuple[str, int, int]]:
    """(text, first line, last line) of each mutant of a module."""
    wrapper, finder, source = libcst.metadata.MetadataWrapper(libcst.parse_module(text)), Finder(), text.encode()
    wrapper.visit(finder)
    seen = {text}
    for node, changed in finder.found:
        span = finder.spans[node]
        if span is None:
            continue
        end = span.start + span.length
        instead = libcst.Module([]).code_for_node(changed).encode()
        mutant = (source[: span.start] + instead + source[end:]).decode()
        if mutant not in seen:
            seen.add(mutant)
            yield mutant, source.count(b"\n", 0, span.start) + 1, source.count(b"\n", 0, end) + 1


def difference(text: str, mutant: str) -> str:
    lines = difflib.unified_diff(text.splitlines(), mutant.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


# Trying one


def warm_up() -> None:
    """Import what the tests import, but nothing of ours: each fork then has it."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(["-q", "--collect-only", "-p", "no:cov", "tests/engine"])
        ours = (str(REPOSITORY / "src"), str(REPOSITORY / "tests"), str(REPOSITORY / "scripts"))
        files = ((name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()))
        os.write(writer, " ".join(name for name, file in files if file and not file.startswith(ours)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as names:
        for name in names.read().split():
            if name != "__main__":
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)


class Mutated(importlib.machinery.SourceFileLoader):
    """Imports one module from a text."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(name, str(path))
        self.text = text

    def find_spec(self, name: str, *args: Any) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.text, self.path, "exec")


def survives(name: str, path: Path, text: str, tests: list[str]) -> bool:
    """Whether all tests pass with the module's text."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        code = 1
        try:
            sys.meta_path.insert(0, Mutated(name, path, text))  # type: ignore[arg-type]
            code = int(pytest.main(["-x", "-q", "-p", "no:cov", "--timeout=60", *tests]))
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> int:
    asked = arguments()
    os.chdir(REPOSITORY)
    if asked.learn or not LEARNT.exists():
        if os.fork() == 0:
            learn()
            os._exit(0)
        os.wait()
    warm_up()
    done = json.loads(asked.state.read_text()) if asked.state.exists() else {}
    for module in asked.modules:
        path = SOURCES / f"{module}.py"
        text, tests = path.read_text(), Tests(path, asked.most)
        rows = list(mutants(text))[:: asked.share]
        mine = {}
        for number, (mutant, first, last) in enumerate(rows, 1):
            key = hashlib.sha1(mutant.encode()).hexdigest()
            row = done.get(key)
            if row is None or asked.again and row["survived"]:
                ask = tests.ask(first, last)
                survived = not ask or survives(f"collective.zcasync.{module}", path, mutant, ask)
                row = {"module": module, "line": first, "tests": len(ask), "survived": survived}
                row["change"] = difference(text, mutant) if survived else ""
                done[key] = row
                asked.state.write_text(json.dumps(done, indent=1))
                if survived:
                    print(f"{module}:{first} ({len(ask)} tests, {number} of {len(rows)})\n{row['change']}", flush=True)
            mine[key] = row
        left = sum(row["survived"] for row in mine.values())
        print(f"{module}: {len(mine)} mutants tried, {len(mine) - left} killed, {left} survived", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
