"""Failures: text about what went wrong, that reads well, stays small and loads everywhere."""

from collective.zcasync import failuredata
from collective.zcasync.failure import convert
from collective.zcasync.failure import Failure
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError

import copy
import gc
import io
import json
import linecache
import lxml.etree
import pickle
import pytest
import socket
import sys
import tracemalloc
import transaction
import twisted.python.failure
import types
import urllib.error
import urllib.request
import weakref
import ZODB


class TwoArguments(LookupError):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Outer:
    class Inner(ValueError):
        pass


def raising(exc):
    raise exc


def caught(call, *args):
    try:
        call(*args)
    except BaseException as e:
        return e
    raise AssertionError("nothing was raised")


def failure_of(exc, **options):
    return Failure.from_exception(caught(raising, exc), **options)


def only_plain(data):
    if type(data) is tuple:
        return all(only_plain(item) for item in data)
    return type(data) in (type(None), bool, int, str, bytes)


def again(failure):
    return pickle.loads(pickle.dumps(failure))


def test_the_state_is_plain_data_and_nothing_is_lost_with_it():
    failure = failure_of(ValueError("wrong", 5), capture_locals=True)
    data = failure.to_data()
    assert only_plain(data)
    assert Failure.from_data(data).getTraceback() == failure.getTraceback()


def test_a_failure_is_one_of_twisteds_too():
    assert isinstance(failure_of(ValueError("x")), twisted.python.failure.Failure)


def test_a_failure_keeps_neither_exception_nor_frames_alive():
    class Large:
        pass

    def work():
        large = Large()
        references.append(weakref.ref(large))
        raise ValueError("x")

    references = []
    failure = Failure.from_exception(caught(work))
    gc.collect()
    assert references[0]() is None
    assert failure.tb is None
    assert failure.args == ()


def test_without_arguments_it_is_the_exception_that_is_being_handled():
    try:
        raising(KeyError("now"))
    except KeyError:
        failure = Failure()
    assert failure.check(KeyError)
    assert failure.frames[-1][0] == "raising"
    with pytest.raises(twisted.python.failure.NoCurrentExceptionError):
        Failure()


def test_type_and_value_are_rebuilt():
    failure = again(failure_of(ValueError("wrong", 5)))
    assert failure.type is ValueError
    assert type(failure.value) is ValueError
    assert failure.value.args == ("wrong", 5)
    assert failure.value is failure.value


def test_attributes_of_the_exception_come_back():
    failure = again(failure_of(FileNotFoundError(2, "No such file", "/nowhere")))
    assert failure.value.filename == "/nowhere"


def test_an_exception_that_would_not_load_is_replaced_by_one_of_its_name_and_bases():
    failure = again(failure_of(TwoArguments(5, "gone")))
    assert failure.type is TwoArguments
    assert isinstance(failure.value, TwoArguments)
    assert str(failure.value) == "5: gone"
    assert failure.getErrorMessage() == "5: gone"


def test_an_exception_whose_class_is_gone_keeps_its_name_message_and_base():
    module = types.ModuleType("zcasync_gone")
    exec("class Gone(KeyError):\n    def __str__(self): return 'it is ' + self.args[0]", module.__dict__)
    sys.modules["zcasync_gone"] = module
    try:
        failure = failure_of(module.Gone("gone"))
    finally:
        del sys.modules["zcasync_gone"]
    failure = again(failure)
    assert failure.type.__name__ == "Gone"
    assert failure.type.__module__ == "zcasync_gone"
    assert str(failure.value) == "it is gone"
    assert failure.check("zcasync_gone.Gone") == "zcasync_gone.Gone"
    with pytest.raises(KeyError, match="it is gone"):
        failure.raiseException()


def test_an_exception_whose_text_raises_is_kept_all_the_same():
    failure = again(failure_of(Unspeakable("x")))
    assert "whose text cannot be made: RuntimeError" in failure.getErrorMessage()
    assert "Unspeakable" in failure.getTraceback()
    assert failure.type is Unspeakable


def test_errors_of_open_connections_are_kept_as_text():
    left, right = socket.socketpair()
    body = left.makefile("rb")
    error = urllib.error.HTTPError("http://plone.org/", 404, "Not Found", {}, body)
    try:
        failure = again(failure_of(error))
    finally:
        for file in (error, body, left, right):
            file.close()
    assert failure.summary == "HTTPError: HTTP Error 404: Not Found"
    assert failure.check(urllib.error.URLError)
    assert isinstance(failure.value, OSError)
    assert str(failure.value) == "HTTP Error 404: Not Found"


