"""Ring 3: the same over HTTP, as services of plone.restapi. Loaded where that is installed."""
