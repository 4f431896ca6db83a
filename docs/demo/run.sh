#!/usr/bin/env bash
# The whole story on a simulated plate, each command as a user types it. Everything happens in a folder of its own, which is
# removed at the end; KEEP=1 leaves it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/vfsd-demo.XXXXXX")
mount_point=$work/mnt

clean_up() {
  if grep -q " $mount_point fuse.vfsd" /proc/mounts 2>/dev/null; then vfsd umount "$mount_point" >/dev/null 2>&1 || true; fi
  if [ -z "${KEEP:-}" ]; then rm -rf "$work"; fi
}
trap clean_up EXIT

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "${*//$work\//}"; "$@"; }
sums() { (cd "$1" && find . -path "./$2" -prune -o -type f -print0 | sort -z | xargs -0 sha256sum); }
stamps() { (cd "$1" && find . -printf '%p %s %T@ %m\n' | sort); }

if [ ! -c /dev/fuse ]; then echo "This machine has no /dev/fuse: the demo cannot mount anything (vfsd doctor says more)." >&2; exit 2; fi
cd "$work"
mkdir mnt

step "1. A plate, as a microscope leaves it"
run vfsd demo-plate plate1
before_sums=$(sums plate1 none); before_stamps=$(stamps plate1)

step "2. Mount it: one tree, read and written like any folder"
run vfsd mount plate1 mnt
files=$(printf '%s\n' "$before_sums" | wc -l)
[ "$(sums mnt none)" = "$before_sums" ]
echo "sha256sum: all $files files read the same through the mount"

step "3. Work: a script that knows only files reads images and writes results beside them"
run python "$here/analyse.py" mnt
results=$(sums mnt/results none)
run vfsd status mnt

step "4. Unmount: everything new is flushed to OME-Zarr, rebuilt from there and compared"
run vfsd umount mnt

step "5. What is in the store, and what others say of it"
(cd plate1.vfs && find . -maxdepth 3 | sort | head -20)
run vfsd verify plate1.vfs

step "6. Mount again: every file is there, byte for byte"
run vfsd mount plate1 mnt
[ "$(sums mnt/results none)" = "$results" ]
stored=$(printf '%s\n' "$results" | wc -l)
judged=$(python "$here/judge.py" plate1.vfs mnt/results)
run vfsd umount mnt
[ "$(sums plate1 none)" = "$before_sums" ] && [ "$(stamps plate1)" = "$before_stamps" ]

step "What was verified, and by whom"
cat <<TEXT
vfsd:            $stored new files rebuilt from the store, each digest compared, before anything was released (receipt)
vfsd verify:     all files of the store rebuilt and compared once more
sha256sum:       $files files of the plate through the mount; $stored results after unmount and mount
$judged
the plate:       bit-identical, all sizes, times and modes as before
TEXT
if [ -n "${KEEP:-}" ]; then echo "Left in $work"; fi