def test_syntax_errors_of_lxml_are_kept():
    failure = again(Failure.from_exception(caught(lxml.etree.fromstring, "<page>")))
    assert failure.check(lxml.etree.XMLSyntaxError)
    assert "Premature end of data in tag page" in failure.getTraceback()
    assert "Premature end" in str(failure.value)


def test_large_values_are_not_pickled_but_told_in_bounded_text():
    failure = failure_of(ValueError("x" * 1_000_000))
    assert failure.to_data()[failuredata.PICKLE] is None
    assert len(pickle.dumps(failure)) < 5_000
    assert failure.type is ValueError
    assert str(failure.value).startswith("xxx")


def test_persistent_objects_in_exceptions_are_not_copied_into_the_failure():
    failure = failure_of(KeyError(PersistentMapping(secret="content")))
    assert failure.to_data()[failuredata.PICKLE] is None


def test_conflicts_come_back_as_conflicts():
    failure = again(failure_of(ConflictError("someone was faster")))
    assert failure.check(ConflictError)
    assert isinstance(failure.value, ConflictError)


@pytest.mark.parametrize(
    ("error", "matches"),
    [
        (ValueError, True),
        (Exception, True),
        ("builtins.ValueError", True),
        ("builtins.Exception", True),
        (KeyError, False),
        ("builtins.KeyError", False),
        ("ValueError", False),
    ],
)
def test_check_compares_names_of_the_class_and_its_bases(error, matches):
    failure = again(failure_of(ValueError("x")))
    assert failure.check(KeyError, error) == (error if matches else None)


def test_check_tells_nested_classes_from_each_other():
    failure = again(failure_of(Outer.Inner("x")))
    assert failure.check(Outer.Inner) is Outer.Inner
    assert failure.check(f"{__name__}.Outer.Inner")


def test_trap_returns_the_match_and_raises_what_does_not_match():
    failure = again(failure_of(ValueError("wrong")))
    assert failure.trap(KeyError, ValueError) is ValueError
    with pytest.raises(ValueError, match="wrong"):
        failure.trap(KeyError)


def test_even_an_exit_is_kept():
    failure = again(failure_of(SystemExit(3)))
    assert failure.type is SystemExit
    assert failure.value.code == 3


def test_the_traceback_reads_as_pythons():
    lines = again(failure_of(ValueError("wrong"))).getTraceback().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-3].startswith(f'  File "{__file__}", line ')
    assert lines[-3].endswith(", in raising")
    assert lines[-2] == "    raise exc"
    assert lines[-1] == "builtins.ValueError: wrong"


def test_the_brief_traceback_has_a_line_for_each_frame():
    lines = again(failure_of(ValueError("wrong"))).getBriefTraceback().splitlines()
    assert lines[0] == "Traceback: <class 'ValueError'>: wrong"
    assert lines[-1].startswith(f"{__file__}:")
    assert lines[-1].endswith(":raising")


def test_an_exception_that_was_never_raised_has_no_frames():
    failure = again(Failure(ValueError("wrong")))
    assert failure.frames == []
    assert failure.getTraceback() == "Failure: builtins.ValueError: wrong\n"
    assert failure.getBriefTraceback() == "Traceback (failure with no frames): <class 'ValueError'>: wrong\n"


def test_a_traceback_can_be_printed_to_a_file_or_to_standard_error(capsys):
    failure = failure_of(ValueError("wrong"))
    out = io.StringIO()
    failure.printTraceback(out)
    failure.printTraceback()
    failure.printBriefTraceback(out)
    failure.printDetailedTraceback(out)
    assert out.getvalue().startswith(failure.getTraceback() + failure.getBriefTraceback())
    assert capsys.readouterr().err == failure.getTraceback()


def test_a_detail_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="default, brief, verbose"):
        failure_of(ValueError("x")).getTraceback(detail="huge")


def test_the_text_of_the_lines_is_that_of_the_moment_of_the_error(tmp_path):
    path = tmp_path / "changing.py"
    path.write_text("def work():\n    raise ValueError('as it was')\n")
    scope = {"__name__": "changing"}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    failure = Failure.from_exception(caught(scope["work"]))
    path.write_text("# another version\n" * 10)
    linecache.checkcache()
    assert "raise ValueError('as it was')" in again(failure).getTraceback()


