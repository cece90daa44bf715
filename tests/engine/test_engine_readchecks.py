"""Read checks on BTrees hold on each storage, also where a transaction changes the tree itself."""

from BTrees.OOBTree import OOBTree
from collections.abc import Iterator
from collective.zcasync.readchecks import read_current
from enginejobs import catch_up
from typing import Any
from ZODB.POSException import ConflictError

import pytest
import transaction


@pytest.fixture(params=["filestorage", "zeo", "relstorage"])
def pair(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """Two connections with managers of their own, as two processes have them."""
    names = {"filestorage": "open_database", "zeo": "zeo_database", "relstorage": "relstorage_database"}
    opened = request.getfixturevalue(names[request.param])
    connections = [opened().open(transaction.TransactionManager()) for _ in range(2)]
    yield connections
    for connection in connections:
        connection.transaction_manager.abort()
        connection.close()


def _trees(pair: list[Any], entries: int) -> list[Any]:
    """The same tree in both, each in a transaction that has looked at all of it."""
    pair[0].root()["tree"] = OOBTree(dict.fromkeys(range(entries), "there"))
    pair[0].transaction_manager.commit()
    catch_up(pair)
    trees = [connection.root()["tree"] for connection in pair]
    assert [len(tree) for tree in trees] == [entries, entries]
    return trees


def _is_stored(connection: Any) -> bool:
    try:
        connection.transaction_manager.commit()
    except ConflictError:
        connection.transaction_manager.abort()
        return False
    return True


@pytest.mark.parametrize("entries", [4, 400])  # in one record, and in many
@pytest.mark.parametrize("how", ["reads", "takes out", "takes out before a savepoint"])
def test_who_has_read_a_tree_conflicts_with_who_has_added_to_it_since(pair: list[Any], how: str, entries: int) -> None:
    mine, theirs = _trees(pair, entries)
    read_current(mine)
    read_current(mine)
    if how != "reads":
        del mine[2]
    if how.endswith("savepoint"):
        pair[0].transaction_manager.savepoint()
    pair[0].root()["changed"] = True
    theirs[-1] = "added"

    assert _is_stored(pair[1]) and not _is_stored(pair[0])
    catch_up(pair)
    read_current(mine)
    del mine[2]
    assert _is_stored(pair[0]) and mine[-1] == "added" and 2 not in mine


def test_without_a_read_check_the_two_changes_are_merged(pair: list[Any]) -> None:
    mine, theirs = _trees(pair, 4)
    del mine[2]
    theirs[-1] = "added"

    assert _is_stored(pair[1]) and _is_stored(pair[0])
    catch_up(pair)
    assert list(theirs) == [-1, 0, 1, 3]


def test_what_was_taken_out_first_leaves_others_free_to_add(pair: list[Any]) -> None:
    mine, theirs = _trees(pair, 4)
    read_current(mine)
    del mine[2]
    theirs[-1] = "added"

    assert _is_stored(pair[0]) and _is_stored(pair[1])


def test_who_changes_nothing_conflicts_with_nobody(pair: list[Any]) -> None:
    mine, theirs = _trees(pair, 4)
    read_current(mine)
    theirs[-1] = "added"

    assert _is_stored(pair[1]) and _is_stored(pair[0])


def test_a_savepoint_that_is_undone_leaves_the_check(pair: list[Any]) -> None:
    mine, theirs = _trees(pair, 4)
    read_current(mine)
    savepoint = pair[0].transaction_manager.savepoint()
    del mine[2]
    savepoint.rollback()
    pair[0].root()["changed"] = True
    theirs[-1] = "added"

    assert _is_stored(pair[1]) and not _is_stored(pair[0])


def test_a_tree_that_is_not_stored_yet_is_nobody_elses(pair: list[Any]) -> None:
    read_current(OOBTree(a=1))
    pair[0].root()["tree"] = tree = OOBTree(a=1)
    pair[0].add(tree)
    read_current(tree)

    assert _is_stored(pair[0])
