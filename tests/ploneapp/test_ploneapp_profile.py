"""The profile: installed, imported again, exported, shared by two sites, uninstalled and installed again."""

from collective.zcasync.exceptions import ConfigurationError
from collective.zcasync.ploneapp import permissions
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.exportimport import describe
from collective.zcasync.ploneapp.exportimport import export_step
from collective.zcasync.ploneapp.exportimport import import_step
from collective.zcasync.ploneapp.interfaces import IBrowserLayer
from collective.zcasync.ploneapp.profilexml import serialize
from collective.zcasync.queue import get_queues
from plone import api
from plone.browserlayer.utils import registered_layers
from Products.GenericSetup.tests.common import DummyExportContext
from Products.GenericSetup.tests.common import DummyImportContext

import logging
import pytest
import transaction


@pytest.fixture
def portal(integration):
    return integration["portal"]


@pytest.fixture
def queues(portal):
    return get_queues(portal._p_jar)


def import_file(portal, source):
    context = DummyImportContext(portal, purge=False)
    context._files["zcasync.xml"] = source
    import_step(context)


def changed_objects(portal):
    return [item for item in portal._p_jar._registered_objects if "zcasync" in type(item).__module__]


def test_installing_makes_the_queue_the_policy_and_the_agents(portal, queues):
    group = sites.group_of(portal)
    policy = queues.policies["default"]
    assert (policy.attempts, policy.numbers_for("error")["attempts"]) == (25, 1)
    assert policy.owner == queues[""].owner == group
    assert {role: list(names) for role, names in queues[""].templates.items()} == {
        "embedded": ["main"],
        "worker": ["main"],
    }
    assert queues.sites[group].path == "/plone"


def test_installing_makes_rights_layer_panel_and_setting(portal):
    assert IBrowserLayer in registered_layers()
    assert api.portal.get_registry_record("collective.zcasync.service_user") == ""
    panel = portal.portal_controlpanel.getActionObject("plone-advanced/zcasync")
    assert (panel.title, panel.permissions) == ("Background jobs", (permissions.VIEW_JOBS,))
    assert roles_of(portal, permissions.MANAGE_JOBS) == ["Manager", "Site Administrator"]
    assert roles_of(portal, permissions.MANAGE_OWN_JOBS) == ["Manager", "Member", "Site Administrator"]


def roles_of(portal, permission):
    return sorted(role["name"] for role in portal.rolesOfPermission(permission) if role["selected"])


def test_importing_twice_changes_nothing(portal):
    transaction.savepoint()
    portal._p_jar._registered_objects.clear()
    portal.portal_setup.runImportStepFromProfile("profile-collective.zcasync:default", "collective.zcasync")
    assert changed_objects(portal) == []


def test_what_exists_is_left_alone_unless_the_node_says_update(portal, queues):
    source = '<zcasync><policy name="default" attempts="3"{}/><queue name="" failed-days="5"{}/></zcasync>'
    import_file(portal, source.format("", ""))
    assert (queues.policies["default"].attempts, queues[""].failed_days) == (25, 30)
    import_file(portal, source.format(' update="true"', ' update="true"'))
    assert (queues.policies["default"].attempts, queues[""].failed_days) == (3, 5)
    assert queues.policies["default"].growth == 1.5  # what the file does not name stays


def test_rules_of_a_policy_are_added_changed_and_removed(portal, queues):
    policy = queues.policies["default"]
    import_file(portal, '<zcasync><policy name="default"><on trouble="commit" attempts="2"/></policy></zcasync>')
    assert [dict(rule)["trouble"] for rule in policy.rules] == ["error"]
    import_file(
        portal,
        '<zcasync><policy name="default"><on trouble="commit" attempts="2" update="true"/>'
        '<on trouble="error" remove="true"/></policy></zcasync>',
    )
    assert [dict(rule)["trouble"] for rule in policy.rules] == ["commit"]


def test_quotas_agents_and_queues_are_added_changed_and_removed(portal, queues):
    source = (
        '<zcasync><queue name="mail"{0}><quota name="smtp" size="{1}"{0}/><agent name="a" role="b" size="{1}"{0}/>'
        "</queue></zcasync>"
    )
    import_file(portal, source.format("", 2))
    queue = queues["mail"]
    assert (queue.quotas["smtp"].size, queue.templates["b"]["a"].size) == (2, 2)
    import_file(portal, source.format(' update="true"', 4))
    assert (queue.quotas["smtp"].size, queue.templates["b"]["a"].size) == (4, 4)
    import_file(
        portal,
        '<zcasync><queue name="mail"><quota name="smtp" remove="true"/><agent name="a" role="b" remove="true"/></queue>'
        "</zcasync>",
    )
    assert (list(queue.quotas), list(queue.templates)) == ([], [])
    import_file(portal, '<zcasync><queue name="mail" remove="true"/></zcasync>')
    assert "mail" not in queues
    import_file(portal, '<zcasync><queue name="mail" remove="true"/></zcasync>')


