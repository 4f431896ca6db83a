/* One LZ4 block ("stream" in a Blosc frame): bytes in, exactly as many bytes out as the frame promised.
 *
 * A template: include it once per instruction set, with
 *   LZ4_DECODE      the name of the function to define
 *   LZ4_COPY_MATCH  the name of one that it needs
 *   LZ4_TARGET      their target attribute (may be empty)
 *   LZ4_SHUFFLE     1 where SSSE3's byte shuffle may be used, else 0
 *
 * Format: lz4_Block_format.md of the LZ4 project. The decoder is strict: the stream must end in literals, at its
 * last byte and at the output's last byte both. It never reads outside [src, src + src_size), never writes outside
 * [dst, writable_end); bytes of [dst + size, writable_end) may be overwritten with anything. A stream that claims
 * more than it has is an answer of 0, never a fault. Its work is linear in the output.
 *
 * Speed comes from the short path: a sequence of at most 14 literals and a match of at most 18 bytes, which are
 * nearly all sequences of an image, is two unconditional copies of 16 bytes; its only branches go one way. With the
 * byte shuffle a match that overlaps itself (a run, a repeated pair) takes the same path as any other.
 */

#include <stdint.h>
#include <string.h>

#ifndef LZ4_STREAM_ONCE
#define LZ4_STREAM_ONCE

#define LZ4_LIKELY(x) __builtin_expect(!!(x), 1)
#define LZ4_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum {
    LZ4_MIN_MATCH = 4, /* a match is never shorter: the format's constant */
    /* A sequence on the short path takes at most this much of the stream: token, 14 literals, offset, next token. */
    LZ4_SHORT_INPUT = 1 + 14 + 2 + 1,
    /* ... and makes at most this much output: 14 literals and a match of 14 + 4. */
    LZ4_SHORT_OUTPUT = 14 + 14 + LZ4_MIN_MATCH,
    /* How far a copy in steps of 32 may run past what was asked for, rounded up from 31. */
    LZ4_OVERRUN = 32,
};

static inline unsigned lz4_read_u16(const uint8_t *p)
{
    return (unsigned)p[0] | (unsigned)p[1] << 8;
}

static inline void lz4_copy16(uint8_t *to, const uint8_t *from)
{
    uint8_t carried[16]; /* by way of registers, so that the two may overlap */
    memcpy(carried, from, 16);
    memcpy(to, carried, 16);
}

/* The rest of a length of 15 or more: bytes are added up to and including the first that is not 255.
 * Returns 0 when the stream ends first. A length beyond `limit` may be returned short of its true value,
 * but always beyond `limit`. */
static inline int lz4_read_length(const uint8_t **ip, const uint8_t *iend, uint64_t limit, uint64_t *length)
{
    const uint8_t *p = *ip;
    uint64_t sum = *length;
    unsigned byte;

    do {
        if (p >= iend)
            return 0;
        byte = *p++;
        sum += byte;
    } while (byte == 255 && sum <= limit);
    *ip = p;
    *length = sum;
    return 1;
}

/* Repeats of a match nearer than 16 bytes: byte i of row `offset` is i modulo offset. Row 0 is never used: offset
 * 0 is refused; row 16 stands for every offset from 16 on. */
static const uint8_t lz4_repeat[17][16] __attribute__((aligned(16), unused)) = {
    {0},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1},
    {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0},
    {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3},
    {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0},
    {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3},
    {0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1},
    {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2, 3, 4},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 1, 2},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0, 1},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
};

/* The largest multiple of `offset` in 16 bytes: the step at which a repeated pattern may be stored again. */
static const uint8_t lz4_step[17] __attribute__((unused)) = {
    0, 16, 16, 15, 16, 15, 12, 14, 16, 9, 10, 11, 12, 13, 14, 15, 16,
};

#endif /* LZ4_STREAM_ONCE */

/* `length` bytes from `offset` bytes back, and up to 31 bytes more of anything. */
LZ4_TARGET static inline void LZ4_COPY_MATCH(uint8_t *op, size_t offset, size_t length)
{
    const uint8_t *from = op - offset;
    const uint8_t *const end = op + length;

#if LZ4_SHUFFLE
    if (offset < 16) {
        const size_t step = lz4_step[offset];
        const __m128i order = _mm_load_si128((const __m128i *)lz4_repeat[offset]);
        const __m128i pattern = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)from), order);
        do {
            _mm_storeu_si128((__m128i *)op, pattern);
            _mm_storeu_si128((__m128i *)(op + step), pattern);
            op += 2 * step;
        } while (op < end);
        return;
    }
#else
    if (offset < 8) {
        /* The first `step` bytes one by one; from there on the copy's source lies 8 or more bytes back. */
        const size_t step = offset * ((7 + offset) / offset);
        for (size_t i = 0; i < step; i++)
            op[i] = from[i];
        for (op += step; op < end; op += 8)
            memcpy(op, op - step, 8);
        return;
    }
    if (offset < 16) {
        for (; op < end; op += 8, from += 8)
            memcpy(op, from, 8);
        return;
    }
