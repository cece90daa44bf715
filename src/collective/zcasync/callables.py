"""Callables as text: a function is stored by its name, and looked up again when it runs."""

from collections.abc import Callable
from collective.zcasync import clock
from collective.zcasync.exceptions import InvalidJobError
from collective.zcasync.exceptions import UnknownCallableError
from datetime import datetime
from typing import Any

import builtins
import functools
import importlib
import types

#: Names that were not found in this process, with the reason. They are asked for again after a restart only: an
#: import that fails can be slow and have effects.
_unknown: dict[str, str] = {}

#: Since when they are known not to be found.
_since: dict[str, datetime] = {}

_ELSEWHERE = "move it to the top of a module that the workers can import"


def describe(callable: Callable[..., Any]) -> tuple[str, Any]:
    """What to store for ``callable``: ``("module:qualname", None)``, or ``("name", owner)`` for a bound method.

    Raises InvalidJobError, which names the thing and the way out, for what would not be found again.
    """
    if isinstance(callable, functools.partial):
        raise InvalidJobError(
            f"{callable!r} is a functools.partial; put the function itself, and its arguments as arguments of the put"
        )
    owner = _owner(callable)
    if owner is not None:
        return _method_name(callable, owner), owner
    module, qualname = _names(callable)
    text = f"{module}:{qualname}"
    if module == "__main__":
        raise InvalidJobError(f"{dotted(text)} is part of the program that was started here; {_ELSEWHERE}")
    if "<lambda>" in qualname:
        raise InvalidJobError(f"{dotted(text)} has no name to find it by; write it as a function with def")
    if "<locals>" in qualname:
        raise InvalidJobError(
            f"{dotted(text)} is made anew by each call of the function around it; {_ELSEWHERE},"
            " and hand in as arguments what it needs from there"
        )
    try:
        found = _find(text)
    except UnknownCallableError as e:
        raise InvalidJobError(f"{callable!r} is not found under its name {dotted(text)}; {_ELSEWHERE}") from e
    if not _same(found, callable):
        raise InvalidJobError(
            f"{dotted(text)} is not {callable!r} but {found!r}; a decorator should use functools.wraps and keep the"
            " name, and a function that was replaced has to be put by the name that it has now"
        )
    _unknown.pop(text, None)
    _since.pop(text, None)
    return text, None


def resolve(text: str) -> Callable[..., Any]:
    """The callable named ``module:qualname``; UnknownCallableError if this process does not find it."""
    reason = _unknown.get(text)
    if reason is not None:
        raise UnknownCallableError(reason)
    try:
        return _find(text)
    except UnknownCallableError as e:
        _unknown[text] = str(e)
        _since[text] = clock.utcnow()
        raise


def known(text: str) -> bool:
    """Whether this process finds the callable of that name."""
    try:
        resolve(text)
    except UnknownCallableError:
        return False
    return True


def unknown_since(text: str) -> datetime:
    """Since when this process knows that it does not find that callable; now, if it does not know."""
    return _since.get(text) or clock.utcnow()


def forget_unknown() -> None:
    """Look again for the names that were not found."""
    _unknown.clear()
    _since.clear()


def dotted(text: str) -> str:
    """The name as people write it: ``module.qualname``."""
    return text.replace(":", ".", 1)


def _find(text: str) -> Any:
    module_name, _, qualname = text.partition(":")
    advice = "Install the code that has it, or discard the job."
    if not module_name or not qualname:
        raise UnknownCallableError(f"{text!r} is not of the form module:name. {advice}")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as e:  # a module can fail with anything while it is imported
        raise UnknownCallableError(f"{text}: importing {module_name} failed: {type(e).__name__}: {e}. {advice}") from e
    for name in qualname.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as e:
            raise UnknownCallableError(f"{text}: {module_name} has no {qualname}. {advice}") from e
    return found


def _owner(callable: Any) -> Any:
    """The object that a bound method belongs to, or None for what is found in a module."""
    if not isinstance(callable, types.MethodType | types.BuiltinMethodType | types.MethodWrapperType):
        return None
    owner = callable.__self__
    # The owner of time.time is its module; that of a class method is a class, which has a name itself.
    if owner is None or isinstance(owner, types.ModuleType | type):
        return None
    return owner


def _method_name(method: Any, owner: Any) -> str:
    """The attribute of ``owner`` that is ``method``."""
    function = getattr(method, "__func__", None)
    for name in _candidates(method.__name__, function, owner):
        found = getattr(owner, name, None)
        if found is None:
            continue
        # The owner may stand in a fresh wrapper at each access; what counts is the function.
        if function is None or getattr(found, "__func__", None) is function:
            return name
    raise InvalidJobError(
        f"{method!r} is not found as an attribute of its owner, a {_class_name(type(owner))};"
        " put a method under the name that the owner's class gives it, or a function at the top of a module"
    )


def _candidates(name: str, function: Any, owner: Any) -> list[str]:
    names = [name]
    if function is not None:  # an alias or a private name is called otherwise in the class
        names.extend(key for cls in type(owner).__mro__ for key, value in vars(cls).items() if value is function)
    return names


def _names(callable: Any) -> tuple[str, str]:
    """Module and qualified name of a function, class or class method."""
    owner = getattr(callable, "__self__", None)
    if isinstance(owner, type):
        return owner.__module__, f"{owner.__qualname__}.{callable.__name__}"
    qualname = getattr(callable, "__qualname__", None)
    defined_in = getattr(callable, "__objclass__", None)
    # A method of a built-in class, such as str.upper, tells its class only.
    module = getattr(callable, "__module__", None) or getattr(defined_in, "__module__", None)
    if isinstance(qualname, str) and isinstance(module, str):
        return module, qualname
    kind = _class_name(type(callable))
    if not builtins.callable(callable):
        raise InvalidJobError(f"{callable!r} (a {kind}) cannot be called; a job needs a function or a method")
    raise InvalidJobError(
        f"{callable!r} is an instance of {kind} that can be called; put one of its methods, for example"
        " its __call__, or a function at the top of a module"
    )


def _same(found: Any, callable: Any) -> bool:
    """Whether what was found is the callable, or a decorated form that leads to it."""
    for _ in range(20):
        if found is callable:
            return True
        if isinstance(callable, types.MethodType | types.BuiltinMethodType) and found == callable:
            return True
        found = getattr(found, "__wrapped__", None)
        if found is None:
            return False
    return False


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
