"""What is in files behaves as on ext4, whichever layer they begin in: opening, appending, holes, mappings, locks.

Each act is done to a folder on the mount and to its twin on the local disk, and both must show the same; at the
end of the module everything must be there again after a flush and a remount (see `blackbox.layers`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from blackbox.acts import MIB, error_of, some_bytes, write_at
from blackbox.layers import FILE_BYTES, Both, Stage, run_python
from blackbox.linux_calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from blackbox.trees import digest_file

pytestmark = pytest.mark.fuse

PAGE = 4096
FS_IOC_GETFLAGS = 0x80086601  # what lsattr asks


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    """What processes printed; each must end well."""
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed


# --- open flags


def test_open_flags(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        new, old = root / "new", root / "one.bin"
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return [
            error_of(lambda: os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR))),
            error_of(lambda: os.close(os.open(root / "link", os.O_CREAT | os.O_EXCL | os.O_RDWR))),
            error_of(lambda: os.close(os.open(root / "link", os.O_RDONLY | os.O_NOFOLLOW))),
            error_of(lambda: os.close(os.open(old, os.O_RDONLY | os.O_DIRECTORY))),
            error_of(lambda: os.close(os.open(root / "full", os.O_RDWR))),
            error_of(lambda: os.close(os.open(root / "full", os.O_CREAT | os.O_RDONLY))),
            error_of(lambda: os.close(os.open(root / "absent", os.O_RDONLY))),
            error_of(lambda: os.close(os.open(root / "text" / "x", os.O_CREAT | os.O_RDWR))),
            error_of(lambda: os.close(os.open(root / "absent" / "x", os.O_CREAT | os.O_RDWR))),
        ]

    both.agree(act)


def test_the_access_mode_is_kept(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        reader = os.open(root / "one.bin", os.O_RDONLY)
        writer = os.open(root / "one.bin", os.O_WRONLY)
        try:
            return [
                error_of(lambda: os.write(reader, b"x")),
                error_of(lambda: os.ftruncate(reader, 0)),
                error_of(lambda: os.read(writer, 1)),
                error_of(lambda: os.pwrite(writer, b"x", -1)),
                os.lseek(writer, -3, os.SEEK_END),
                error_of(lambda: os.lseek(writer, -1, os.SEEK_SET)),
            ]
        finally:
            os.close(reader)
            os.close(writer)

    both.agree(act)


def test_truncating_while_others_have_it_open(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        path = root / "one.bin"
        with path.open("r+b", buffering=0) as other, path.open("rb", buffering=0) as reader:
            before = reader.read(10)
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
            seen = [before, reader.read(10), os.fstat(reader.fileno()).st_size]
            other.seek(100)
            other.write(b"behind a hole")
            return [*seen, os.pread(reader.fileno(), 200, 0), path.stat().st_size]

    both.agree(act)


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, FILE_BYTES, 3 * FILE_BYTES])
def test_cutting_and_extending(both: Both, size: int) -> None:
    def act(root: Path) -> list[Any]:
        path = root / "one.bin"
        os.truncate(path, size)
        first = digest_file(path)
        os.truncate(path, size + 5000)
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"x")
            file.truncate(size + 100)
        return [first, digest_file(path), path.stat().st_size]

    both.agree(act)


def test_sizes_that_cannot_be(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        return [
            error_of(lambda: os.truncate(root / "one.bin", -1)),
            error_of(lambda: os.truncate(root / "full", 0)),
            error_of(lambda: os.truncate(root / "absent", 0)),
        ]

    both.agree(act)


# --- appending


APPENDER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for number in range(300):
    line = f"{sys.argv[2]} {number:05} {'x' * (number * 7 % 200)}\\n".encode()
    assert os.write(file, line) == len(line)
"""