#endif
    do {
        lz4_copy16(op, from);
        lz4_copy16(op + 16, from + 16);
        op += 32;
        from += 32;
    } while (op < end);
}

/* 1 when the stream makes exactly `size` bytes of `dst`, 0 when it is damaged; `dst` is then undefined. */
LZ4_TARGET static int LZ4_DECODE(const uint8_t *src, size_t src_size, uint8_t *dst, size_t size,
                                 const uint8_t *writable_end)
{
    const uint8_t *ip = src;
    const uint8_t *const iend = src + src_size;
    uint8_t *op = dst;
    uint8_t *const oend = dst + size;
    /* Below both marks a short sequence needs no check of its lengths, and wide copies stay inside. Counted from
     * the starts: a pointer before the start of a buffer would be undefined. */
    const size_t writable = (size_t)(writable_end - dst);
    const size_t wide = LZ4_SHORT_OUTPUT + LZ4_OVERRUN;
    const size_t input_room = src_size > LZ4_SHORT_INPUT ? src_size - LZ4_SHORT_INPUT : 0;
    const size_t output_room = size > LZ4_SHORT_OUTPUT ? size - LZ4_SHORT_OUTPUT : 0;
    const size_t copy_room = writable > wide ? writable - wide : 0;
    const uint8_t *const ifast = src + input_room;
    uint8_t *const ofast = dst + (output_room < copy_room ? output_room : copy_room);

    for (;;) {
        uint64_t literals, match;
        size_t offset;
        unsigned token;

        if (LZ4_LIKELY(ip < ifast && op < ofast)) {
            token = *ip++;
            literals = token >> 4;
            if (LZ4_UNLIKELY(literals == 15))
                goto long_literals;
            lz4_copy16(op, ip);
            op += literals;
            ip += literals;
            offset = lz4_read_u16(ip);
            ip += 2;
            if (LZ4_UNLIKELY(offset - 1 >= (size_t)(op - dst))) /* so is 0 refused, which wraps around */
                return 0;
            match = token & 15;
            if (LZ4_UNLIKELY(match == 15))
                goto long_match;
            match += LZ4_MIN_MATCH;
#if LZ4_SHUFFLE
            const uint8_t *const from = op - offset;
            const size_t row = offset < 16 ? offset : 16;
            const __m128i order = _mm_load_si128((const __m128i *)lz4_repeat[row]);
            const __m128i pattern = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)from), order);
            _mm_storeu_si128((__m128i *)op, pattern);
            if (LZ4_UNLIKELY(match > 16)) {
                if (offset < 16)
                    _mm_storeu_si128((__m128i *)(op + lz4_step[row]), pattern);
                else
                    memcpy(op + 16, from + 16, 2);
            }
#else
            LZ4_COPY_MATCH(op, offset, (size_t)match);
#endif
            op += match;
            continue;
        }

        /* Near an end of either buffer: every length is checked against what is left. */
        if (ip >= iend)
            return 0;
        token = *ip++;
        literals = token >> 4;
        if (literals == 15) {
        long_literals:
            if (!lz4_read_length(&ip, iend, (uint64_t)(oend - op), &literals))
                return 0;
        }
        if (literals > (uint64_t)(oend - op) || literals > (uint64_t)(iend - ip))
            return 0;
        if ((uint64_t)(iend - ip) >= literals + 32 && (uint64_t)(writable_end - op) >= literals + 32) {
            size_t done = 0;
            do {
                lz4_copy16(op + done, ip + done);
                lz4_copy16(op + done + 16, ip + done + 16);
                done += 32;
            } while (done < literals);
        } else {
            memcpy(op, ip, (size_t)literals);
        }
        op += literals;
        ip += literals;
        if (ip == iend)
            return op == oend;
        if (iend - ip < 2)
            return 0;
        offset = lz4_read_u16(ip);
        ip += 2;
        if (offset - 1 >= (size_t)(op - dst))
            return 0;
        match = token & 15;
        if (match == 15) {
        long_match:
            if (!lz4_read_length(&ip, iend, (uint64_t)(oend - op), &match))
                return 0;
        }
        match += LZ4_MIN_MATCH;
        if (match > (uint64_t)(oend - op))
            return 0;

        uint8_t *const end = op + match;
        if (LZ4_LIKELY(writable_end - end >= LZ4_OVERRUN)) {
            LZ4_COPY_MATCH(op, offset, (size_t)match);
        } else {
            /* All but the last bytes by wide copies, whose overrun these then take back. */
            if (match > LZ4_OVERRUN) {
                LZ4_COPY_MATCH(op, offset, (size_t)match - LZ4_OVERRUN);
                op = end - LZ4_OVERRUN;
            }
            for (; op < end; op++)
                *op = *(op - offset);
        }
        op = end;
    }
}

#undef LZ4_DECODE
#undef LZ4_COPY_MATCH
#undef LZ4_TARGET
#undef LZ4_SHUFFLE
