"""Upgrade steps of the profile collective.zcasync:default, one module for each version that they lead to."""