@pytest.mark.parametrize("name", ["text", "new"])
def test_several_processes_append(both: Both, name: str) -> None:
    """No record is lost, torn or twice, and each writer's come in its order."""

    def act(root: Path) -> list[Any]:
        path = root / name
        start = path.read_bytes() if path.exists() else b""
        finish(*(run_python(APPENDER, path, writer) for writer in "ABCD"))
        content = path.read_bytes()
        assert content.startswith(start)
        lines = content[len(start) :].decode().splitlines()
        for writer in "ABCD":
            numbers = [int(line.split()[1]) for line in lines if line[0] == writer]
            assert numbers == list(range(300))
        assert all(len(line) == 8 + int(line.split()[1]) * 7 % 200 for line in lines)
        path.write_bytes(b"".join(sorted(content.splitlines(keepends=True))))  # for the comparison at the end
        return [len(content)]

    both.agree(act)


def test_an_appending_descriptor_writes_at_the_end_wherever_it_is(both: Both) -> None:
    def act(root: Path) -> bytes:
        with (root / "text").open("r+b", buffering=0) as other:
            descriptor = os.open(root / "text", os.O_RDWR | os.O_APPEND)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, b"one\n")
            other.truncate(10)
            os.pwrite(descriptor, b"two\n", 0)  # Linux appends this, too
            other.seek(0, os.SEEK_END)
            other.write(b"three\n")
            os.write(descriptor, b"four\n")
            fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
            os.pwrite(descriptor, b"FIVE", 0)
            os.close(descriptor)
        return (root / "text").read_bytes()

    both.agree(act)


# --- files without a name


