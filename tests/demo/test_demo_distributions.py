"""What the demo reads of a distribution, and what it refuses."""

from collections.abc import Callable
from collective.zcasync.demo.distributions import canonical
from collective.zcasync.demo.distributions import describe
from collective.zcasync.demo.distributions import names
from collective.zcasync.demo.distributions import NoDescription
from pathlib import Path

import pytest

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution that has nothing but metadata, and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(readme: str, *fields: str) -> str:
        folder = tmp_path / "sample-1.0.dist-info"
        folder.mkdir()
        head = ("Metadata-Version: 2.4", "Name: sample", "Version: 1.0", *fields)
        (folder / "METADATA").write_text("\n".join(head) + f"\n\n{readme}\n")
        return "sample"

    return install


def test_a_distribution_is_described_by_its_metadata(install: Install) -> None:
    description = describe(
        install("Title\n=====\n\nHello *world*.", "Summary: Says hello", "Classifier: Framework :: Plone")
    )
    assert (description.name, description.version, description.summary) == ("sample", "1.0", "Says hello")
    assert description.classifiers == ("Framework :: Plone",)
    assert "<em>world</em>" in description.html


def test_markdown_is_rendered_too(install: Install) -> None:
    description = describe(install("# Title\n\n* Hello\n", "Description-Content-Type: text/markdown; charset=UTF-8"))
    assert "<h1>Title</h1>" in description.html
    assert "<li>Hello</li>" in description.html


def test_plain_text_stays_as_it_is(install: Install) -> None:
    assert describe(install("1 < 2", "Description-Content-Type: text/plain")).html == "<pre>1 &lt; 2</pre>"


@pytest.mark.parametrize("readme", ["", "UNKNOWN"])
def test_a_distribution_without_a_readme_has_no_description(install: Install, readme: str) -> None:
    with pytest.raises(NoDescription, match="sample has no README"):
        describe(install(readme))


def test_bad_markup_is_refused_with_its_line(install: Install) -> None:
    with pytest.raises(NoDescription, match="sample has bad markup: line 3: Inline emphasis"):
        describe(install("Hello\n\n*world\n"))


def test_a_distribution_that_is_not_installed_has_no_description() -> None:
    with pytest.raises(NoDescription, match="no-such-distribution is not installed here"):
        describe("no-such-distribution")


@pytest.mark.parametrize(
    ("readme", "content_type"),
    [
        ("Hello <script>alert(1)</script><img src=x onerror=alert(1)>", "text/markdown"),
        ("[click](javascript:alert(1))", "text/markdown"),
        ("`click <javascript:alert(1)>`_", "text/x-rst"),
        (".. raw:: html\n\n   <script>alert(1)</script>", "text/x-rst"),
    ],
)
def test_no_script_of_a_stranger_comes_into_a_page(install: Install, readme: str, content_type: str) -> None:
    try:
        html = describe(install(readme, f"Description-Content-Type: {content_type}")).html
    except NoDescription:
        return
    assert "script" not in html and "onerror" not in html


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        (("License-Expression: MIT", "License: something else"), "MIT"),
        (("Classifier: License :: OSI Approved :: BSD License", "License: whatever"), "BSD License"),
        (("License: GPL\n  and all its text",), "GPL"),
        (("License: UNKNOWN",), "not stated"),
        ((), "not stated"),
    ],
)
def test_the_licence_is_found_wherever_it_is_stated(install: Install, fields: tuple[str, ...], licence: str) -> None:
    assert describe(install("Hello", *fields)).licence == licence


def test_names_are_listed_once_and_in_one_spelling() -> None:
    found = names()
    assert "collective-zcasync" in found
    assert found == sorted({canonical(name) for name in found})
