/* TIFF's LZW, both ways: a strip's codes to bytes, and bytes to exactly the codes that a greedy encoder makes of them.
 *
 * Format: TIFF 6.0 (Adobe, 1992), section 13: codes of 9 to 12 bits, most significant bit first, 256 = Clear,
 * 257 = end of information, and the width grows one code early. Old-style LZW (least significant bit first) is refused.
 *
 * An encoder that always takes the longest string it knows has one freedom: after how many codes it clears its table.
 * These counts are the strip's *gaps*: the data codes before each Clear, since the Clear before it. Every strip begins
 * with a Clear, so its first gap is 0. Bytes and gaps give the codes again; whoever wants to rebuild a strip decodes,
 * encodes, and compares once. What follows the last data code (a Clear, the end code, padding) is not looked at.
 *
 * How wide a code is depends only on how many data codes came since the last Clear: after n of them the table's last
 * entry is 257 + n. Neither function reads or writes outside the buffers given, whatever is in them; the work is linear
 * in the buffers' sizes.
 */

#include <stdint.h>
#include <string.h>

enum {
    LZW_CLEAR = 256,
    LZW_END = 257,
    LZW_FIRST = 258,
    /* Data codes without a Clear: then entry 4095 is the last one, and another code would have to be 13 bits wide.
     * Known encoders clear after 3,836 (libtiff) or 3,837 (the specification's own procedure). */
    LZW_MOST_CODES = 3838,
    /* log2 of the encoder's slots: 64 KiB, a quarter of them in use at most, so that nearly every look-up is one load. */
    LZW_HASH_BITS = 14,
    LZW_SLOTS = 1 << LZW_HASH_BITS,
};

typedef enum {
    LZW_OK = 0,
    LZW_TOO_LARGE,    /* more than 2 GiB */
    LZW_NO_CLEAR,     /* it does not begin with a Clear */
    LZW_CUT_OFF,      /* codes end before the bytes do */
    LZW_UNKNOWN_CODE, /* a code that is not in the table yet */
    LZW_TABLE_FULL,   /* no Clear where one is due */
    LZW_WRONG_SIZE,   /* the codes do not end where the strip does */
    LZW_TOO_MANY,     /* more Clears than there is room for */
    LZW_NO_ROOM,      /* the codes need more bytes than there are */
    LZW_BAD_GAPS,     /* no such strip */
} lzw_status;

static inline unsigned lzw_width(unsigned codes)
{
    return codes < 254 ? 9 : codes < 766 ? 10 : codes < 1790 ? 11 : 12;
}

static inline uint64_t lzw_load_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* `width` bits from bit `at` on; the caller has seen to it that they lie in the source. */
static inline unsigned lzw_read(const uint8_t *src, size_t size, uint64_t at, unsigned width)
{
    const size_t byte = (size_t)(at >> 3);
    uint64_t bits = 0;

    if (size - byte >= 8) {
        bits = lzw_load_be64(src + byte);
    } else {
        for (size_t i = byte; i < size; i++)
            bits |= (uint64_t)src[i] << (56 - 8 * (i - byte));
    }
    return (unsigned)((bits << (at & 7)) >> (64 - width));
}

/* Copy `length` bytes that lie wholly before `to`, in steps of 16 where `room` (bytes from `to` on) allows that. */
static inline void lzw_copy(uint8_t *to, const uint8_t *from, size_t length, size_t room)
{
    if (room >= length + 15) {
        size_t done = 0;
        do {
            uint8_t carried[16]; /* by way of registers: source and target may overlap behind the string */
            memcpy(carried, from + done, 16);
            memcpy(to + done, carried, 16);
            done += 16;
        } while (done < length);
    } else {
        memmove(to, from, length);
    }
}

