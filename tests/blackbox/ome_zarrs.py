"""OME-Zarr as others write it, by zarr-python: images and plates, version 0.4 and 0.5, in every encoding.

Only the metadata documents are written here, after the specification; arrays are zarr-python's, so that what is read back
is judged by somebody else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

AXES = {
    "t": {"name": "t", "type": "time", "unit": "second"},
    "c": {"name": "c", "type": "channel"},
    "z": {"name": "z", "type": "space", "unit": "micrometer"},
    "y": {"name": "y", "type": "space", "unit": "micrometer"},
    "x": {"name": "x", "type": "space", "unit": "micrometer"},
}
SCALES = {"t": 60.0, "c": 1.0, "z": 2.0, "y": 0.65, "x": 0.65}
COLOURS = ("0000FF", "00FF00", "FF0000", "FFFFFF")
# None: those of zarr-python itself.
Encoding = Mapping[str, Any]


def write_group(folder: Path, version: str, metadata: Mapping[str, Any]) -> None:
    """The documents of a group, `metadata` in the terms of NGFF."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (folder / ".zattrs").write_text(json.dumps(metadata))
    else:
        document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **metadata}}}
        (folder / "zarr.json").write_text(json.dumps(document))


def write_array(folder: Path, pixels: np.ndarray[Any, Any], version: str, **encoding: Any) -> None:
    """An array; chunks that are all fill value are left away."""
    made = zarr.create_array(
        store=str(folder),
        shape=pixels.shape,
        dtype=pixels.dtype,
        zarr_format=2 if version == "0.4" else 3,
        **{"chunks": tuple(min(64, size) for size in pixels.shape), **encoding},
    )
    made[...] = pixels


def multiscales(axes: Sequence[str], version: str) -> dict[str, Any]:
    """The metadata of an image of one level."""
    scale = {"type": "scale", "scale": [SCALES[axis] for axis in axes]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    multiscale: dict[str, Any] = {"axes": [AXES[axis] for axis in axes], "datasets": datasets}
    if version == "0.4":
        multiscale["version"] = "0.4"
    return {"multiscales": [multiscale]}


def write_image(
    folder: Path,
    pixels: np.ndarray[Any, Any],
    axes: str,
    version: str,
    *,
    channels: Sequence[str] = (),
    **encoding: Any,
) -> None:
    """An image of one level, with names and colours for its channels."""
    metadata = multiscales(axes, version)
    if channels:
        metadata["omero"] = {
            "channels": [
                {
                    "label": name,
                    "color": COLOURS[number % 4],
                    "window": {"min": 0, "max": 4095, "start": 10, "end": 2000},
                }
                for number, name in enumerate(channels)
            ]
        }
    write_group(folder, version, metadata)
    write_array(folder / "0", pixels, version, **encoding)


def write_plate(folder: Path, version: str, wells: Mapping[str, Sequence[str]]) -> None:
    """The documents of a plate and its wells: path of each (`A/1`), and the paths of its fields."""
    rows, columns = (sorted({path.split("/")[part] for path in wells}) for part in (0, 1))
    listed = [
        {"path": path, "rowIndex": rows.index(path.split("/")[0]), "columnIndex": columns.index(path.split("/")[1])}
        for path in wells
    ]
    plate = {
        "version": version,
        "name": "a plate",
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": listed,
        "field_count": max(map(len, wells.values())),
    }
    write_group(folder, version, {"plate": plate})
    for path, fields in wells.items():
        write_group(folder / path.split("/")[0], version, {})
        images = [{"path": field} for field in fields]
        write_group(folder / path, version, {"well": {"version": version, "images": images}})
