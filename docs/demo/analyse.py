"""A user's script for the demo: subtract the background, find the nuclei, write images, masks and a table.

It knows nothing of vfsd: it reads and writes files below the folder that it is given.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import tifffile


def smooth(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square window, by running sums."""
    for axis in (0, 1):
        padded = np.pad(image, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        sums = np.cumsum(padded, axis=axis, dtype=np.float64)
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(2 * radius + 1, None), slice(None, -2 * radius - 1)
        image = (sums[tuple(ahead)] - sums[tuple(behind)]) / (2 * radius + 1)
    return image


def main() -> None:
    plate = Path(sys.argv[1])
    results = plate / "results"
    rows = []
    for path in sorted(plate.glob("TimePoint_1/*.TIF")):
        image = tifffile.imread(path)
        signal = image - np.minimum(smooth(image, 64), image)
        corrected = results / "corrected" / "TimePoint_1" / path.name
        corrected.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(corrected, signal.astype(np.uint16), compression=None)
        if path.stem.endswith("_w1"):
            mask = smooth(signal, 2) > 3 * np.median(signal) + 50
            target = results / "masks" / f"{path.stem}_mask.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(target, mask.astype(np.uint8) * 255, compression=None)
            rows.append({"image": path.name, "covered": f"{mask.mean():.4f}", "signal": f"{signal.mean():.1f}"})
    with (results / "nuclei.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "covered", "signal"])
        table.writeheader()
        table.writerows(rows)
    print(f"{len(list(results.rglob('*.TIF')))} corrected images, {len(rows)} masks, 1 table")


if __name__ == "__main__":
    main()
