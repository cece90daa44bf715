"""The server of the README, killed in the middle of a job."""

from docblocks import blocks
from pathlib import Path
from plonesite import PloneSite

import json

ZCML = """\
<configure xmlns:browser="http://namespaces.zope.org/browser" xmlns="http://namespaces.zope.org/zope">
  <include package="Products.CMFPlone" />
  <browser:page name="put" for="plone.base.interfaces.IPloneSiteRoot" class="slowjobs.Put" permission="zope2.View" />
  <browser:page name="look" for="plone.base.interfaces.IPloneSiteRoot" class="slowjobs.Look" permission="zope2.View" />
</configure>
"""


def test_a_job_whose_server_is_killed_is_finished_exactly_once(
    site: PloneSite, repository: Path, tmp_path: Path
) -> None:
    (section,) = blocks(repository / "README.md", "zopeconf")
    site.configure(section.text)
    site.include("slowjobs", ZCML)
    marker = tmp_path / "marker"
    server = site.start()

    job = site.post("put", marker=str(marker))
    server.wait_for("in the middle")
    server.kill()
    site.start()
    found = json.loads(site.post("look", id=job))

    assert marker.read_text() == "run\nrun\n", "it was run again, so what lies outside the database happened twice"
    assert found == {
        "outcome": "succeeded",
        "result": 1,
        "count": 1,
        "pages": ["/Plone/made"],
        "creators": ["admin"],
    }