def credentials():
    return "geheim", "admin"


def test_locals_are_kept_only_if_asked_for_and_never_secrets():
    def login(password, user):
        page = "x" * 100  # noqa: F841
        raise ValueError("refused")

    exc = caught(lambda: login(*credentials()))
    silent, verbose = Failure.from_exception(exc), Failure.from_exception(exc, capture_locals=True)
    assert "admin" not in repr(silent.to_data())
    text = again(verbose).getTraceback(detail="verbose")
    assert "user : 'admin'" in text
    assert "password : [hidden]" in text
    assert "page : 'xxxxxxxxxxxxxxxxxxxx[...]" in text
    assert "geheim" not in text
    assert "[ Locals ]" not in verbose.getTraceback()


def test_installed_code_and_python_are_marked_and_can_be_left_out():
    failure = again(Failure.from_exception(caught(urllib.request.Request, None)))
    marks = {function: framework for function, _, _, _, framework in failure.frames_data}
    assert marks["caught"] is False
    assert marks["full_url"] is True
    elided = failure.getTraceback(elideFrameworkCode=1)
    assert "in caught" in elided
    assert "full_url" not in elided
    assert "full_url" in failure.getTraceback()


def test_installed_packages_are_told_from_users_code():
    assert failuredata._is_installed(transaction.__file__)
    assert failuredata._is_installed(failuredata.__file__)
    assert failuredata._is_installed("src/lxml/etree.pyx")
    assert failuredata._is_installed("<frozen importlib._bootstrap>")
    assert not failuredata._is_installed(__file__)
    assert not failuredata._is_installed(failuredata.__file__.replace("failuredata.py", "demo/tasks.py"))


def test_a_traceback_of_installed_code_only_is_shown_whole():
    exc = caught(urllib.request.Request, None)
    exc.__traceback__ = exc.__traceback__.tb_next
    assert "full_url" in Failure.from_exception(exc).getTraceback(elideFrameworkCode=1)


def test_causes_and_contexts_are_told_as_python_tells_them():
    def work():
        try:
            try:
                raising(KeyError("first"))
            except KeyError as e:
                raise ValueError("second") from e
        except ValueError:
            raising(TypeError("third"))

    text = again(Failure.from_exception(caught(work))).getTraceback()
    positions = [
        text.index(part)
        for part in (
            "KeyError: 'first'",
            "was the direct cause of",
            "ValueError: second",
            "During handling of",
            "TypeError: third",
        )
    ]
    assert positions == sorted(positions)


def test_a_context_that_was_suppressed_is_left_out():
    def work():
        try:
            raising(KeyError("first"))
        except KeyError:
            raise ValueError("second") from None

    assert "first" not in Failure.from_exception(caught(work)).getTraceback()


def test_exceptions_that_caused_each_other_in_a_ring_end():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert Failure.from_exception(one).getTraceback().count("ValueError: two") == 1


def test_members_of_groups_and_notes_are_told():
    inner = caught(raising, KeyError("inner"))
    inner.add_note("while reading line 5")
    failure = again(failure_of(ExceptionGroup("several", [inner, ValueError("other")])))
    text = failure.getTraceback()
    for part in ("ExceptionGroup: several", "KeyError: 'inner'", "while reading line 5", "ValueError: other"):
        assert part in text


def recurse(depth):
    large = "x" * 10_000  # noqa: F841
    return recurse(depth + 1)


def test_a_recursion_error_stays_small_and_keeps_first_and_last_frames():
    failure = Failure.from_exception(caught(recurse, 0), capture_locals=True)
    assert len(pickle.dumps(failure)) < 8_000
    text = failure.getTraceback()
    assert "in caught" in text
    assert "frames left out]" in text
    assert "RecursionError" in text


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: data.decode("ascii"), lambda data: [data] * 50])
def test_a_recursion_error_with_locals_of_100_mb_is_stored_in_a_few_kb(kind, capture):
    def work():
        large = kind(b"x" * 100_000_000)
        recurse(len(large) - len(large))

    tracemalloc.start()
    try:
        exc = caught(work)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        failure = Failure.from_exception(exc, capture_locals=capture)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert len(pickle.dumps(failure)) < 8_000 and peak < 50_000_000
    assert failure.check(RecursionError) and ("large : " in failure.getTraceback(detail="verbose")) is capture


