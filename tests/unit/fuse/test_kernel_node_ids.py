"""Node ids that are not inode numbers: who gets a new one, and when the old ones are forgotten."""

from __future__ import annotations

from vfsd.fuse.kernel.node_ids import NodeIds
from vfsd.store import InodeRecord, Kind
from vfsd.tree import Node


def node_of(ino: int, lookups: int) -> Node:
    node = Node(InodeRecord(ino, Kind.SOURCE, 0o644, 0, 0, 1, 0, 0, 0, 0))
    node.lookups = lookups
    return node


def test_a_node_id_is_the_inode_number_as_long_as_it_can_be() -> None:
    ids = NodeIds()
    assert (ids.ino(7), ids.current(7), ids.is_current(7)) == (7, 7, True)
    assert ids.forget(7, 3) == 7


def test_a_renewed_inode_has_another_id_and_the_old_one_leads_to_it() -> None:
    ids, node = NodeIds(), node_of(7, 2)
    assert ids.renew(node, for_writer=False) == 7
    second = ids.current(7)
    assert second != 7
    assert (ids.ino(second), ids.ino(7)) == (7, 7)
    assert ids.is_current(second)
    assert not ids.is_current(7)
    assert ids.renew(node, for_writer=False) == second
    assert ids.current(7) not in (7, second)


def test_an_inode_has_its_own_number_again_when_the_kernel_has_forgotten_all_ids() -> None:
    ids, node = NodeIds(), node_of(7, 2)
    ids.renew(node, for_writer=False)
    second = ids.current(7)
    ids.refer(7)
    ids.refer(7)
    assert ids.forget(7, 2) == 7  # whoever had it open closed it
    assert ids.current(7) == second
    assert ids.forget(second, 1) == 7
    assert ids.current(7) == second
    assert ids.forget(second, 1) == 7
    assert ids.current(7) == 7
    assert ids.ino(second) == 0  # nothing leads there any more


def test_the_old_id_lives_as_long_as_the_kernel_refers_to_it() -> None:
    ids, node = NodeIds(), node_of(7, 2)
    ids.renew(node, for_writer=False)
    second = ids.current(7)
    ids.refer(7)
    ids.forget(second, 1)
    assert ids.current(7) == second  # the old one is still open somewhere, and must not be the current one again
    assert not ids.is_current(7)


def test_a_new_id_is_kept_for_the_writer_for_whom_it_was_made() -> None:
    ids, node = NodeIds(), node_of(7, 1)
    ids.renew(node, for_writer=True)
    assert ids.opens(ids.current(7)).through_us_only()
    ids.renew(node, for_writer=False)
    assert not ids.opens(ids.current(7)).through_us_only()