def test_unlinked_files_live_until_they_are_closed(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        seen: list[Any] = []
        with (root / "one.bin").open("r+b", buffering=0) as file, (root / "two.bin").open("rb") as linked:
            (root / "one.bin").unlink()
            (root / "two.bin").unlink()
            seen += [os.fstat(file.fileno()).st_nlink, os.fstat(linked.fileno()).st_nlink]
            seen.append(file.read() == some_bytes(FILE_BYTES, 1))
            file.write(b"written when it had no name")
            file.seek(0)
            file.write(b"at the start")
            os.fchmod(file.fileno(), 0o600)
            os.ftruncate(file.fileno(), FILE_BYTES + 5)
            seen += [os.fstat(file.fileno()).st_size, os.pread(file.fileno(), 100, FILE_BYTES - 50)]
            with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
                seen.append(again.read(12))
            os.fsync(file.fileno())
            with mmap.mmap(file.fileno(), 0) as view:
                seen.append(view[:12])
            seen.append(linked.read() == some_bytes(FILE_BYTES, 2))
            (root / "one.bin").write_bytes(b"the next of this name")
            seen.append(os.pread(file.fileno(), 5, 0))
        return [*seen, (root / "two too.bin").stat().st_nlink, sorted(os.listdir(root))]

    both.agree(act)


def test_unlinked_files_are_not_in_the_flush(both: Both, stage: Stage) -> None:
    with (
        (both.mounted / "never stored").open("w+b", buffering=0) as file,
        (both.mounted / "one.bin").open("r+b") as old,
    ):
        file.write(some_bytes(3 * MIB, 3))
        (both.mounted / "never stored").unlink()
        (both.mounted / "one.bin").unlink()
        (both.local / "one.bin").unlink()
        stage.mount.flush()
        assert not list(stage.mount.store.rglob("*never*"))
        assert os.pread(file.fileno(), 3 * MIB, 0) == some_bytes(3 * MIB, 3)
        assert old.read() == some_bytes(FILE_BYTES, 1)
        old.write(b"still writable")
        old.flush()
        assert os.pread(old.fileno(), 100, FILE_BYTES) == b"still writable"
    stage.mount.flush()
    assert sorted(os.listdir(both.mounted)) == sorted(os.listdir(both.local))


def test_renamed_and_replaced_while_open(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        with (root / "one.bin").open("r+b", buffering=0) as first, (root / "two.bin").open("rb", buffering=0) as second:
            (root / "one.bin").rename(root / "two.bin")
            first.write(b"after the rename")
            return [second.read(20), (root / "two.bin").read_bytes()[:20], os.fstat(second.fileno()).st_nlink]

    both.agree(act)


# --- holes


def test_holes_read_as_zeros(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        write_at(root / "one.bin", 3 * MIB + 5, b"far out")
        (root / "new").touch()
        write_at(root / "new", 5 * MIB, b"farther")
        os.truncate(root / "new", 9 * MIB)
        return [digest_file(root / name) for name in ("one.bin", "new")] + [(root / "new").stat().st_size]

    both.agree(act)


def test_holes_take_no_room_and_stay_holes(both: Both, stage: Stage) -> None:
    path = both.mounted / "sparse"
    for root in (both.mounted, both.local):
        (root / "sparse").touch()
        write_at(root / "sparse", 100 * MIB, b"end")
        write_at(root / "sparse", 50 * MIB, some_bytes(PAGE, 5))
        os.truncate(root / "sparse", 200 * MIB)
    assert path.stat().st_size == 200 * MIB
    assert path.stat().st_blocks * 512 < MIB
    os.setxattr(path, "user.vfsd.tier", b"cache")  # the spill
    assert path.stat().st_blocks * 512 < MIB
    with path.open("rb") as file:
        assert os.pread(file.fileno(), PAGE, 50 * MIB) == some_bytes(PAGE, 5)
    stage.mount.flush()
    stored = next(found for found in (stage.mount.store / "files").rglob("sparse"))
    assert stored.stat().st_size == 200 * MIB
    assert stored.stat().st_blocks * 512 < MIB
    used = stage.mount.status()["tiers"]["ram"]["bytes"]
    with path.open("rb") as file:
        assert os.pread(file.fileno(), PAGE, 50 * MIB) == some_bytes(PAGE, 5)
    assert stage.mount.status()["tiers"]["ram"]["bytes"] < used + 8 * MIB
    for root in (both.mounted, both.local):
        (root / "sparse").unlink()


def test_where_data_is_may_be_asked(both: Both, transport: str) -> None:
    """With pyfuse3, which has no such request, everything counts as data, and always of what somebody may write."""

    def holes(root: Path) -> list[Any]:
        path = root / "with holes"
        with path.open("wb") as file:
            file.truncate(20 * MIB)
            file.seek(10 * MIB)
            file.write(b"x" * MIB)
        with path.open("rb") as file:
            found = [os.lseek(file.fileno(), at, os.SEEK_DATA) for at in (0, 10 * MIB + 5)]
            found += [os.lseek(file.fileno(), at, os.SEEK_HOLE) for at in (0, 10 * MIB, 15 * MIB)]
            return [*found, error_of(lambda: os.lseek(file.fileno(), 12 * MIB, os.SEEK_DATA))]

    if transport == "kernel":
        assert both.agree(holes) == [10 * MIB, 10 * MIB + 5, 0, 11 * MIB, 15 * MIB, "ENXIO"]
        with (both.mounted / "with holes").open("r+b") as file:
            assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
    with (both.mounted / "one.bin").open("rb") as file:
        assert os.lseek(file.fileno(), 10, os.SEEK_DATA) == 10
        assert os.lseek(file.fileno(), 10, os.SEEK_HOLE) == FILE_BYTES
        assert error_of(lambda: os.lseek(file.fileno(), FILE_BYTES, os.SEEK_DATA)) == "ENXIO"


def test_allocating_in_advance(both: Both, transport: str) -> None:
    """pyfuse3 has no such request: the C library then writes the room instead, as for NFS."""

    def act(root: Path) -> list[Any]:
        with (root / "one.bin").open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 50_000)
            os.posix_fallocate(file.fileno(), 10, 100)
        return [(root / "one.bin").stat().st_size, digest_file(root / "one.bin")]

    both.agree(act)
    assert (both.mounted / "one.bin").stat().st_blocks * 512 >= 50_000 - PAGE

    def modes(root: Path) -> list[Any]:
        with (root / "two.bin").open("r+b") as file:
            fallocate(file.fileno(), FALLOC_FL_KEEP_SIZE, 0, MIB)
            sizes = [os.fstat(file.fileno()).st_size]
            fallocate(file.fileno(), 0, 0, MIB)
            sizes.append(os.fstat(file.fileno()).st_size)
            fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, 2 * PAGE)
            wrong = error_of(lambda: fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE, 0, PAGE))
            return [*sizes, wrong, digest_file(root / "two.bin")]

    if transport == "kernel":
        both.agree(modes)
    else:
        with (both.mounted / "one.bin").open("r+b") as file:
            for mode in (0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE):
                assert error_of(lambda mode=mode: fallocate(file.fileno(), mode, 0, PAGE)) == "ENOTSUP"


