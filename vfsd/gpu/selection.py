"""What is asked of an array, and the chunks that this needs.

A selection is numpy's basic one: integers, slices with a step of 1 or more, an ellipsis. The box that it spans is what is
read; steps and dropped axes are applied to the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from types import EllipsisType
from typing import final

from vfsd.gpu.layout import ArrayLayout, Index

Slices = tuple[slice, ...]
Selection = int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]


@final
@dataclass(frozen=True, slots=True)
class Box:
    """A selection of an array of given shape.

    Parameters
    ----------
    start, shape : tuple of int
        What is read: a corner, and how far it goes along each axis.
    finish : tuple of slice or int
        What is taken of that, as an index into it.
    """

    start: Index
    shape: Index
    finish: tuple[int | slice, ...]


def parse_selection(selection: Selection, shape: Index) -> Box:
    """Raises
    ------
    IndexError
        It lies outside the array, has too many axes, or is none of the kinds that the module names.
    """
    parts = list(selection) if isinstance(selection, tuple) else [selection]
    dots = [number for number, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("a selection has one ellipsis at most")
    if len(parts) - len(dots) > len(shape):
        raise IndexError(f"a selection of {len(parts)} axes of an array of {len(shape)}")
    where = dots[0] if dots else len(parts)
    parts[where : where + 1] = [slice(None)] * (len(shape) - len(parts) + len(dots))

    start: list[int] = []
    sizes: list[int] = []
    finish: list[int | slice] = []
    for part, extent in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            first, stop, step = part.indices(extent)
            if step < 1:
                raise IndexError("a selection's steps are 1 or more")
            start.append(first)
            sizes.append(max(stop - first, 0))
            finish.append(slice(None, None, step))
        elif hasattr(part, "__index__"):
            number = part.__index__()
            if not -extent <= number < extent:
                raise IndexError(f"index {number} along an axis of {extent}")
            start.append(number % extent)
            sizes.append(1)
            finish.append(0)
        else:
            raise IndexError(f"a selection is made of integers, slices and an ellipsis, not {part!r}")
    return Box(tuple(start), tuple(sizes), tuple(finish))


@final
@dataclass(frozen=True, slots=True)
class ChunkPart:
    """What a box takes of one chunk.

    Parameters
    ----------
    chunk : tuple of int
        The chunk's place in the grid.
    source, target : tuple of slice
        In the chunk, and in the box.
    offset : int or None
        Where the chunk begins in the box's bytes, if it lies there whole and in one piece; else None.
    """

    chunk: Index
    source: Slices
    target: Slices
    offset: int | None


def chunks_of(box: Box, layout: ArrayLayout) -> Iterator[ChunkPart]:
    """The chunks that a box touches, in C order."""
    if 0 in box.shape:
        return
    ranges = [
        range(first // n, (first + size - 1) // n + 1)
        for first, size, n in zip(box.start, box.shape, layout.chunk_shape, strict=True)
    ]
    in_c_order = layout.order == tuple(range(len(layout.order)))
    strides = [layout.dtype.itemsize]
    for size in reversed(box.shape[1:]):
        strides.insert(0, strides[0] * size)
    for chunk in itertools.product(*ranges):
        source, target, offset = [], [], 0
        whole = in_c_order
        inside = False  # an axis of more than one element came before: all behind it must be whole
        for axis, (number, n) in enumerate(zip(chunk, layout.chunk_shape, strict=True)):
            begin = number * n - box.start[axis]  # of the chunk, in the box
            low, high = max(begin, 0), min(begin + n, box.shape[axis])
            source.append(slice(low - begin, high - begin))
            target.append(slice(low, high))
            whole = whole and high - low == n and not (inside and n != box.shape[axis])
            inside = inside or n > 1
            offset += low * strides[axis] if box.shape else 0
        yield ChunkPart(chunk, tuple(source), tuple(target), offset if whole else None)
