"""What the camera of the demo plate sees: cells on uneven background, with the noise of a real camera.

Cells are stamps: a pool of pre-rendered shapes per channel (the same cell in each channel), drawn once a
plate and added at each cell's place. Light falls off towards the corners, the background has a gradient, shot
noise grows with the square root of the light (Gaussian, which Poisson is at hundreds of photons), and read
noise and the camera's offset are added. Noise comes from one pool, entered at a new place for each band of
rows. So a plane costs a few passes of float32 arithmetic in cache and no random number per pixel.

Everything follows from the seed; the same seed gives the same pixels with the same version of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# The camera, in counts of 16 bit: offset, and counts² of shot noise for each count of light (2 photons a
# count). Read noise is 7 counts, an older CCD's, because then its variance is just that of the offset's own
# shot noise, and one square root gives both. Background and offset together stay between 256 and 512, as on
# many real plates: the high byte is quiet there, and a plane compresses by 1.6 to 1.95.
OFFSET = 100.0
SHOT_VARIANCE = 0.5

# 8-bit cameras show the same scene in sixteenths.
SCALE_OF_8_BIT = 1 / 16

# µm a pixel: 10x with a 6.5 µm camera. A nucleus of 12 µm has 18 px.
PIXEL_UM = 0.65

# Cells in focus of an untreated well: one in 66 x 66 px, nearly confluent.
CELLS_PER_PIXEL = 1 / 66**2

# Half a stamp: the largest cells reach out to 37 px.
_REACH = 40
_STAMP = 2 * _REACH

# Cells may lie this far outside of the plane, and the canvas is a reach wider still: no stamp is ever
# clipped.
_OUTSIDE = 20
_MARGIN = _OUTSIDE + _REACH

# Enough shapes that no eye finds the repeats; the last ones are the condensed shapes of dying cells. Each is
# kept at several brightnesses, so that drawing a cell is one addition. All stamps of a channel fit in the L3
# cache.
_SHAPES = 16
_CONDENSED = 2
_BRIGHTNESSES = np.geomspace(0.55, 1.4, 4)

# Blur of a cell out of focus, in px, by distance from its focus in planes; the last stands for all beyond.
_DEFOCUS = (0.0, 1.6, 3.2, 5.0)

# A nucleus in px, as close as two may come.
_NUCLEUS = 20.0

# Rows are developed in bands of about this many pixels: the band and its two scratch arrays fit an L2 of 1
# MiB.
_BAND_PIXELS = 1 << 16

# Values in the noise pool, 8 MiB: larger than a band by 32, so bands rarely overlap, and it stays in the L3
# cache.
_NOISE_POOL = 1 << 21


@dataclass(frozen=True, slots=True)
class Stain:
    """One channel: its name, emission, how cells look in it, light of cells and background in counts."""

    name: str
    wavelength_nm: int
    structure: str
    brightness: float
    background: float


STAINS = (
    Stain("DAPI", 452, "nucleus", 1500.0, 290.0),
    Stain("FITC", 525, "cytoplasm", 800.0, 320.0),
    Stain("Texas Red", 624, "granules", 1100.0, 280.0),
    Stain("Cy5", 692, "cortex", 700.0, 300.0),
    Stain("TRITC", 580, "cytoplasm", 650.0, 310.0),
    Stain("Cy7", 776, "granules", 800.0, 285.0),
)


def stain_of(channel: int) -> Stain:
    """The stain of a channel (0-based); beyond the last one they repeat under numbered names."""
    stain = STAINS[channel % len(STAINS)]
    turn = channel // len(STAINS)
    if turn == 0:
        return stain
    return Stain(f"{stain.name} {turn + 1}", stain.wavelength_nm, stain.structure, stain.brightness, stain.background)


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one field, as arrays of shape (n,).

    Places in px, speeds in px a time point, the plane in which they are in focus, and how they look.
    """

    y: Floats
    x: Floats
    speed_y: Floats
    speed_x: Floats
    focus: Floats
    shape: NDArray[np.int64]
    brightness: Floats


