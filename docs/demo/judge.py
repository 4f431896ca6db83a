"""Others look at what vfsd stored: zarr-python and tensorstore read the pixels, ome-zarr-models checks the metadata.

usage: judge.py STORE FOLDER    FOLDER: the same files, as tifffile reads them
"""

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import tensorstore
import tifffile
import zarr
from ome_zarr_models.v05.hcs import HCS
from ome_zarr_models.v05.image import Image


def main() -> None:
    warnings.simplefilter("error")  # a judge that warns is not content
    store, folder = Path(sys.argv[1]), Path(sys.argv[2])
    groups = sorted(store.glob("images/**/*.ome.zarr"))
    plates = [group for group in groups if "plate" in zarr.open_group(group, mode="r").attrs["ome"]]
    for group in groups:
        (HCS if group in plates else Image).from_zarr(zarr.open_group(group, mode="r"))
    print(f"ome-zarr-models: {len(groups)} groups are valid OME-NGFF 0.5")
    compared = 0
    for plate in plates:
        numbers = zarr.open_group(plate, mode="r").attrs["vfsd"]["numbers"]
        # images have channels; masks, which lie in a plate of their own while their images are not stored, have none
        files = folder.glob("**/corrected/TimePoint_*/*.TIF" if "c" in numbers else "**/masks/*_mask.tif")
        for path in sorted(files):
            row, column, site, wave = re.match(r".*_([A-Z]+)(\d+)_s(\d+)_w(\d+)", path.stem).groups()
            array = plate / row / str(int(column)) / site / "0"
            place = (0, numbers["c"].index(int(wave)), 0) if "c" in numbers else (0, 0)
            expected = tifffile.imread(path)
            by_zarr = zarr.open_array(array, mode="r")[place]
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
            by_tensorstore = tensorstore.open(spec, open=True, read=True).result()[place].read().result()
            if not (np.array_equal(by_zarr, expected) and np.array_equal(by_tensorstore, expected)):
                sys.exit(f"{path}: the array differs from the file")
            compared += 1
    print(f"zarr-python and tensorstore: {compared} planes are equal to tifffile's")


if __name__ == "__main__":
    main()
