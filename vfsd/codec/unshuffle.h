/* Undoing Blosc's byte and bit shuffle of one block, from planes to elements.
 *
 * `plane[j]` holds byte j of each of `count` elements; planes need not be contiguous, so a stream that was stored
 * uncompressed is read where it lies in the frame. Plain loops over constant strides: gcc and clang turn them into
 * byte interleaves of whatever vector width the calling function is compiled for, and every machine can run them.
 */

#ifndef VFSD_UNSHUFFLE_H
#define VFSD_UNSHUFFLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UNSHUFFLE_INLINE static inline __attribute__((always_inline))

UNSHUFFLE_INLINE void unshuffle_2(const uint8_t *const *plane, size_t count, uint8_t *restrict out)
{
    const uint8_t *restrict p0 = plane[0], *restrict p1 = plane[1];
    for (size_t i = 0; i < count; i++) {
        out[2 * i] = p0[i];
        out[2 * i + 1] = p1[i];
    }
}

UNSHUFFLE_INLINE void unshuffle_4(const uint8_t *const *plane, size_t count, uint8_t *restrict out)
{
    const uint8_t *restrict p0 = plane[0], *restrict p1 = plane[1];
    const uint8_t *restrict p2 = plane[2], *restrict p3 = plane[3];
    for (size_t i = 0; i < count; i++) {
        out[4 * i] = p0[i];
        out[4 * i + 1] = p1[i];
        out[4 * i + 2] = p2[i];
        out[4 * i + 3] = p3[i];
    }
}

UNSHUFFLE_INLINE void unshuffle_8(const uint8_t *const *plane, size_t count, uint8_t *restrict out)
{
    const uint8_t *restrict p0 = plane[0], *restrict p1 = plane[1];
    const uint8_t *restrict p2 = plane[2], *restrict p3 = plane[3];
    const uint8_t *restrict p4 = plane[4], *restrict p5 = plane[5];
    const uint8_t *restrict p6 = plane[6], *restrict p7 = plane[7];
    for (size_t i = 0; i < count; i++) {
        out[8 * i] = p0[i];
        out[8 * i + 1] = p1[i];
        out[8 * i + 2] = p2[i];
        out[8 * i + 3] = p3[i];
        out[8 * i + 4] = p4[i];
        out[8 * i + 5] = p5[i];
        out[8 * i + 6] = p6[i];
        out[8 * i + 7] = p7[i];
    }
}

/* out[i * typesize + j] = plane[j][i]; `out` overlaps no plane. */
UNSHUFFLE_INLINE void unshuffle_planes(const uint8_t *const *plane, size_t typesize, size_t count,
                                       uint8_t *restrict out)
{
    switch (typesize) {
    case 1:
        memcpy(out, plane[0], count);
        break;
    case 2:
        unshuffle_2(plane, count, out);
        break;
    case 4:
        unshuffle_4(plane, count, out);
        break;
    case 8:
        unshuffle_8(plane, count, out);
        break;
    default:
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < typesize; j++)
                *out++ = plane[j][i];
    }
}

/* The 8 x 8 bits of a word turned over their diagonal: bit 8 r + c goes to bit 8 c + r. Three exchanges of
 * ever larger squares, as for any matrix whose side is a power of two. */
UNSHUFFLE_INLINE uint64_t transpose_bits(uint64_t x)
{
    uint64_t moved;

    moved = (x ^ (x >> 7)) & UINT64_C(0x00aa00aa00aa00aa);
    x ^= moved ^ (moved << 7);
    moved = (x ^ (x >> 14)) & UINT64_C(0x0000cccc0000cccc);
    x ^= moved ^ (moved << 14);
    moved = (x ^ (x >> 28)) & UINT64_C(0x00000000f0f0f0f0);
    return x ^ moved ^ (moved << 28);
}

/* One plane of bytes from its eight rows of bits, each `count` / 8 bytes, least significant bit first.
 * `count` is a multiple of 8; `out` does not overlap `rows`. */
UNSHUFFLE_INLINE void gather_bit_rows(const uint8_t *restrict rows, size_t count, uint8_t *restrict out)
{
    const size_t row = count / 8;

    for (size_t g = 0; g < row; g++) {
        uint64_t word = 0;
        for (unsigned bit = 0; bit < 8; bit++)
            word |= (uint64_t)rows[bit * row + g] << (8 * bit);
        word = transpose_bits(word);
        for (unsigned k = 0; k < 8; k++)
            out[8 * g + k] = (uint8_t)(word >> (8 * k));
    }
}

#endif
