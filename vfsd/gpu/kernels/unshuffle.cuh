// Byte and bit planes back into elements, by all threads of a block.
//
// Byte shuffle: byte j of element i lies at j * count + i. Bit shuffle: bit k of byte j of element i is bit i % 8 of byte
// (8 * j + k) * (count / 8) + i / 8. What is too short for an element lies behind the planes as it is.

#ifndef VFSD_UNSHUFFLE_CUH
#define VFSD_UNSHUFFLE_CUH

// Byte j of elements 4 * group to 4 * group + 3 from plane j, for every j: TYPESIZE * 4 bytes at `out`, aligned to 8.
template <u32 TYPESIZE>
DEVICE void interleave_four(const u8 *const (&plane)[TYPESIZE], u32 group, u8 *out)
{
    const u64 at = 4 * (u64)group;
    u32 word[TYPESIZE], row[TYPESIZE];
#pragma unroll
    for (u32 j = 0; j < TYPESIZE; j++)
        word[j] = load_u32_anywhere(plane[j] + at);
    if constexpr (TYPESIZE == 2) {
        row[0] = permute_bytes(word[0], word[1], 0x5140);
        row[1] = permute_bytes(word[0], word[1], 0x7362);
    } else {
        // Four planes at a time make four rows of four bytes; row i of each set of four belongs to element i.
        const u32 sets = TYPESIZE / 4;
#pragma unroll
        for (u32 set = 0; set < sets; set++) {
            const u32 *const w = word + 4 * set;
            const u32 ab_low = permute_bytes(w[0], w[1], 0x5140), ab_high = permute_bytes(w[0], w[1], 0x7362);
            const u32 cd_low = permute_bytes(w[2], w[3], 0x5140), cd_high = permute_bytes(w[2], w[3], 0x7362);
            row[0 * sets + set] = permute_bytes(ab_low, cd_low, 0x5410);
            row[1 * sets + set] = permute_bytes(ab_low, cd_low, 0x7632);
            row[2 * sets + set] = permute_bytes(ab_high, cd_high, 0x5410);
            row[3 * sets + set] = permute_bytes(ab_high, cd_high, 0x7632);
        }
    }
#pragma unroll
    for (u32 k = 0; k < TYPESIZE; k += 2)
        store_u64(out + TYPESIZE * at + 4 * k, (u64)row[k] | (u64)row[k + 1] << 32);
}

// Groups `first`, `first` + `step`, … of `count` / 4.
template <u32 TYPESIZE>
DEVICE void interleave(const u8 *const (&plane)[TYPESIZE], u32 count, u8 *out, u32 first, u32 step)
{
#pragma unroll 2
    for (u32 group = first; group < count / 4; group += step)
        interleave_four<TYPESIZE>(plane, group, out);
}

template <u32 TYPESIZE>
DEVICE void interleave_planes(const u8 *planes, u32 count, u8 *out, u32 first, u32 step)
{
    const u8 *plane[TYPESIZE];
#pragma unroll
    for (u32 j = 0; j < TYPESIZE; j++)
        plane[j] = planes + (u64)j * count;
    interleave<TYPESIZE>(plane, count, out, first, step);
}

DEVICE void unshuffle_bytes(const u8 *planes, u32 typesize, u32 count, u8 *out, u32 first, u32 step)
{
    if (count % 4 == 0 && address_bits(out) % 8 == 0) {
        if (typesize == 2)
            return interleave_planes<2>(planes, count, out, first, step);
        if (typesize == 4)
            return interleave_planes<4>(planes, count, out, first, step);
        if (typesize == 8)
            return interleave_planes<8>(planes, count, out, first, step);
    }
    for (u32 i = first; i < count; i += step)
        for (u32 j = 0; j < typesize; j++)
            out[(u64)i * typesize + j] = planes[(u64)j * count + i];
}

// 8 x 8 bits: bit i of byte k becomes bit k of byte i (Hacker's Delight, 7-3).
DEVICE u64 transpose_bits(u64 x)
{
    u64 t = (x ^ x >> 7) & 0x00aa00aa00aa00aaull;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000cccc0000ccccull;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000f0f0f0f0ull;
    return x ^ t ^ t << 28;
}

DEVICE void unshuffle_bits(const u8 *rows, u32 typesize, u32 count, u8 *out, u32 first, u32 step)
{
    const u32 row_bytes = count / 8;
    const u64 work = (u64)typesize * row_bytes;
    for (u64 n = first; n < work; n += step) {
        const u32 j = (u32)(n / row_bytes), group = (u32)(n % row_bytes);
        u64 bits = 0;
#pragma unroll
        for (u32 k = 0; k < 8; k++)
            bits |= (u64)rows[(u64)(8 * j + k) * row_bytes + group] << 8 * k;
        bits = transpose_bits(bits);
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            out[((u64)group * 8 + i) * typesize + j] = (u8)(bits >> 8 * i);
    }
}

#endif
