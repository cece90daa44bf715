"""The exit codes of a worker beside 0; docs/reference/cli.md tells what to do then."""

#: It failed.
FAILED = 1

#: A wrong flag or zope.conf, or a place where no worker can run: a further start does not help.
WRONG_USE = 2

#: A job hangs, so that its thread is lost.
HUNG = 3

#: It has done its share, see Limits.
RECYCLED = 4
