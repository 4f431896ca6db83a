// One LZ4 block from up to 65,535 bytes in shared memory, by one warp: greedy, with a hash table of 16-bit places.
//
// All 32 places from the current one on are looked up at once, and the first that matches is taken. A place that has the
// same four bytes as an earlier one of the 32 (a run, a pair that repeats) finds it without the table. The lane with the
// highest place writes where several have one hash, so that the result is the same every time. The format's rules for an
// end (lz4_Block_format.md): the last five bytes are literals, and no match begins in the last twelve.

#ifndef VFSD_LZ4_ENCODE_CUH
#define VFSD_LZ4_ENCODE_CUH

enum : u32 {
    HASH_BITS = 12, // 4,096 places of two bytes: 8 KiB
    NO_PLACE = 0xffff,
    LAST_LITERALS = 5,
    NO_MATCH_FROM_END = 12,
    MOST_ENCODED = 0xffff, // bytes: a place fits into 16 bits, and NO_PLACE is none
};

struct Lz4Encoder {
    const u8 *source; // in shared memory
    u16 *table;       // in shared memory
    u8 *out;
    u32 size, room;   // bytes of the source; of out
    u32 op;
};

DEVICE u32 hash_four(u32 value) { return value * 2654435761u >> (32 - HASH_BITS); }

DEVICE void put_byte(u8 *at, u32 value)
{
    LANES
        if (lane == 0)
            *at = (u8)value;
    END_LANES
}

// The rest of a length over 14: 255s and a last byte.
DEVICE void put_length(Lz4Encoder &e, u32 rest)
{
    const u32 full = rest / 255;
    LANES
        for (u32 k = lane; k < full; k += 32)
            e.out[e.op + k] = 255;
        if (lane == 0)
            e.out[e.op + full] = (u8)(rest % 255);
    END_LANES
    e.op += full + 1;
}

// Literals from `anchor` to `at`, then a match (`match` 0: none, the end). False when there is no room.
DEVICE bool put_sequence(Lz4Encoder &e, u32 anchor, u32 at, u32 offset, u32 match)
{
    const u32 literals = at - anchor, extra = match ? match - 4 : 0;
    if (literals + literals / 255 + extra / 255 + 5 > e.room - e.op)
        return false;
    put_byte(e.out + e.op, (literals < 15 ? literals : 15) << 4 | (extra < 15 ? extra : 15));
    e.op++;
    if (literals >= 15)
        put_length(e, literals - 15);
    copy_wide(e.out + e.op, e.source + anchor, literals);
    e.op += literals;
    if (match == 0)
        return true;
    put_byte(e.out + e.op, offset & 255u);
    put_byte(e.out + e.op + 1, offset >> 8);
    e.op += 2;
    if (extra >= 15)
        put_length(e, extra - 15);
    return true;
}

// How many bytes from `at` on, up to `limit`, are those from `from` on.
DEVICE u32 match_length(const Lz4Encoder &e, u32 at, u32 from, u32 limit)
{
    PER_LANE(bool, differs);
    for (u32 n = 0;; n += 32) {
        LANES
            const u32 k = at + n + lane;
            differs[L] = k >= limit || e.source[k] != e.source[from + n + lane];
        END_LANES
        const u32 where = ballot(differs);
        if (where)
            return n + lowest_bit(where);
    }
}

// Places `first` to `last` into the table, the highest of one hash for good.
DEVICE void remember(const Lz4Encoder &e, u32 first, u32 last)
{
    PER_LANE(u32, hash);
    PER_LANE(u32, same);
    for (u32 base = first; base <= last; base += 32) {
        LANES
            hash[L] = base + lane <= last ? hash_four(load_u32_anywhere(e.source + base + lane)) : 1u << HASH_BITS;
        END_LANES
        match_any(same, hash);
        LANES
            if (base + lane <= last && highest_bit(same[L]) == lane)
                e.table[hash[L]] = (u16)(base + lane);
        END_LANES
    }
}

// Returns the size of the block at e.out, or 0 when there is not enough room. `source` may be read up to the next
// multiple of four behind its end.
DEVICE u32 encode_lz4(Lz4Encoder &e)
{
    PER_LANE(u32, value);
    PER_LANE(u32, same);
    PER_LANE(u32, near);
    PER_LANE(u32, far);
    PER_LANE(bool, found);

    LANES
        for (u32 k = lane; k < 1u << HASH_BITS; k += 32)
            e.table[k] = NO_PLACE;
    END_LANES
    u32 anchor = 0, at = 0;
    const u32 end = e.size > NO_MATCH_FROM_END ? e.size - NO_MATCH_FROM_END : 0; // matches begin before it
    while (at < end) {
        LANES
            const bool inside = at + lane < end;
            value[L] = load_u32_anywhere(e.source + (inside ? at + lane : at));
            found[L] = inside;
        END_LANES
        match_any(same, value);
        LANES
            const u32 place = at + lane;
            const u32 candidate = e.table[hash_four(value[L])];
            const u32 before = same[L] & ((1u << lane) - 1u);
            near[L] = found[L] && before ? at + highest_bit(before) : (u32)NO_PLACE;
            const bool known = found[L] && candidate < place && load_u32_anywhere(e.source + candidate) == value[L];
            far[L] = known ? candidate : (u32)NO_PLACE;
            found[L] = near[L] != NO_PLACE || known;
        END_LANES
        const u32 hits = ballot(found);
        if (hits == 0) {
            const u32 last = at + 31 < end ? at + 31 : end - 1;
            remember(e, at, last);
            at += 32;
            continue;
        }
        const u32 lane_hit = lowest_bit(hits);
        const u32 hit = at + lane_hit, limit = e.size - LAST_LITERALS;
        u32 source = read_lane(near, lane_hit);
        u32 length = source == NO_PLACE ? 0 : 4 + match_length(e, hit + 4, source + 4, limit);
        const u32 other = read_lane(far, lane_hit);
        if (other != NO_PLACE) {
            const u32 other_length = 4 + match_length(e, hit + 4, other + 4, limit);
            if (other_length > length) {
                source = other;
                length = other_length;
            }
        }
        if (!put_sequence(e, anchor, hit, hit - source, length))
            return 0;
        const u32 next = hit + length;
        // Of a match only its begin and its end, as LZ4's own encoder has it: of a run its begin is worth finding again.
        remember(e, at, hit);
        if (next - 2 < end)
            remember(e, next - 2, next - 2);
        at = anchor = next;
    }
    if (!put_sequence(e, anchor, e.size, 0, 0))
        return 0;
    return e.op;
}

#endif
