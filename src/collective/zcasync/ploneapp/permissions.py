"""Names of the permissions, as rolemap.xml and the security machinery know them."""

MANAGE_JOBS = "collective.zcasync: Manage jobs"
VIEW_JOBS = "collective.zcasync: View jobs"
MANAGE_OWN_JOBS = "collective.zcasync: Manage own jobs"
RUN_AS = "collective.zcasync: Run as another user"

ALL = (MANAGE_JOBS, VIEW_JOBS, MANAGE_OWN_JOBS, RUN_AS)
