"""The protocol's structures against the kernel's own header, and its parser against everything else."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_talk import message

from vfsd.errors import UnfitError
from vfsd.fuse.kernel import protocol
from vfsd.fuse.kernel.negotiation import BUFFER_BYTES, MOST_BYTES, agree
from vfsd.fuse.kernel.parsing import SHAPES, Malformed, parse_body, parse_header
from vfsd.fuse.kernel.protocol import FAttr, FOpen, Init, Notify, Opcode

HEADER = Path("/usr/include/linux/fuse.h")
# What is sent of INIT and of SETXATTR without the flags that make these structures longer.
OURS = {"fuse_init_in_before_ext", "fuse_setxattr_in"}
PREFIXES = {Opcode: "FUSE_", Init: "FUSE_", FOpen: "FOPEN_", FAttr: "FATTR_", Notify: "FUSE_NOTIFY_"}


def test_structures_and_numbers_are_the_kernels(tmp_path: Path) -> None:
    """Of all that the header of this machine knows."""
    if not HEADER.exists() or shutil.which("gcc") is None:
        pytest.skip("no linux/fuse.h, or no compiler")
    text = HEADER.read_text()
    sizes = {
        name: value.size
        for name, value in vars(protocol).items()
        if isinstance(value, struct.Struct) and name not in OURS and re.search(rf"struct {name} {{", text)
    }
    numbers = {
        prefix + member.name: member.value
        for kind, prefix in PREFIXES.items()
        for member in kind
        if member.name is not None and re.search(rf"\b{prefix}{member.name}\b\s*(=|\(|\d)", text)
    }
    assert len(sizes) > 25
    assert len(numbers) > 70
    checks = [f"_Static_assert(sizeof(struct {name}) == {size}, {name!r});" for name, size in sizes.items()]
    checks += [f"_Static_assert({name} == {value}ull, {name!r});" for name, value in numbers.items()]
    source = tmp_path / "sizes.c"
    source.write_text("#include <linux/fuse.h>\n" + "\n".join(checks).replace("'", '"') + "\n")
    done = subprocess.run(["gcc", "-fsyntax-only", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ioctl_numbers() -> None:
    """As fuse.h of Linux 6.9 gives them: _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)."""
    assert protocol.FUSE_DEV_IOC_BACKING_OPEN == 0x4010E501
    assert protocol.FUSE_DEV_IOC_BACKING_CLOSE == 0x4004E502


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    try:
        request = parse_header(memoryview(data))
        parse_body(request, memoryview(data))
    except Malformed:
        return
    except KeyError:
        assert request.opcode not in SHAPES
        return
    assert len(request.names) == SHAPES[request.opcode].names


@given(st.sampled_from(sorted(SHAPES)), st.binary(max_size=200))
def test_any_body_has_its_shape_or_is_malformed(opcode: int, body: bytes) -> None:
    whole = memoryview(message(opcode, 1, body))
    request = parse_header(whole)
    structure, names, data = SHAPES[opcode]
    try:
        parse_body(request, whole)
    except Malformed:
        return
    size = structure.size if structure is not None else 0
    assert len(request.fields) == (len(structure.unpack(bytes(size))) if structure is not None else 0)
    assert len(request.names) == names
    assert all(b"\0" not in name for name in request.names)
    if data:
        assert len(request.data) == len(body) - size - sum(len(name) + 1 for name in request.names)


@given(st.binary(max_size=100))
def test_any_first_exchange_is_answered_or_refused(body: bytes) -> None:
    try:
        agreement = agree(memoryview(body), stack_depth=1)
    except (ValueError, UnfitError):
        return
    assert len(agreement.answer) == protocol.fuse_init_out.size


def offer(flags: int, *, major: int = 7, minor: int = 45, old: bool = False) -> memoryview:
    if old:
        return memoryview(protocol.fuse_init_in_before_ext.pack(major, minor, 1 << 17, flags & 0xFFFFFFFF))
    return memoryview(protocol.fuse_init_in.pack(major, minor, 1 << 17, flags & 0xFFFFFFFF, flags >> 32))


def test_only_what_the_kernel_offers_is_taken() -> None:
    everything = (1 << 64) - 1
    answer = protocol.fuse_init_out.unpack(agree(offer(everything), stack_depth=1).answer)
    flags = Init(answer[3] | answer[10] << 32)
    assert Init.PASSTHROUGH in flags
    assert Init.MAX_PAGES in flags
    assert not flags & (1 << 16)  # the writeback cache
    assert answer[6] == MOST_BYTES
    assert answer[11] == 1
    assert agree(offer(everything), stack_depth=1).passthrough
    for body, depth in (
        (offer(everything & ~Init.PASSTHROUGH), 1),
        (offer(everything & ~Init.INIT_EXT), 1),
        (offer(everything), 0),
        (offer(everything, minor=31, old=True), 1),
    ):
        agreement = agree(body, stack_depth=depth)
        assert not agreement.passthrough
        answer = protocol.fuse_init_out.unpack(agreement.answer)
        assert not Init(answer[3] | answer[10] << 32) & Init.PASSTHROUGH
        assert answer[11] == 0
    with pytest.raises(UnfitError):
        agree(offer(everything, minor=30), stack_depth=1)


def test_the_largest_write_fits_the_buffer() -> None:
    assert MOST_BYTES + protocol.fuse_in_header.size + protocol.fuse_write_in.size <= BUFFER_BYTES
