"""`vfsd mount` from options to exit code: check, open, mount, serve. Runs in the daemon-to-be."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vfsd.daemon import mount_table
from vfsd.daemon.checks import check_fuse, check_mountpoint, check_source, clear_mountpoint, refuse_nesting
from vfsd.daemon.log_file import fields
from vfsd.daemon.losses import tell_losses
from vfsd.daemon.options import MountOptions
from vfsd.daemon.reporter import Reporter, describe_error
from vfsd.daemon.sizes import format_count, format_size
from vfsd.daemon.stack import Layout, Stack, default_store, open_stack
from vfsd.daemon.transport_choice import TransportChoice, choose_transport
from vfsd.errors import UsageProblem, shown_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    import trio

    from vfsd.daemon.session import Session
    from vfsd.flush import FlushProgress, FlushResult

log = logging.getLogger("vfsd.daemon")

_M_ARENA_MAX = -8


def run_mount(options: MountOptions, reporter: Reporter) -> int:
    """Mount and serve until the end; returns the daemon's exit code.

    Everything that is wrong before the mount answers is told to `reporter`, which hears exactly one `ready`
    or `failed`. Must be called where no thread and no event loop runs yet (after the fork).
    """
    try:
        choice = choose_transport(options.transport)
        options = replace(options, transport=choice.name)
        layout = plan_layout(options, reporter)
        raise_descriptor_limit()
        share_arenas()
        stack = open_stack(layout, options, reporter)
    except Exception as error:
        code, text = describe_error(error)
        reporter.failed(code, text)
        return code
    import trio

    return trio.run(_live, stack, layout, options, reporter, choice)


def plan_layout(options: MountOptions, reporter: Reporter) -> Layout:
    """Which folders this mount is about, all of them checked; dead vfsd mounts in the way are cleared."""
    from vfsd.store import is_store

    check_fuse(allow_other=options.allow_other)
    # First the mount point: when mounting over the source, a dead mount there hides the source.
    mountpoint, cleared = clear_mountpoint(options.mountpoint)
    if cleared:
        reporter.warning(f"cleared a dead mount at {shown_path(options.mountpoint)}")
    source = check_source(options.source)
    check_mountpoint(mountpoint, source)
    if is_store(source):
        if options.store is not None or options.ingest:
            raise UsageProblem(
                "is a store, which is mounted alone: --store and --ingest have no meaning for it",
                path=options.source,
            )
        layout = Layout(None, source, mountpoint)
    else:
        store = options.store if options.store is not None else default_store(source)
        layout = Layout(source, Path(os.path.realpath(store)), mountpoint)
    chosen = {
        "source": layout.source,
        "store": layout.store,
        "mount point": mountpoint,
        "cache folder": options.cache_dir,
        "RAM folder": options.ram_dir,
    }
    refuse_nesting(
        {name: path for name, path in chosen.items() if path is not None},
        may_coincide=[frozenset({"source", "mount point"})],
    )
    return layout


def share_arenas() -> None:
    """Let glibc's malloc keep two pools of memory instead of one for each thread (mallopt(3)).

    What a thread of the flush or the spiller frees stays in its pool: measured with images of 8 MiB, 190 MB instead of 130.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library has no such pools
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def raise_descriptor_limit() -> None:
    """As many open files as we may have: tier files are real files, and the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _live(
    stack: Stack, layout: Layout, options: MountOptions, reporter: Reporter, choice: TransportChoice
) -> int:
    import trio

    from vfsd.daemon.ingesting import Ingesting
    from vfsd.daemon.service_manager import ServiceManager
    from vfsd.daemon.session import Session
    from vfsd.daemon.streaming import Streaming
    from vfsd.daemon.warming import run_warm
    from vfsd.flush import Verify, flush_tree
    from vfsd.fuse import make_transport
    from vfsd.plates import choose_formats

    assert layout.mountpoint is not None, "a mount has a mount point"
    formats = choose_formats(options.plate_format, options.pattern, labels=options.labels)
    manager = ServiceManager.of_this_process()
    flush_some = partial(
        flush_tree,
        stack.tree,
        formats=formats,
        levels=options.levels,
        verify=Verify(options.verify),
        archive=options.archive,
    )
    started = False

    def when_ready() -> None:
        nonlocal started
        started = True
        # What an earlier daemon said in the end is overtaken: its files are this mount's now.
        stack.places.result.unlink(missing_ok=True)
        stack.tree.told_of_losses()
        what = layout.source if layout.source is not None else layout.store
        new_files = "read-only" if options.read_only else f"new files go to {shown_path(layout.store)}"
        assert layout.mountpoint is not None
        mount_table.enter(os.fspath(what), layout.mountpoint)
        shown = "shown as TIFFs" if stack.tree.source is not None and stack.tree.source.makes_files else "mounted"
        text = f"{shown_path(what)} is {shown} at {shown_path(layout.mountpoint)}; {new_files}"
        reporter.ready(text)
        if manager is not None:
            manager.ready(text)

    def flush(paths: Sequence[bytes] | None, on_progress: Callable[[FlushProgress], None]) -> Awaitable[FlushResult]:
        # --ingest takes the source in as a whole; named files are flushed by themselves.
        ingest = options.ingest and paths is None
        return flush_some(paths=paths, ingest=ingest, on_progress=on_progress)

    async def store_some(inodes: Collection[int]) -> FlushResult:
        return await flush_some(only=inodes)

    async def store_of_source(paths: Sequence[bytes]) -> FlushResult:
        return await flush_some(paths=paths, only=(), ingest=True)

    async def store_file(path: bytes, ingest: bool) -> None:
        await flush_some(paths=[path], ingest=ingest)

    async def leave_mount_table() -> None:
        await session.wait_unmounted()
        assert layout.mountpoint is not None
        await trio.to_thread.run_sync(mount_table.leave, layout.mountpoint)

    try:
        await stack.tree.start()
        stack.tree.attributes.store_file = store_file
        _tell_what_continues(stack, reporter)
        transport = make_transport(
            options.transport,
            stack.tree,
            layout.mountpoint,
            filesystem_name=os.fspath(layout.source if layout.source is not None else layout.store),
            options=kernel_options(options),
        )
        streaming = Streaming(stack.tree, store_some, stream_above=options.stream_above, formats=formats)
        stack.tiers.owner.relieve = streaming.relieve
        background: list[Callable[[], Awaitable[None]]] = [] if options.read_only else [streaming.run]
        ingesting = None
        if options.ingest:
            ingesting = Ingesting(stack.tree, store_of_source, lambda: stack.tree.contents.last_used, formats=formats)
            background.append(ingesting.run)
        prefetcher = stack.tree.prefetcher
        prefetcher.enabled = options.prefetch
        background += [prefetcher.run, leave_mount_table]
        if manager is not None:
            background.append(lambda: manager.watch(session))
        session = Session(stack, transport, flush, serve_control=_serve_control, background=background)
        session.describe["transport_choice"] = lambda: choice.why
        session.describe["passthrough"] = transport.passthrough
        session.describe["streaming"] = streaming.status
        session.describe["prefetch"] = prefetcher.status
        session.warm, session.rest = partial(run_warm, stack.tree), prefetcher.rest
        if ingesting is not None:
            session.describe["ingesting"] = ingesting.status
        outcome = await session.run(when_ready)
    except Exception as error:
        code, text = describe_error(error)
        log.exception("event=mount-failed %s", fields(error=text))
        if not started:
            reporter.failed(code, text)
            _close_unused(stack)
        return code
    return outcome.exit_code


def kernel_options(options: MountOptions) -> tuple[str, ...]:
    """The mount options for FUSE. The kernel always checks permissions."""
    chosen = ["default_permissions"]
    if options.allow_other:
        chosen.append("allow_other")
    if options.read_only:
        chosen.append("ro")
    return (*chosen, *(option for option in options.fuse_options if option not in chosen))


def _tell_what_continues(stack: Stack, reporter: Reporter) -> None:
    """After a crash or a failed flush: say what was found."""
    dirty = stack.tree.dirty()
    for notice in stack.store.notices:
        reporter.warning(f"{shown_path(stack.store.root)}: {notice}")
    tell_losses(stack.tree.losses, reporter)
    if stack.continued and dirty.files:
        found = f"{format_count(dirty.files, 'file')} ({format_size(dirty.bytes)})"
        reporter.warning(f"continuing with {found} that an earlier mount left")


async def _serve_control(session: Session, stop: trio.Event) -> None:
    """Imported only now that the mount answers: starlette and hypercorn take a quarter of a second."""
    import trio

    from vfsd.daemon.unix_socket import listen_at

    def import_control() -> Callable[..., Awaitable[None]]:
        from vfsd.daemon.control import serve_control

        return serve_control

    socket = listen_at(session.socket_path)
    try:
        serve = await trio.to_thread.run_sync(import_control)
        await serve(session, socket, stop)
    finally:
        socket.close()


def _close_unused(stack: Stack) -> None:
    """A mount that never answered: remove what it made, but nothing that an earlier one left."""
    try:
        unused = not stack.continued and stack.tree.dirty().files == 0
        stack.close(clean=unused)
    except Exception as error:
        log.exception("event=close-failed %s", fields(error=describe_error(error)[1]))