def test_a_queue_that_holds_jobs_is_not_removed(portal, queues, caplog):
    caplog.set_level(logging.INFO)
    import_file(portal, '<zcasync><queue name="mail"/></zcasync>')
    queues["mail"].put(roles_of)
    import_file(portal, '<zcasync><queue name="mail" remove="true"/></zcasync>')
    assert "mail" in queues
    assert "it holds jobs (1 waiting)" in caplog.text


def test_a_wrong_file_changes_nothing(portal, queues):
    before = serialize(describe(queues))
    with pytest.raises(ConfigurationError, match="line 2, attribute 'size'"):
        import_file(
            portal, '<zcasync><policy name="new"/>\n<queue name=""><quota name="io" size="0"/></queue></zcasync>'
        )
    with pytest.raises(ConfigurationError, match="line 2, attribute 'first-wait'"):
        # Right by itself, wrong beside the longest wait that the policy has.
        import_file(
            portal, '<zcasync><policy name="new"/>\n<policy name="default" first-wait="999" update="true"/></zcasync>'
        )
    assert serialize(describe(queues)) == before


def test_the_export_is_what_an_import_reads(portal, queues):
    import_file(
        portal,
        '<zcasync><policy name="mail" attempts="5" first-wait="0.5" age-limit="86400"><on trouble="error" '
        'exception="smtplib.SMTPException" attempts="9"/></policy>'
        '<queue name="mail" retention-days="0.5"><quota name="io" size="2"/></queue></zcasync>',
    )
    context = DummyExportContext(portal)
    export_step(context)
    ((name, written, content_type),) = context._wrote
    assert (name, content_type) == ("zcasync.xml", "text/xml")
    for policy in list(queues.policies):
        del queues.policies[policy]
    for queue in list(queues):
        del queues[queue]
    import_file(portal, written)
    assert serialize(describe(queues)) == written


def test_what_a_second_site_names_too_passes_to_the_root(integration, portal, queues, caplog):
    caplog.set_level(logging.INFO)
    other = second_site(integration)
    assert queues.policies["default"].owner == queues[""].owner == ""
    assert set(queues[""].owners.values()) == {""}
    lines = [record.getMessage() for record in caplog.records if "belongs to the root" in record.getMessage()]
    assert len(lines) == len(set(lines)) == 4
    assert lines[0].startswith("retry policy 'default' was made by site /plone and is named by site")
    caplog.clear()
    import_file(other, '<zcasync><policy name="default" attempts="3" update="true"/></zcasync>')
    assert queues.policies["default"].attempts == 25
    assert "does not belong to this site" in caplog.text


def second_site(layer, site_id="other"):
    from plone.app.testing import SITE_OWNER_NAME
    from Products.CMFPlone.factory import addPloneSite
    from zope.component.hooks import site as local_site

    app = layer["app"]
    with api.env.adopt_user(SITE_OWNER_NAME):
        site = addPloneSite(app, site_id, title="Other", extension_ids=("plone.app.contenttypes:default",))
        with local_site(site):
            site.portal_setup.runAllImportStepsFromProfile("profile-collective.zcasync:default")
    return site


def test_uninstalling_removes_what_the_site_got(portal):
    portal.portal_setup.runAllImportStepsFromProfile("profile-collective.zcasync:uninstall")
    assert IBrowserLayer not in registered_layers()
    registry = portal.portal_registry
    assert [name for name in registry.records if name.startswith("collective.zcasync")] == []
    assert portal.portal_controlpanel.getActionObject("plone-advanced/zcasync") is None
    assert [name for name in vars(portal) if "collective_zcasync" in name] == []


def test_the_profile_is_offered_and_the_uninstall_profile_is_not(integration, portal):
    from Products.CMFPlone.controlpanel.browser.quickinstaller import InstallerView

    installer = InstallerView(portal, integration["request"])
    assert installer.get_install_profile("collective.zcasync")["id"] == "collective.zcasync:default"
    assert installer.get_uninstall_profile("collective.zcasync")["id"] == "collective.zcasync:uninstall"
    assert installer.is_product_installed("collective.zcasync")
    assert portal.portal_setup.getLastVersionForProfile("collective.zcasync:default") == ("1000",)