def test_copying_within_the_mount(both: Both) -> None:
    """copy_file_range(2), whoever carries it out."""

    def act(root: Path) -> list[Any]:
        (root / "big").write_bytes(some_bytes(3 * MIB + 5, 9))
        with (root / "big").open("rb") as source, (root / "copy").open("wb") as target:
            done = 0
            while count := os.copy_file_range(
                source.fileno(), target.fileno(), 4 * MIB, offset_src=done, offset_dst=done
            ):
                done += count
            tail = os.copy_file_range(source.fileno(), target.fileno(), 100, offset_src=3 * MIB, offset_dst=10 * MIB)
        with (root / "one.bin").open("rb") as source, (root / "copy").open("r+b") as target:
            part = os.copy_file_range(source.fileno(), target.fileno(), 5000, offset_src=100, offset_dst=7)
        return [
            done,
            tail,
            part,
            (root / "copy").stat().st_size,
            digest_file(root / "copy"),
            digest_file(root / "one.bin"),
        ]

    both.agree(act)


def test_files_without_a_name(both: Both, transport: str) -> None:
    """O_TMPFILE: gone when closed, or there from the moment that it gets a name."""

    def act(root: Path) -> list[Any]:
        before = sorted(os.listdir(root))
        descriptor = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(descriptor, b"without a name")
        seen = [os.fstat(descriptor).st_nlink, sorted(os.listdir(root)) == before]
        os.close(descriptor)
        descriptor = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(descriptor, b"with one")
        # with a folder it is linkat(2), which follows this link
        os.link(f"/proc/self/fd/{descriptor}", root / "named", src_dir_fd=descriptor, follow_symlinks=True)
        os.write(descriptor, b" and more")
        seen += [os.fstat(descriptor).st_nlink, oct(os.fstat(descriptor).st_mode)]
        os.close(descriptor)
        return [*seen, (root / "named").read_bytes(), sorted(os.listdir(root))]

    if transport == "kernel":
        both.agree(act)
    else:
        assert error_of(lambda: os.open(both.mounted, os.O_TMPFILE | os.O_RDWR)) == "ENOTSUP"


# --- without the page cache, and through mappings


