"""An example to copy from: every Python distribution installed here becomes a Plone page, one job each.

Start reading at ``tasks``: the two functions that run as jobs. ``distributions`` is what they work on and knows nothing
of Plone. ``batch`` puts the jobs and tells how far they are. ``views`` shows both to browsers. `make demo` runs it all.

Its ZCML is loaded only where somebody asks for it: `make demo` and the tests do.
"""
