"""The code of README, tutorial and guides, run in a Plone site."""

from collections.abc import Iterator
from collective.zcasync.testing import assert_put
from collective.zcasync.testing import run_jobs
from docblocks import Block
from docblocks import blocks
from docblocks import DOCS
from docblocks import run
from docblocks import save
from functools import partial
from pathlib import Path
from plone import api
from plone.app.testing import popGlobalRegistry
from plone.app.testing import pushGlobalRegistry
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.namedfile.file import NamedBlobFile
from types import ModuleType
from typing import Any
from zope.configuration import xmlconfig

import importlib
import pytest
import re
import sys
import transaction

GUIDE = DOCS / "how-to-guides" / "test-your-addon.md"


@pytest.fixture
def site(portal: Any) -> Any:
    setRoles(portal, TEST_USER_ID, ["Manager"])
    return portal


@pytest.fixture
def registry(portal: Any) -> Iterator[Any]:
    """A component registry for what a page registers; dropped after the test."""
    yield pushGlobalRegistry(portal)
    popGlobalRegistry(portal)


@pytest.fixture
def readme(repository: Path, modules: Path) -> tuple[ModuleType, Block]:
    """The module with the README's task, and how it is put."""
    task, put = blocks(repository / "README.md", "python")
    save(task._replace(file="readme_jobs.py"), modules)
    return importlib.import_module("readme_jobs"), put


def make_folder(site: Any) -> Any:
    """A folder with two files."""
    setRoles(site, TEST_USER_ID, ["Manager"])
    folder = api.content.create(site, "Folder", "folder")
    for name, data in (("a", b"hello"), ("b", b"goodbye")):
        api.content.create(folder, "File", name, file=NamedBlobFile(data, filename=f"{name}.txt"))
    return folder


@pytest.fixture
def folder(site: Any) -> Any:
    return make_folder(site)


def test_the_first_task_of_the_readme_runs(site: Any, folder: Any, readme: tuple[ModuleType, Block]) -> None:
    module, put = readme
    job = run(put, "readme_put", measure=module.measure, folder=folder)["job"]
    assert folder.description == ""
    run_jobs(site)
    assert folder.description == job.result == "12 bytes in 2 files"
    (brain,) = api.content.find(site, Description="bytes")
    assert brain.getPath() == "/plone/folder"


def test_the_tests_of_the_guide_pass(site: Any, folder: Any, readme: tuple[ModuleType, Block]) -> None:
    for name in (
        "test_saving_puts_one_job",
        "test_the_folder_is_measured",
        "test_the_folder_is_measured_an_hour_later",
    ):
        run_jobs(site)  # of the test before
        guide(name, measure=readme[0].measure)(site)


def test_the_test_with_jobs_at_each_commit_passes_in_the_inline_layer(
    inline: Any, readme: tuple[ModuleType, Block]
) -> None:
    make_folder(inline["portal"])
    transaction.commit()
    guide("test_the_folder_is_measured_at_the_commit", measure=readme[0].measure)(inline["portal"])


def test_the_test_with_a_dispatcher_passes_in_a_functional_layer(
    functional_portal: Any, functional: Any, readme: tuple[ModuleType, Block]
) -> None:
    make_folder(functional_portal)
    transaction.commit()
    test = guide("test_the_folder_is_measured_in_the_background", measure=readme[0].measure)
    test(functional_portal, functional["zodbDB"])


def test_the_test_with_fixtures_passes(site: Any, folder: Any, readme: tuple[ModuleType, Block]) -> None:
    test = guide("test_the_folder_is_measured_once", measure=readme[0].measure)
    test(site, partial(assert_put, site), partial(run_jobs, site))


def test_the_test_case_of_the_guide_passes(integration: Any, folder: Any, readme: tuple[ModuleType, Block]) -> None:
    layer = sys.modules["guide_layers"].INTEGRATION
    case = guide("TestMeasure", measure=readme[0].measure, INTEGRATION=layer)
    case("test_the_folder_is_measured").debug()


def test_the_test_without_plone_passes(tmp_path: Path) -> None:
    guide("test_a_job_runs_an_hour_later")(tmp_path)


def guide(wanted: str, **names: Any) -> Any:
    """What a block of the guide defines under that name; the block is run."""
    (block,) = [block for block in blocks(GUIDE, "python") if re.search(rf"^(def|class) {wanted}\b", block.text, re.M)]
    return run(block, "guide_tests", **names)[wanted]


def test_the_add_on_of_the_tutorial_works(registry: Any, site: Any, modules: Path, repository: Path) -> None:
    page = repository / "docs" / "tutorials" / "first-job.md"
    for block in blocks(page):
        if block.language == "python" and block.file:
            save(block, modules)
    (modules / "my" / "site" / "__init__.py").touch()
    (zcml,) = (block for block in blocks(page, "xml"))
    xmlconfig.string(
        f'<configure xmlns="http://namespaces.zope.org/zope" package="my.site">{zcml.text}</configure>',
        context=xmlconfig.file("meta.zcml", importlib.import_module("zope.component")),
    )
    importlib.import_module("tests.test_words").test_a_changed_page_knows_its_words(site)


def test_the_conftest_of_the_guide_makes_fixtures_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my", "my.site"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "my.site.testing", sys.modules["guide_layers"])
    (block,) = [block for block in blocks(GUIDE, "python") if "fixtures_factory" in block.text]
    names = run(block, "guide_conftest")
    # What they do is proven by the add-on of the guide, which is run as a whole.
    assert {"_keep_integration_session", "_keep_functional_session", "_keep_inline_session"} <= set(names)
