"""The repository keeps its own promises: pins, targets, contents of the wheel, nothing left open."""

from collections import Counter
from importlib import metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pathlib import Path

import configparser
import pytest
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile

#: In pieces, so that this file does not find itself.
LEFT_OPEN = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "Not" + "Implemented"))
NOT_IN_TESTS = r"time[.]sleep\(|pytest[.]skip\(|pytest[.]importorskip|mark[.]skip|mark[.]xfail|unittest[.]skip"


@pytest.fixture(scope="session")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def constraints(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {str(canonicalize_name(name)): version for name, version in pairs}


@pytest.fixture(scope="session")
def tracked(repository: Path) -> list[str]:
    """Files that git keeps, or would keep with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    output = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout
    return [line for line in output.splitlines() if (repository / line).exists()]


@pytest.fixture(scope="session")
def makefile(repository: Path) -> str:
    return (repository / "Makefile").read_text()


@pytest.fixture(scope="session")
def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^[.]PHONY: (\S+)$", makefile, re.MULTILINE))


@pytest.fixture(scope="session")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of what the wheel holds, built from a copy: nothing that lies about in build/ gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(repository / name, folder)
    ignore = shutil.ignore_patterns("*.egg-info", "__pycache__", "*.mo")
    shutil.copytree(repository / "src", folder / "src", ignore=ignore)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def matches(pattern: str, repository: Path, names: list[str]) -> list[str]:
    found = []
    for name in names:
        path = repository / name
        if path.suffix in (".png", ".mo", ".gif", ".ico"):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()}")
    return found


def test_the_installed_version_is_the_one_in_pyproject(project: dict) -> None:
    assert Version(metadata.version("collective.zcasync")) == Version(project["version"])


def test_declared_pythons_are_those_that_the_workflow_runs(repository: Path, project: dict) -> None:
    declared = re.findall(r"Python :: (3[.]\d+)", "\n".join(project["classifiers"]))
    workflow = (repository / ".github" / "workflows" / "tests.yml").read_text()
    assert re.findall(r'"(3[.]\d+)"', workflow) == declared
    assert project["requires-python"] == f">={declared[0]}"


def test_entry_points_lead_to_what_exists(project: dict) -> None:
    for entry_point in metadata.distribution("collective.zcasync").entry_points:
        if entry_point.group in ("console_scripts", "paste.filter_app_factory"):
            assert callable(entry_point.load())
    assert project["entry-points"]["z3c.autoinclude.plugin"] == {"target": "plone"}


def test_every_requirement_is_pinned(project: dict, constraints: dict[str, str]) -> None:
    requirements = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {str(canonicalize_name(Requirement(text).name)) for text in requirements} - {"collective-zcasync"}
    assert names - set(constraints) == set()


def test_what_a_buildout_installs_brings_no_argparse_in_place_of_pythons_own(project: dict) -> None:
    extras = {name: found for name, found in project["optional-dependencies"].items() if name != "dev"}
    named = {Requirement(text).name for found in (project["dependencies"], *extras.values()) for text in found}
    assert named & {"plone.observability", "ofs", "argparse"} == set()


def test_pip_and_buildout_pin_the_same_versions(repository: Path, constraints: dict[str, str]) -> None:
    parser = configparser.ConfigParser()
    parser.read(repository / "versions-6.2.cfg")
    versions = {str(canonicalize_name(name)): version for name, version in parser["versions"].items()}
    # Buildout brings its packages by pip, but pins it nowhere.
    assert versions == {name: version for name, version in constraints.items() if name != "pip"}


def test_what_makes_the_documentation_is_pinned(repository: Path) -> None:
    lines = (repository / "docs" / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {"furo", "myst-parser", "sphinx", "sphinxcontrib-mermaid"} <= {
        str(canonicalize_name(requirement.name)) for requirement in requirements
    }
    assert [str(r) for r in requirements if [clause.operator for clause in r.specifier] != ["=="]] == []


def test_make_help_tells_every_target(repository: Path, targets: set[str]) -> None:
    output = subprocess.run(["make"], cwd=repository, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"^  ([a-z-]+)", output, re.MULTILINE)) == targets
    assert {"help", "install", "start", "demo", "test", "lint", "format", "docs", "buildout", "clean"} <= targets


@pytest.mark.parametrize("path", [".ci/run", ".github/workflows/tests.yml", "CONTRIBUTING.md", "README.md"])
def test_only_targets_that_exist_are_called(repository: Path, targets: set[str], path: str) -> None:
    called = re.findall(r"(?:^|run: |`)make ([a-z][a-z-]*)", (repository / path).read_text(), re.MULTILINE)
    assert called
    assert set(called) - targets == set()


@pytest.mark.parametrize("version", [(3, 10, 12), (3, 13, 0)])
def test_a_python_that_cannot_run_plone_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=".".join(map(str, version)) + ".*make PYTHON="):
        runpy.run_path(str(repository / "scripts" / "checkpython.py"))


@pytest.mark.parametrize("version", [(3, 11, 2), (3, 12, 1), (3, 13, 1)])
def test_a_python_that_runs_plone_is_taken(
    repository: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    runpy.run_path(str(repository / "scripts" / "checkpython.py"))


def test_the_wheel_holds_every_file_of_the_package(tracked: list[str], wheel: list[str]) -> None:
    ours = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    assert ours - set(wheel) == set()
    assert "collective/zcasync/py.typed" in wheel
    assert "collective/zcasync/configure.zcml" in wheel


def test_the_wheel_holds_each_translation_compiled_as_zope_reads_nothing_else(wheel: list[str]) -> None:
    translations = {name for name in wheel if name.endswith(".po")}
    assert {
        f"collective/zcasync/locales/{code}/LC_MESSAGES/collective.zcasync.po" for code in ("ar", "de")
    } <= translations
    assert {name for name in wheel if name.endswith(".mo")} == {f"{name[:-2]}mo" for name in translations}


def test_the_wheel_holds_nothing_else(wheel: list[str]) -> None:
    others = [name for name in wheel if not name.startswith("collective/zcasync/") and ".dist-info/" not in name]
    assert others == []
    assert "collective/__init__.py" not in wheel


def test_nothing_is_left_open(repository: Path, tracked: list[str]) -> None:
    assert matches(LEFT_OPEN, repository, [name for name in tracked if name != "LICENSE"]) == []


def test_no_test_sleeps_or_is_skipped(repository: Path, tracked: list[str]) -> None:
    tests = [name for name in tracked if name.startswith("tests/") and name.endswith(".py")]
    assert matches(NOT_IN_TESTS, repository, tests) == []


def test_no_module_is_longer_than_a_reader_can_hold(repository: Path, tracked: list[str]) -> None:
    modules = [name for name in tracked if name.startswith("src/") and name.endswith(".py")]
    lengths = {name: len((repository / name).read_text().splitlines()) for name in modules}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_names_of_test_files_are_unique(tracked: list[str]) -> None:
    # Without __init__.py pytest imports them by their bare names.
    names = Counter(Path(name).name for name in tracked if re.fullmatch(r"tests/.*[.]py", name))
    assert [name for name, count in names.items() if count > 1 and name != "conftest.py"] == []


def test_every_news_fragment_has_a_known_kind(repository: Path, tracked: list[str]) -> None:
    towncrier = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["towncrier"]
    kinds = {kind["directory"] for kind in towncrier["type"]}
    fragments = [Path(name).name for name in tracked if name.startswith("news/")]
    assert fragments
    for fragment in fragments:
        assert re.fullmatch(rf"[+\w-]+[.]({'|'.join(kinds)})[.]rst", fragment)