def test_the_worst_case_stays_within_the_bound():
    def chain(depth):
        try:
            if depth:
                chain(depth - 1)
            recurse(0)
        except (RecursionError, ValueError) as e:
            error = ValueError("ü" * 10_000, *["ö" * 1000] * 50)
            for _ in range(30):
                error.add_note("é" * 1000)
            raise error from e

    group = ExceptionGroup("ä" * 5000, [caught(chain, 10) for _ in range(10)])
    failure = Failure.from_exception(caught(raising, group), capture_locals=True)
    assert len(pickle.dumps(failure)) <= 33 * 1024
    assert failure.getTraceback()


def test_text_that_no_page_could_show_is_escaped():
    failure = failure_of(ValueError("lone \ud800 surrogate"))
    failure.getTraceback().encode("utf-8")
    assert "\\ud800" in failure.getErrorMessage()


def test_the_summary_is_one_line_of_at_most_200_characters():
    assert failure_of(ValueError("one\n  two")).summary == "ValueError: one two"
    assert failure_of(ValueError()).summary == "ValueError"
    assert len(failure_of(ValueError("x" * 1000)).summary) == 200


def test_the_repr_names_type_and_message():
    assert repr(failure_of(ValueError("wrong"))) == "<collective.zcasync.failure.Failure builtins.ValueError: wrong>"


def test_the_traceback_object_can_be_read_by_the_standard_library():
    import traceback

    summary = traceback.extract_tb(again(failure_of(ValueError("x"))).getTracebackObject())
    assert summary[-1].name == "raising"


def test_twisteds_failures_are_converted_with_their_traceback():
    foreign = twisted.python.failure.Failure(caught(raising, ValueError("wrong")))
    failure = again(convert(foreign))
    assert failure.type is ValueError
    assert failure.frames[-1][0] == "raising"


def test_twisteds_failures_without_a_traceback_are_converted_with_their_frames():
    foreign = twisted.python.failure.Failure(caught(raising, ValueError("wrong")))
    foreign.frames  # noqa: B018  (read while they are there)
    foreign.cleanFailure()
    failure = again(convert(foreign))
    assert failure.check(ValueError)
    assert failure.frames[-1][0] == "raising"
    assert "raise exc" in failure.getTraceback()


def test_twisteds_failures_around_anything_are_converted():
    failure = again(convert(twisted.python.failure.Failure("just text")))
    assert failure.getErrorMessage() == "just text"
    assert str(failure.value) == "just text"


def test_a_failure_of_ours_is_converted_to_itself():
    failure = failure_of(ValueError("x"))
    assert convert(failure) is failure
    assert Failure.convert(failure) is failure
    assert Failure(failure).to_data() == failure.to_data()


def test_a_failure_of_ours_that_was_raised_in_a_callback_is_found_in_twisteds():
    failure = failure_of(ValueError("wrong"))
    try:
        raise failure
    except Failure:
        foreign = twisted.python.failure.Failure()
    assert convert(foreign).getTraceback() == failure.getTraceback()


def test_exceptions_are_converted():
    assert convert(ValueError("x")).check(ValueError)


def test_failures_can_be_copied():
    failure = failure_of(ValueError("x"))
    assert copy.deepcopy(failure).to_data() == failure.to_data()


def test_a_generator_gets_the_exception():
    def generator():
        try:
            yield 1
        except ValueError as e:
            yield str(e)

    running = generator()
    next(running)
    assert again(failure_of(ValueError("wrong"))).throwExceptionIntoGenerator(running) == "wrong"


def test_a_failure_is_stored_in_a_database_and_loaded_again(tmp_path):
    failure = failure_of(TwoArguments(5, "gone"))
    db = ZODB.DB(str(tmp_path / "data.fs"))
    with db.transaction() as connection:
        connection.root()["failure"] = failure
    db.close()
    db = ZODB.DB(str(tmp_path / "data.fs"))
    with db.transaction() as connection:
        loaded = connection.root()["failure"]
        assert loaded.getTraceback() == failure.getTraceback()
        assert str(loaded.value) == "5: gone"
    db.close()


def test_failures_of_one_cause_have_one_fingerprint():
    def import_member(text):
        return json.loads(text)

    failures = [Failure.from_exception(caught(import_member, text)) for text in ("{", "[1")]
    assert {failure.fingerprint for failure in failures} == {"JSONDecodeError in import_member"}
    assert Failure.from_exception(ValueError("not raised")).fingerprint == "ValueError"