def test_direct_reads_and_writes(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        path = root / "one.bin"
        buffer = mmap.mmap(-1, 4 * PAGE)  # aligned, as O_DIRECT wants it
        reader = os.open(path, os.O_RDONLY | os.O_DIRECT)
        got = os.preadv(reader, [buffer], PAGE)
        seen = [got, buffer[:got]]
        os.close(reader)
        with path.open("r+b", buffering=0) as other:
            other.read(100)  # cached pages are there
            buffer[: 2 * PAGE] = b"D" * (2 * PAGE)
            writer = os.open(path, os.O_RDWR | os.O_DIRECT)
            os.pwritev(writer, [memoryview(buffer)[: 2 * PAGE]], 2 * PAGE)
            seen += [os.pread(other.fileno(), 10, 2 * PAGE), digest_file(path)]
            os.pwritev(writer, [memoryview(buffer)[:PAGE]], 8 * PAGE)
            os.close(writer)
        return [*seen, path.stat().st_size, digest_file(path)]

    both.agree(act)


def test_shared_mappings_write_the_file(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        path = root / "one.bin"
        with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as view:
            view[100:106] = b"mapped"
            view[PAGE * 2 - 3 : PAGE * 2 + 3] = b"across"
            view.flush()
            seen = [os.pread(file.fileno(), 10, 98)]
            os.pwrite(file.fileno(), b"written", 9000)
            seen.append(view[9000:9007])
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            seen.append(view[:])
        return [*seen, digest_file(path)]

    both.agree(act)


def test_unsynced_mappings_are_written_when_they_go(both: Both) -> None:
    def act(root: Path) -> str:
        with (root / "one.bin").open("r+b") as file:
            view = mmap.mmap(file.fileno(), 0)
        view[5:9] = b"late"
        view.close()
        return digest_file(root / "one.bin")

    both.agree(act)


def test_private_mappings_do_not(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        with (root / "one.bin").open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as view:
            view[:7] = b"private"
            seen = view[:10]
        return [seen, digest_file(root / "one.bin")]

    both.agree(act)


MAPPED_WRITER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
    view[:6] = b"theirs"
"""


def test_two_processes_share_a_mapping(both: Both) -> None:
    def act(root: Path) -> list[bytes]:
        path = root / "one.bin"
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[10:14] = b"ours"
            finish(run_python(MAPPED_WRITER, path))
            return [view[:20], path.read_bytes()[:20]]

    both.agree(act)


# --- copies within the kernel


def test_copies_within_the_kernel(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        seen: list[Any] = []
        with (root / "one.bin").open("rb") as source, (root / "copied").open("w+b") as target:
            seen.append(os.copy_file_range(source.fileno(), target.fileno(), 15_000, 1000, 0))
            seen.append(os.copy_file_range(source.fileno(), target.fileno(), 1_000_000, 0, 15_000))
        with (root / "two.bin").open("rb") as source, (root / "sent").open("wb") as target:
            seen.append(os.sendfile(target.fileno(), source.fileno(), 0, 1_000_000))
        with (root / "full" / "inside").open("rb") as source:
            read, write = os.pipe()
            seen.append(os.splice(source.fileno(), write, 100) if hasattr(os, "splice") else 7)
            os.close(read)
            os.close(write)
        return [*seen, digest_file(root / "copied"), digest_file(root / "sent")]

    both.agree(act)


# --- locks


FLOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    count = int(file.read())
    file.seek(0)
    file.write(b"%d" % (count + 1))
    file.flush()
"""


def test_flock_between_processes(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        path = root / "counter"
        path.write_bytes(b"0")
        with path.open("rb") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            waiting = [run_python(FLOCK, path) for _ in range(4)]
            with path.open("rb") as other:
                refused = error_of(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
            assert path.read_bytes() == b"0"
            fcntl.flock(holder, fcntl.LOCK_UN)
        finish(*waiting)
        return [refused, path.read_bytes()]

    both.agree(act)


POSIX_LOCK = """
import errno, fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 50)
        print("first free")
    except OSError as error:
        print(errno.errorcode[error.errno])
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 200)
    print("second free")
"""


def test_posix_locks_between_processes(both: Both) -> None:
    def act(root: Path) -> list[str]:
        with (root / "one.bin").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 100, 0)
            held = finish(run_python(POSIX_LOCK, root / "one.bin"))
        return [*held, *finish(run_python(POSIX_LOCK, root / "one.bin"))]

    assert both.agree(act) == ["EAGAIN\nsecond free\n", "first free\nsecond free\n"]


def test_a_lock_goes_with_its_process(both: Both) -> None:
    def act(root: Path) -> str | None:
        holder = run_python(
            "import fcntl, sys, time\nfile = open(sys.argv[1], 'r+b')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\ntime.sleep(60)",
            root / "one.bin",
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (root / "one.bin").open("r+b") as file:
            refused = error_of(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return refused

    both.agree(act)


# --- many at once


def test_threads_write_their_own_pieces_of_one_file(both: Both) -> None:
    def act(root: Path) -> str:
        with (root / "one.bin").open("r+b") as file:

            def fill(piece: int) -> None:
                for turn in range(10):
                    data = some_bytes(3000, piece * 10 + turn)
                    assert os.pwrite(file.fileno(), data, piece * 30_000 + turn * 3000) == 3000

            threads = [threading.Thread(target=fill, args=(piece,)) for piece in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return digest_file(root / "one.bin")

    both.agree(act)


def test_errors_of_calls_that_fuse_lacks(both: Both) -> None:
    """What is refused, and how; ext4 has these."""
    root = both.mounted
    with (root / "one.bin").open("rb") as file:
        flags = bytearray(8)
        assert error_of(lambda: fcntl.ioctl(file, FS_IOC_GETFLAGS, flags)) == "ENOTTY"
