"""What every test may use: the shared plates, and vfsd as a program with mounts that never outlive a test.

Mounts are made through the `mounted` fixture. It compares the source before and after, bit for bit and with
its times, ends daemons and mounts whatever happened, and fails a test whose daemon logged an error that the
test did not announce.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# The modules that black-box tests share lie in a package beside this file; with import mode "importlib"
# pytest would not find it by itself.
sys.path.insert(0, str(Path(__file__).parent))

from blackbox.daemons import DONE, Mount, Mounted, Plate, Vfsd, mount_plate, mounted_at, unmount_with
from blackbox.layers import LAYERS, Both, Stage, staged
from blackbox.trees import Tree, assert_same_tree, read_tree

# In CI the same examples each time, so that a run says something of the change and not of its luck; people at their
# desks look for new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# The plate of a test that asks for none in particular: two wells, two fields, two channels, two times.
ORDINARY_PLATE = "imagexpress_exported/9987_Plate_3435"
SMALL_DEMO = ("--wells", "2", "--fields", "2", "--channels", "2", "--z", "1", "--size", "128")


def why_no_fuse() -> str | None:
    """What this machine lacks for a FUSE mount, or None."""
    if not Path("/dev/fuse").exists():
        return "no /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened"
    if shutil.which("fusermount3") is None:
        return "no fusermount3"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what goes over one transport only, unless somebody chose the transports."""
    if CHOSEN_TRANSPORTS:
        return
    left_out = [item for item in items if not _is_chosen(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_chosen(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if parameters.get("transport") != "pyfuse3":
        return True
    layer = parameters.get("stage", parameters.get("layer", LAYERS_OVER_PYFUSE3[0]))
    return item.path.stem in OVER_PYFUSE3 and layer in LAYERS_OVER_PYFUSE3


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine cannot run."""
    if item.get_closest_marker("fuse") is not None and (reason := why_no_fuse()) is not None:
        pytest.skip(reason)
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real plates; the test skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("no shared plates beside this checkout")
    return SHARED


@pytest.fixture
def vfsd(tmp_path: Path) -> Vfsd:
    """Runs `vfsd` commands; a user's state lies in the test's own folder, root's where root's always lies."""
    folders = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    return Vfsd({**os.environ, **folders})


# The transports that mounts of tests go over: VFSD_TEST_TRANSPORTS=kernel,pyfuse3 takes every test over both (`make both`).
# Without it each goes over the kernel's own protocol; over pyfuse3 go those that look at what a transport answers, with files
# that begin in the source, since the layers are the tree's business: so CI keeps within its time.
CHOSEN_TRANSPORTS = os.environ.get("VFSD_TEST_TRANSPORTS")
TRANSPORTS = (CHOSEN_TRANSPORTS or "kernel,pyfuse3").split(",")
OVER_PYFUSE3 = (
    "test_semantics_files",
    "test_semantics_names",
    "test_semantics_attributes",
    "test_unexpected_errors",
    "test_commands",
    "test_model",
    "test_source_safety",
)
LAYERS_OVER_PYFUSE3 = ("source",)


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Every way of mounting; each test of a mount runs over each."""
    return str(request.param)


@pytest.fixture
def plate(tmp_path: Path, vfsd: Vfsd) -> Plate:
    """`plate(name)` copies a shared set, with its times; `plate("demo")` simulates a small one.

    `plate()` gives an ordinary ImageXpress export, simulated where the shared sets are missing; `to` names
    the copy.
    """

    def provide(name: str | None = None, *, to: str = "plate") -> Path:
        folder = tmp_path / to
        if name is None:
            name = ORDINARY_PLATE if SHARED.is_dir() else "demo"
        if name == "demo":
            vfsd.expect(DONE, "demo-plate", folder, *SMALL_DEMO)
        elif not SHARED.is_dir():
            pytest.skip("no shared plates beside this checkout")
        else:
            subprocess.run(["cp", "-a", "--no-preserve=ownership", SHARED / name, folder], check=True)
            # The shared sets may be write-protected, and a plate's folder is not.
            subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        return folder

    return provide


@pytest.fixture(scope="module", params=LAYERS)
def stage(request: pytest.FixtureRequest, transport: str) -> Iterator[Stage]:
    """One mount for all tests of a module that ask for it, once over each layer in which files can begin.

    As root it is in a folder that other users reach, and for them, too: pytest's own folders are closed to them.
    """
    with tempfile.TemporaryDirectory(prefix="vfsd-stage-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        vfsd = Vfsd({**os.environ, "XDG_STATE_HOME": str(folder / "state")})
        others = ["--allow-other"] if os.geteuid() == 0 else []
        with staged(vfsd, folder, str(request.param), transport, *others) as made:
            yield made


@pytest.fixture
def both(stage: Stage) -> Both:
    """A folder on the mount and the same one on the local disk, for `both.agree(act)`."""
    return stage.folder()


@pytest.fixture
def mounted(tmp_path: Path, vfsd: Vfsd, transport: str) -> Iterator[Mounted]:
    """`with mounted(source, *options) as mount:` mounts a plate or a store for the block.

    The block's end unmounts, with success, unless the block did. Options of vfsd go through; `at` and `store`
    choose the mount point (made if missing) and the store; `with_` is another vfsd, one with faults.
    """
    mounts: list[Mount] = []
    sources: dict[Path, Tree] = {}

    @contextmanager
    def mount(
        source: Path,
        *options: str | Path,
        at: Path | None = None,
        store: Path | None = None,
        with_: Vfsd | None = None,
    ) -> Iterator[Mount]:
        mountpoint = at or tmp_path / "mnt"
        # A dead mount is there, and nobody can ask it whether it is a folder.
        if mounted_at(mountpoint) is None:
            mountpoint.mkdir(exist_ok=True)
        if not (source / "vfs.json").exists() and source not in sources:
            sources[source] = read_tree(source)
        try:
            transported = ["--transport", transport, *options]
            made = mount_plate(with_ or vfsd, source, mountpoint, transported, store=store)
        except BaseException:
            # A mount that came up and was then found wanting must not stay; its daemon ends with it.
            unmount_with("fusermount3", "-uz", mountpoint)
            raise
        mounts.append(made)
        yield made
        if made.is_mounted() and not made.daemon_ended():
            made.umount()

    yield mount
    trouble = []
    for made in reversed(mounts):
        made.end()
        trouble += made.log_trouble()
        made.remove_state()
    for source, before in sources.items():
        assert_same_tree(read_tree(source), before, f"the source {source.name} after the test")
    assert not trouble, "the daemon logged:\n" + "\n".join(trouble)
