"""utils: times as keys, lazy iterators, texts, and the paths that zc.async's users import."""

from collective.zcasync import representation
from collective.zcasync import transactions
from collective.zcasync import utils
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.exceptions import ZCAsyncError
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from persistent.mapping import PersistentMapping

import itertools
import pytest

#: Naive on purpose: these are what dt_to_long takes and long_to_dt gives back.
MOMENTS = [
    datetime.min,  # noqa: DTZ901
    datetime(1969, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001
    datetime(1970, 1, 1),  # noqa: DTZ001
    datetime(2026, 2, 3, 4, 5, 6, 789012),  # noqa: DTZ001
    datetime(2026, 2, 3, 4, 5, 6, 789013),  # noqa: DTZ001
    datetime.max,  # noqa: DTZ901
]


@pytest.mark.parametrize("when", MOMENTS, ids=str)
def test_every_naive_datetime_comes_back_from_its_key(when: datetime) -> None:
    assert utils.long_to_dt(utils.dt_to_long(when)) == when


def test_the_present_comes_back_from_its_key_to_the_microsecond() -> None:
    now = datetime.now(timezone.utc)
    assert utils.long_to_dt(utils.dt_to_long(now)) == now.replace(tzinfo=None)


def test_the_later_the_moment_the_smaller_its_key() -> None:
    keys = [utils.dt_to_long(when) for when in MOMENTS]
    assert keys == sorted(keys, reverse=True)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("when", MOMENTS, ids=str)
def test_the_low_four_bits_of_a_key_are_free_and_it_fits_a_btree(when: datetime) -> None:
    key = utils.dt_to_long(when)
    assert [utils.long_to_dt(key + number) for number in (0, 1, 15)] == [when] * 3
    assert key % 16 == 0
    assert 0 <= key + 15 < 2**63


def test_an_aware_datetime_is_read_as_its_moment_in_utc() -> None:
    berlin = timezone(timedelta(hours=2))
    aware = datetime(2026, 7, 1, 14, 30, tzinfo=berlin)
    assert utils.long_to_dt(utils.dt_to_long(aware)).isoformat() == "2026-07-01T12:30:00"
    assert utils.dt_to_long(aware) == utils.dt_to_long(aware.astimezone(timezone.utc))


@pytest.mark.parametrize("wrong", ["2026-01-01", 5, None])
def test_only_datetimes_have_keys(wrong: object) -> None:
    with pytest.raises(ValueError, match="a datetime is wanted") as raised:
        utils.dt_to_long(wrong)  # type: ignore[arg-type]
    assert isinstance(raised.value, ZCAsyncError)


@pytest.mark.parametrize("wrong", [-1, 2**63, "7", 1.5])
def test_a_number_that_no_datetime_has_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidValueError, match="is not a key that dt_to_long makes"):
        utils.long_to_dt(wrong)  # type: ignore[arg-type]


def test_sorted_sources_are_merged_as_they_are_read() -> None:
    endless = itertools.count(1, 2)
    merged = utils.sortedmerge([endless, iter([2, 4])])
    assert list(itertools.islice(merged, 5)) == [1, 2, 3, 4, 5]
    assert next(endless) < 20


def test_sources_are_merged_by_a_key_and_equals_keep_the_order_of_the_sources() -> None:
    merged = utils.sortedmerge([[("b", 1), ("c", 3)], [("a", 1), ("d", 2)]], key=lambda pair: pair[1])
    assert list(merged) == [("b", 1), ("a", 1), ("d", 2), ("c", 3)]


def test_so_many_are_taken_and_no_more_are_read() -> None:
    source = iter(range(10))
    assert list(utils.takecount(source, 3)) == [0, 1, 2]
    assert next(source) == 3
    assert list(utils.takecount([1, 2], 5)) == [1, 2]
    assert list(utils.takecount([1, 2], 0)) == []
    assert list(utils.takecount([1, 2], None)) == [1, 2]


@pytest.mark.parametrize("count", [-1, "2", 1.0])
def test_less_than_nothing_cannot_be_taken(count: object) -> None:
    with pytest.raises(ValueError, match="count must be a whole number of at least 0"):
        utils.takecount([1], count)  # type: ignore[arg-type]


def test_functions_and_persistent_objects_are_shown_by_name_and_all_else_by_repr() -> None:
    assert utils.custom_repr(test_functions_and_persistent_objects_are_shown_by_name_and_all_else_by_repr) == (
        f"{__name__}.test_functions_and_persistent_objects_are_shown_by_name_and_all_else_by_repr"
    )
    assert utils.custom_repr(PersistentMapping()) == "persistent.mapping.PersistentMapping (oid ?, db ?)"
    assert utils.custom_repr("text") == "'text'"


def test_the_helpers_of_zc_async_are_found_under_their_old_path() -> None:
    assert utils.never_fail is transactions.never_fail
    assert utils.try_five_times is transactions.try_five_times
    assert utils.custom_repr is representation.custom_repr
    assert (utils.log.name, utils.tracelog.name) == ("collective.zcasync.events", "collective.zcasync.trace")
