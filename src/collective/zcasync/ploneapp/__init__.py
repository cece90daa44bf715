"""The Plone ring: sites, users and requests around jobs, content as arguments, and the profile."""