class Scene:
    """Draws planes of `size` x `size` px for one plate.

    Parameters
    ----------
    size : int
        Side of a plane in px.
    channels, z : int
        How many of each.
    dtype : numpy dtype
        uint8 or uint16, little-endian.
    seed : int
        Decides everything.
    """

    def __init__(self, size: int, channels: int, z: int, dtype: np.dtype[Any], seed: int) -> None:
        self._size = size
        self._z = z
        self._dtype = dtype
        # A key of its own, so that the pools share no random numbers with any well.
        rng = np.random.default_rng([seed, 0x706F6F6C])
        shapes = [_Shape(rng, condensed=i >= _SHAPES - _CONDENSED) for i in range(_SHAPES)]
        levels = _DEFOCUS if z > 1 else _DEFOCUS[:1]
        structures = dict.fromkeys(stain_of(c).structure for c in range(channels))
        self._stamps = {s: [[shape.stamp(s, blur) for shape in shapes] for blur in levels] for s in structures}
        self._lit: dict[int, tuple[float, list[list[Floats]]]] = {}
        self._noise = rng.standard_normal(_NOISE_POOL, dtype=np.float32)
        self._noise *= np.float32(SHOT_VARIANCE**0.5)
        side = size + 2 * _MARGIN
        self._canvas: Floats = np.zeros((side, side), np.float32)
        self._band_rows = max(1, min(size, _BAND_PIXELS // size))
        self._light: Floats = np.empty((self._band_rows, size), np.float32)
        self._scratch: Floats = np.empty((self._band_rows, size), np.float32)
        self._illumination = [_Bump(rng.uniform(-0.15, 0.15, 2), 0.09, size) for _ in range(channels)]

    def scatter_cells(self, rng: np.random.Generator, survival: float) -> Cells:
        """The cells of a field in which the share `survival` of an untreated well's cells is left."""
        side = self._size + 2 * _OUTSIDE
        count = int(rng.poisson(CELLS_PER_PIXEL * side * side * survival))
        place = rng.uniform(-_OUTSIDE, self._size + _OUTSIDE, (2, count)).astype(np.float32)
        # Nuclei hardly lie on each other: at most one in each square of a nucleus' size.
        square = np.floor(place / _NUCLEUS).astype(np.int64)
        _, kept = np.unique(square[0] * (1 << 20) + square[1], return_index=True)
        place = place[:, np.sort(kept)]
        count = place.shape[1]
        speed = rng.normal(0.0, 2.5, (2, count)).astype(np.float32)
        healthy = rng.integers(0, _SHAPES - _CONDENSED, count)
        dying = rng.integers(_SHAPES - _CONDENSED, _SHAPES, count)
        return Cells(
            y=place[0],
            x=place[1],
            speed_y=speed[0],
            speed_x=speed[1],
            focus=np.asarray(rng.normal((self._z - 1) / 2, 0.25 * self._z, count), np.float32),
            shape=np.where(rng.random(count) < 0.03 + 0.25 * max(0.0, 1.0 - survival), dying, healthy),
            brightness=np.asarray(rng.lognormal(0.0, 0.25, count), np.float32),
        )

    def draw_plane(
        self,
        out: NDArray[Any],
        rng: np.random.Generator,
        cells: Cells,
        *,
        channel: int,
        z: int,
        time: int,
        response: float,
    ) -> None:
        """Fill `out`, shape (size, size), with channel, z and time (each 0-based) of a field.

        `response` from 0 to 1 raises the light of the second channel, as a reporter of the treatment would.
        """
        stain = stain_of(channel)
        brightness = stain.brightness * (0.6 + 1.2 * response if channel % len(STAINS) == 1 else 1.0)
        illumination = self._illumination[channel]
        medium = _Bump(rng.uniform(-1.0, 1.0, 2), 0.02, self._size)
        inside = slice(_MARGIN, _MARGIN + self._size)
        # Only the margin is not painted over; nobody looks at it.
        np.multiply(
            (illumination.y * medium.y)[:, None],
            np.float32(stain.background) * illumination.x * medium.x,
            out=self._canvas[inside, inside],
        )
        self._add_cells(cells, self._lit_stamps(channel, brightness), illumination, z, time)
        self._develop(out, rng)

    def _lit_stamps(self, channel: int, brightness: float) -> list[list[Floats]]:
        """The stamps of a channel by blur, then shape and brightness; kept until they are wanted brighter."""
        known = self._lit.get(channel)
        if known is None or known[0] != brightness:
            lights = [np.float32(brightness * light) for light in _BRIGHTNESSES]
            levels = self._stamps[stain_of(channel).structure]
            known = brightness, [[stamp * light for stamp in level for light in lights] for level in levels]
            self._lit[channel] = known
        return known[1]

    def _add_cells(self, cells: Cells, stamps: list[list[Floats]], illumination: _Bump, z: int, time: int) -> None:
        ys = self._moved(cells.y, cells.speed_y, time)
        xs = self._moved(cells.x, cells.speed_x, time)
        last = self._size - 1
        light = cells.brightness * illumination.y[np.clip(ys, 0, last)] * illumination.x[np.clip(xs, 0, last)]
        lit = np.abs(light[:, None] - _BRIGHTNESSES).argmin(axis=1)
        levels = np.minimum(np.rint(np.abs(cells.focus - z)).astype(np.int64), len(stamps) - 1)
        looks = cells.shape * len(_BRIGHTNESSES) + lit
        ys += _MARGIN
        xs += _MARGIN
        canvas = self._canvas
        for y, x, level, look in zip(ys.tolist(), xs.tolist(), levels.tolist(), looks.tolist(), strict=True):
            stamp = stamps[level][look]
            half = stamp.shape[0] // 2
            seen = canvas[y - half : y + half, x - half : x + half]
            np.add(seen, stamp, out=seen)

    def _moved(self, place: Floats, speed: Floats, time: int) -> NDArray[np.int64]:
        """Whole px after so many time points; cells stop a little outside of the plane."""
        whole = np.rint(place + time * speed).astype(np.int64)
        return np.asarray(np.clip(whole, -_OUTSIDE, self._size + _OUTSIDE))

    def _develop(self, out: NDArray[Any], rng: np.random.Generator) -> None:
        """Canvas to counts, band by band: offset, noise, saturation."""
        size = self._size
        largest = np.iinfo(self._dtype).max
        scale = SCALE_OF_8_BIT if self._dtype.itemsize == 1 else 1.0
        starts = range(0, size, self._band_rows)
        entries = rng.integers(0, _NOISE_POOL - self._band_rows * size, len(starts)).tolist()
        for start, entry in zip(starts, entries, strict=True):
            stop = min(start + self._band_rows, size)
            rows = stop - start
            light, scratch = self._light[:rows], self._scratch[:rows]
            seen = self._canvas[_MARGIN + start : _MARGIN + stop, _MARGIN : _MARGIN + size]
            np.add(seen, np.float32(OFFSET + 0.5), out=light)  # the conversion truncates
            np.sqrt(light, out=scratch)
            scratch *= self._noise[entry : entry + rows * size].reshape(rows, size)
            light += scratch
            if scale != 1.0:
                light *= np.float32(scale)
            # Nothing comes near 0: the offset alone is 14 standard deviations of its noise.
            if light.max() > largest:
                np.minimum(light, np.float32(largest), out=light)
            np.copyto(out[start:stop], light, casting="unsafe")


class _Bump:
    """Light that falls off from a point, 1 there: exp(-fall · r²), as its factors by row and by column.

    The centre is in units of half a side from the middle of the plane.
    """

    __slots__ = ("x", "y")

    def __init__(self, centre: NDArray[np.float64], fall: float, size: int) -> None:
        at = np.linspace(-1.0, 1.0, size)
        self.y: Floats = np.asarray(np.exp(-fall * (at - centre[0]) ** 2), np.float32)
        self.x: Floats = np.asarray(np.exp(-fall * (at - centre[1]) ** 2), np.float32)


class _Shape:
    """One cell: outlines of body and nucleus, and what fills them; drawn about the middle of a stamp."""

    def __init__(self, rng: np.random.Generator, *, condensed: bool) -> None:
        body = rng.uniform(13.0, 15.0) if condensed else rng.uniform(22.0, 28.0)
        nucleus = rng.uniform(5.0, 6.0) if condensed else rng.uniform(8.5, 11.0)
        self._light = 2.4 if condensed else 1.0
        self._body = _distance(rng, body, 0.13, 0.45)
        self._nucleus = _distance(rng, nucleus, 0.03, 0.75)
        self._coarse = _texture(rng, 2.2)
        self._fine = _texture(rng, 1.0)
        points = np.zeros((_STAMP, _STAMP))
        weight = np.exp(-2.2 * self._body**2) * (self._body < 0.95) * (self._nucleus > 1.1)
        places = rng.choice(points.size, 70, p=(weight / weight.sum()).ravel())
        np.add.at(points.reshape(-1), places, rng.lognormal(0.0, 0.5, 70))
        self._granules = _blurred(points, 1.2) * 6.0

    def stamp(self, structure: str, blur: float) -> Floats:
        """The light of one structure, about 1 where it is bright, blurred by `blur` px."""
        inside, inner = _soft(self._body, 5.0), _soft(self._nucleus, 9.0)
        thick = inside * np.exp(-1.3 * self._body**2)
        if structure == "nucleus":
            light = inner * (1.0 + 0.22 * self._coarse + 0.06 * self._fine) * self._light
        elif structure == "cytoplasm":
            light = (0.25 * inside + 0.9 * thick) * (1.0 + 0.12 * self._coarse + 0.10 * self._fine)
            light *= (1.0 - 0.6 * inner) * self._light
        elif structure == "granules":
            light = (self._granules + 0.16 * thick) * (1.0 - 0.8 * inner)
        else:
            cortex = np.exp(-(((self._body - 0.88) / 0.11) ** 2))
            light = (0.8 * cortex + 0.35 * inside) * (1.0 + 0.25 * self._fine)
        # Thick samples glow: a little of the light comes from out of focus.
        light = _blurred(0.9 * light, max(blur, 0.7)) + _blurred(0.2 * light, 5.0)
        return _trimmed(np.maximum(light, 0.0) * _soft(_radius() / (_REACH - 3.0), 30.0))


def _radius() -> NDArray[np.float64]:
    at = np.arange(_STAMP) - _REACH + 0.5
    return np.asarray(np.hypot(at[:, None], at))


def _distance(rng: np.random.Generator, radius: float, rough: float, slim: float) -> NDArray[np.float64]:
    """Distance from the middle in units of an irregular, slightly elongated outline: 1 on the outline."""
    at = np.arange(_STAMP) - _REACH + 0.5
    turn = rng.uniform(0.0, np.pi)
    y, x = at[:, None], at[None, :]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    ratio = np.sqrt(rng.uniform(slim, 1.0))
    along, across = along * ratio, across / ratio
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for k in range(2, 6):
        outline += rough * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) * 2 / k
    return np.asarray(np.hypot(along, across) / (radius * np.clip(outline, 0.6, 1.3)))


def _soft(distance: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
    """1 inside, 0 outside of distance 1."""
    return np.asarray(1.0 / (1.0 + np.exp(np.clip((distance - 1.0) * sharpness, -30, 30))))


def _texture(rng: np.random.Generator, grain: float) -> NDArray[np.float64]:
    """Smooth noise with a standard deviation of 1."""
    noise = _blurred(rng.standard_normal((_STAMP, _STAMP)), grain)
    return np.asarray(noise / noise.std())


def _blurred(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """A Gaussian blur; it wraps around, which stamps do not notice, being dark at their rim."""
    f = np.fft.fftfreq(_STAMP)
    kernel = np.exp(-2.0 * (np.pi * sigma) ** 2 * (f[:, None] ** 2 + f**2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(image) * kernel).real)


def _trimmed(light: NDArray[np.float64]) -> Floats:
    """Without the dark rim, which would show nothing above the noise: there is less to add for each cell."""
    light = np.maximum(light - 0.008, 0.0)
    bright = np.nonzero(light.max(axis=0))[0], np.nonzero(light.max(axis=1))[0]
    reach = max(max(_REACH - int(b[0]), int(b[-1]) + 1 - _REACH) for b in bright)
    at = slice(_REACH - reach, _REACH + reach)
    return np.ascontiguousarray(light[at, at], dtype=np.float32)
