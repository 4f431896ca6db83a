"""What a crash may have made of an act that was under way, and what not: the judge of the crash tests."""

from __future__ import annotations

import pytest

from crash.expected import PAGE, Act, File, Files, Folder, Symlink, copy_of, data_of, differences, perform, settle

OLD = bytes(range(256)) * 100
NEW = ("noise", 7, 20_000)


def some_files() -> Files:
    file = File(bytearray(OLD), xattrs={b"user.a": b"1"}, mtime=5)
    return {b"d": Folder(), b"d/a": file, b"d/b": file, b"c": File(bytearray(b"c")), b"l": Symlink(b"c")}


@pytest.mark.parametrize(
    "act",
    [
        ("create", b"n", 0o600), ("mkdir", b"n"), ("symlink", b"n", b"c"), ("link", b"c", b"n"), ("unlink", b"d/a"),
        ("rename", b"d", b"e"), ("rename", b"c", b"d/a"), ("chmod", b"c", 0o600), ("utime", b"c", 77), ("resize", b"c", 9, False),
        ("setxattr", b"c", b"user.n", b"n"), ("removexattr", b"d/a", b"user.a"), ("write", b"c", 3, NEW),
    ],
    ids=lambda act: act[0],
)  # fmt: skip
def test_an_act_under_way_has_happened_or_not(act: Act) -> None:
    after = some_files()
    perform(after, act)
    for found in (some_files(), after):
        expected = some_files()
        assert settle(found, expected, act) == []
        assert not [line for line in differences(found, expected) if "mtime" not in line]
    lost = copy_of(after)
    del lost[next(path for path in (b"l", b"c") if path not in act)]
    assert settle(lost, some_files(), act)


@pytest.mark.parametrize(("end", "fine"), [(PAGE, True), (2 * PAGE, True), (2 * PAGE + 1, False), (PAGE - 1000, False)])
def test_of_a_write_whole_pages_are_there(end: int, fine: bool) -> None:
    act = ("write", b"d/a", 1000, NEW)
    found = some_files()
    found[b"d/a"].data[1000:end] = data_of(*NEW)[: end - 1000]
    assert (settle(found, some_files(), act) == []) is (fine or end < 1000)
    if end == 2 * PAGE:
        assert settle(found, some_files(), act, written=PAGE) == []
        assert settle(found, some_files(), act, written=2 * PAGE)


def test_of_a_mapping_any_byte_is_there_and_no_other() -> None:
    act = ("mapped", b"d/a", 1000, NEW)
    found = some_files()
    found[b"d/a"].data[6000:7000] = data_of(*NEW)[5000:6000]
    assert settle(found, some_files(), act) == []
    found[b"d/a"].data[25_000:25_004] = b"else"
    assert settle(found, some_files(), act)


@pytest.mark.parametrize("path", [b"d", b"d/a", b"l", b"c"])
def test_what_is_other_than_it_should_be_is_named(path: bytes) -> None:
    found = some_files()
    del found[path]
    assert any(repr(path) in line for line in differences(found, some_files()))
    assert any(repr(path) in line for line in differences(some_files(), found))


def test_contents_attributes_and_links_are_compared() -> None:
    found = some_files()
    found[b"c"].data[:] = b"d"
    found[b"d/a"].xattrs.clear()
    found[b"d/b"] = File(bytearray(OLD), xattrs={b"user.a": b"1"}, mtime=6)
    found[b"d"].mode = 0o700
    found[b"l"] = Symlink(b"other")
    lines = "\n".join(differences(found, some_files()))
    for word in ("b'c'", "attributes", "mtime", "mode", "points to", "no longer one file"):
        assert word in lines