/* Decode a strip to exactly `out_size` bytes. `end` gets the number of bits up to and with the last data code. */
static lzw_status lzw_decode(const uint8_t *src, size_t size, uint8_t *out, size_t out_size, uint16_t *gaps,
                             size_t gaps_room, size_t *gap_count, uint64_t *end)
{
    uint32_t start[LZW_MOST_CODES + 1]; /* where the string of each data code since the last Clear begins */
    const uint64_t stop = (uint64_t)size * 8;
    uint64_t at = 0;
    size_t count = 0, done = 0;
    unsigned codes = 0;

    if (size > INT32_MAX || out_size > INT32_MAX)
        return LZW_TOO_LARGE;
    if (stop < 9 || lzw_read(src, size, 0, 9) != LZW_CLEAR)
        return LZW_NO_CLEAR;
    while (done < out_size) {
        const unsigned width = lzw_width(codes);
        unsigned code;

        if (stop - at < width)
            return LZW_CUT_OFF;
        code = lzw_read(src, size, at, width);
        at += width;
        if (code < 256) {
            if (codes == LZW_MOST_CODES)
                return LZW_TABLE_FULL;
            start[codes++] = (uint32_t)done;
            out[done++] = (uint8_t)code;
        } else if (code >= LZW_FIRST) {
            const unsigned entry = code - LZW_FIRST;
            uint32_t from, length;

            /* the string of data code `entry` and the byte behind it, which may be the first of this one */
            if (entry >= codes)
                return LZW_UNKNOWN_CODE;
            if (codes == LZW_MOST_CODES)
                return LZW_TABLE_FULL;
            start[codes++] = (uint32_t)done;
            from = start[entry];
            length = start[entry + 1] - from;
            if (length + 1 > out_size - done)
                return LZW_WRONG_SIZE;
            lzw_copy(out + done, out + from, length, out_size - done);
            out[done + length] = out[from + length];
            done += length + 1;
        } else if (code == LZW_CLEAR) {
            if (count == gaps_room)
                return LZW_TOO_MANY;
            gaps[count++] = (uint16_t)codes;
            codes = 0;
        } else {
            return LZW_WRONG_SIZE;
        }
    }
    *gap_count = count;
    *end = at;
    return LZW_OK;
}

/* Bits on their way out: `pending` of them, the lowest of `bits`. */
typedef struct {
    uint64_t bits;
    unsigned pending;
    uint8_t *to, *end;
} lzw_writer;

static inline int lzw_write(lzw_writer *w, unsigned code, unsigned width)
{
    w->bits = w->bits << width | code;
    w->pending += width;
    if (w->pending >= 32) {
        const uint32_t whole = (uint32_t)(w->bits >> (w->pending - 32));
        const uint8_t bytes[4] = {(uint8_t)(whole >> 24), (uint8_t)(whole >> 16), (uint8_t)(whole >> 8), (uint8_t)whole};
        if (w->end - w->to < 4)
            return 0;
        memcpy(w->to, bytes, 4);
        w->to += 4;
        w->pending -= 32;
    }
    return 1;
}

/* Encode bytes with these gaps. Only whole bytes are written: bits / 8 of them, rounded down, and nothing of `out` that
 * lies behind them is touched. */
static lzw_status lzw_encode(const uint8_t *src, size_t size, const uint16_t *gaps, size_t gap_count, uint8_t *out,
                             size_t out_size, uint64_t *bits)
{
    /* slot: prefix (12 bits), byte (8), code (12); no code is 0, so 0 is a free one */
    uint32_t slots[LZW_SLOTS];
    uint16_t used[LZW_MOST_CODES];
    lzw_writer w = {0, 0, out, out + out_size};
    size_t next_gap = 0, at = 0;
    unsigned codes = 0;

    if (size > INT32_MAX)
        return LZW_TOO_LARGE;
    if (size == 0 || gap_count == 0 || gaps[0] != 0)
        return LZW_BAD_GAPS;
    memset(slots, 0, sizeof slots);
    while (at < size) {
        unsigned prefix, slot = 0;
        uint32_t key = 0;

        while (next_gap < gap_count && gaps[next_gap] == codes) {
            if (!lzw_write(&w, LZW_CLEAR, lzw_width(codes)))
                return LZW_NO_ROOM;
            next_gap++;
            if (codes > LZW_MOST_CODES / 4) {
                memset(slots, 0, sizeof slots);
            } else { /* hostile gaps shall not cost 64 KiB each */
                for (unsigned i = 0; i < codes; i++)
                    slots[used[i]] = 0;
            }
            codes = 0;
        }
        if (codes == LZW_MOST_CODES)
            return LZW_BAD_GAPS;
        prefix = src[at++];
        for (; at < size; at++) {
            uint32_t held;
            key = prefix << 8 | src[at];
            slot = (key * 0x9E3779B1u) >> (32 - LZW_HASH_BITS);
            while ((held = slots[slot]) != 0 && held >> 12 != key)
                slot = (slot + 1) & (LZW_SLOTS - 1);
            if (held == 0)
                break;
            prefix = held & 0xfff;
        }
        if (!lzw_write(&w, prefix, lzw_width(codes)))
            return LZW_NO_ROOM;
        if (at < size) {
            slots[slot] = key << 12 | (LZW_FIRST + codes);
            used[codes] = (uint16_t)slot;
        }
        codes++;
    }
    if (next_gap != gap_count)
        return LZW_BAD_GAPS;
    *bits = (uint64_t)(w.to - out) * 8 + w.pending;
    while (w.pending >= 8) {
        if (w.to == w.end)
            return LZW_NO_ROOM;
        w.pending -= 8;
        *w.to++ = (uint8_t)(w.bits >> w.pending);
    }
    return LZW_OK;
}
