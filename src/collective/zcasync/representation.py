"""How jobs, functions and persistent objects look in logs: the form that zc.async's users know."""

from collective.zcasync import callables
from collective.zcasync.readable import is_secret
from collective.zcasync.readable import MASK
from persistent import Persistent
from typing import Any

import types


def custom_repr(value: Any) -> str:
    """``value`` as it appears in a job's repr: persistent objects and functions by name, all else by repr."""
    if isinstance(value, Persistent):
        kind = type(value)
        jar = value._p_jar
        oid = "?" if value._p_oid is None else int.from_bytes(value._p_oid, "big")
        database = "?" if jar is None else repr(jar.db().database_name)
        return f"{kind.__module__}.{kind.__qualname__} (oid {oid}, db {database})"
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def call_text(job: Any) -> str:
    """``<module.Class (oid N, db 'name') ``module.func(arg, key=value)``>``."""
    arguments = [custom_repr(arg) for arg in job._get_args()]
    for name, value in job._get_kwargs().items():
        arguments.append(f"{name}={MASK if is_secret(name) else custom_repr(value)}")  # reprs go to logs
    if job._is_method:
        call = f"{custom_repr(job._owner())} :{job._callable}"
    else:
        call = job._task or callables.dotted(job._callable)
    return f"<{custom_repr(job)} ``{call}({', '.join(arguments)})``>"
