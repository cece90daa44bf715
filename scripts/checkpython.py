"""Refuse a Python that cannot run Plone 6.2, before anything is installed with it."""

import sys

found = ".".join(str(part) for part in sys.version_info[:3])
if sys.version_info < (3, 11):
    sys.exit("Python %s is too old: Python 3.11 or 3.12 is needed. Say which one: make PYTHON=python3.11 ..." % found)
if sys.version_info[:3] == (3, 13, 0):
    sys.exit(
        "Python 3.13.0 breaks Plone (python/cpython#125631, mended in 3.13.1). Say another: make PYTHON=python3.11 ..."
    )
