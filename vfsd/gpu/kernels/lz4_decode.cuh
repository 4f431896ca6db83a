// One LZ4 block ("stream" in a Blosc frame) by one warp: exactly `usize` bytes of `out`, or false.
//
// As strict as vfsd/codec/lz4_stream.h: the stream ends in literals, at its last byte and at the output's last byte
// both. Reads stay inside [source, source + csize) and the aligned words that hold it, writes to usize bytes from `out` on,
// `stride` apart, whatever the bytes say; the work is linear in csize + usize.
//
// Two ways to go, with the same answers. *By sequence*: all lanes follow one sequence, and copy its bytes together; good
// for long sequences. *By window*: where a token begins depends only on the token before, so every lane asks "if a token
// began at my byte, where would the next one begin?", and four rounds of shuffles tell which bytes are tokens. Their
// sequences go into a queue; 32 at a time get their places by a prefix sum, and their literals are copied by a lane each.
// Matches build on each other, eight deep in noise, since LZ4 takes the nearest: where the 32 make little, each byte is
// traced to where it first comes from (`resolve_bytes`); where they make much, a match waits for those that it needs.
// An image's sequences are 5 to 40 bytes long, which leaves most lanes idle the first way.

#ifndef VFSD_LZ4_DECODE_CUH
#define VFSD_LZ4_DECODE_CUH

enum : u32 {
    MIN_MATCH = 4,
    WINDOW_BYTES = 512, // of the stream, in shared memory: twice what a refill brings, so that 256 lie ahead
    REFILL_BYTES = 256, // 8 a lane
    QUEUE_LENGTH = 64,  // 31 left over and at most 11 more a window (a sequence has 3 bytes at least); a power of two
    // Up to here a lane copies alone, above the warp together.
    LANE_LITERALS = 16,
    LANE_MATCH = 24,
    ORIGINS = 512,    // bytes of output that 32 sequences make at most to be resolved byte by byte
    TRACED_MATCH = 48, // ... and of one match among them: its lane walks it alone
    NOT_EASY = 0x8000, // in `next`: a token for the other way, in the lane of the lower bits
};

struct Sequence {
    u32 literals_at, literals, offset, match;
};

// What a warp has in shared memory.
struct WarpScratch {
    u8 window[WINDOW_BYTES];
    Sequence queue[QUEUE_LENGTH];
    u32 origins[ORIGINS];
};

struct Lz4Stream {
    const u8 *source;
    u8 *out;
    u32 csize, usize;
    u32 resolved; // up to so many bytes are resolved byte by byte: ORIGINS, or 0
    u32 stride; // of the bytes of `out`: 1, or the size of the elements that they belong to
    u32 ip, op;
};

DEVICE u8 *place_of(const Lz4Stream &s, u32 at) { return s.out + (u64)at * s.stride; }

DEVICE void copy_literals_together(const Lz4Stream &s, u32 to, u32 from, u32 n)
{
    if (s.stride == 1)
        return copy_wide(s.out + to, s.source + from, n);
    copy_apart(place_of(s, to), s.stride, s.source + from, n);
}

// `n` bytes at `at` from `offset` bytes before; they may overlap. No lane reads what another one writes.
DEVICE void copy_match_together(const Lz4Stream &s, u32 at, u32 offset, u32 n)
{
    const u32 stride = s.stride;
    LANES
        u8 *const to = place_of(s, at);
        const u8 *const from = place_of(s, at - offset);
        if (offset >= n) {
            for (u32 k = lane; k < n; k += 32)
                to[(u64)k * stride] = from[(u64)k * stride];
        } else {
            const u32 step = 32 % offset;
            u32 j = lane % offset;
            for (u32 k = lane; k < n; k += 32) {
                to[(u64)k * stride] = from[(u64)j * stride];
                j += step;
                if (j >= offset)
                    j -= offset;
            }
        }
    END_LANES
}

// The rest of a length of 15; false when the stream ends in it or it is over `limit`.
DEVICE bool read_length(Lz4Stream &s, u32 limit, u32 &length)
{
    u32 byte;
    do {
        if (s.ip >= s.csize)
            return false;
        byte = s.source[s.ip++];
        length += byte;
        if (length > limit)
            return false;
    } while (byte == 255);
    return true;
}

// One sequence, all lanes together. Returns 0 damaged, 1 go on, 2 the end was reached and is right.
DEVICE u32 decode_sequence(Lz4Stream &s)
{
    if (s.ip >= s.csize)
        return 0;
    const u32 token = s.source[s.ip++];
    u32 literals = token >> 4, match = token & 15u;
    if (literals == 15 && !read_length(s, s.usize - s.op, literals))
        return 0;
    if (literals > s.csize - s.ip || literals > s.usize - s.op)
        return 0;
    copy_literals_together(s, s.op, s.ip, literals);
    s.ip += literals;
    s.op += literals;
    if (s.ip == s.csize)
        return s.op == s.usize ? 2 : 0;
    if (s.csize - s.ip < 2)
        return 0;
    const u32 offset = (u32)s.source[s.ip] | (u32)s.source[s.ip + 1] << 8;
    s.ip += 2;
    if (offset == 0 || offset > s.op)
        return 0;
    if (match == 15 && !read_length(s, s.usize - s.op, match))
        return 0;
    match += MIN_MATCH;
    if (match > s.usize - s.op)
        return 0;
    copy_match_together(s, s.op, offset, match);
    s.op += match;
    return 1;
}

// The part of the stream around `ip`, in shared memory, read ahead into registers. Places count from the aligned address
// in front of the stream (`skew` bytes before it).
struct Window {
    u8 *bytes;
    u32 skew, end; // [end - WINDOW_BYTES, end) is there
};

DEVICE void load_ahead(const Lz4Stream &s, const Window &window, u64 (&ahead)[LANE_COUNT])
{
    const u8 *const base = s.source - window.skew;
    LANES
        const u32 at = window.end + 8 * lane;
        if (at < s.csize + window.skew)
            ahead[L] = load_u64(base + at);
    END_LANES
}

DEVICE void refill(const Lz4Stream &s, Window &window, u64 (&ahead)[LANE_COUNT])
{
    LANES
        const u32 at = window.end + 8 * lane;
        if (at < s.csize + window.skew)
            store_u64(window.bytes + at % WINDOW_BYTES, ahead[L]);
    END_LANES
    window.end += REFILL_BYTES;
    load_ahead(s, window, ahead);
}

// 256 bytes from `ip` on are there, or all up to the stream's end.
DEVICE void keep_ahead(const Lz4Stream &s, Window &window, u64 (&ahead)[LANE_COUNT])
{
    const u32 at = s.ip + window.skew;
    if (at >= window.end) { // a long run of literals was jumped over
        window.end = at / REFILL_BYTES * REFILL_BYTES;
        load_ahead(s, window, ahead);
        refill(s, window, ahead);
    }
    while (at + REFILL_BYTES >= window.end && window.end < s.csize + window.skew)
        refill(s, window, ahead);
}

// A byte from `ip` on, mostly from the window; `at` is inside the stream.
DEVICE u32 peek(const Lz4Stream &s, const Window &window, u32 at)
{
    const u32 place = at + window.skew;
    return place < window.end ? window.bytes[place % WINDOW_BYTES] : s.source[at];
}

// The next 32 bytes of the stream: queues the sequences of the tokens among them, up to the first that is not easy.
// Easy is one whose lengths take one byte more than the token at most, and that another token follows. Returns whether
// `ip` is now at a token that is not.
DEVICE bool queue_sequences(Lz4Stream &s, const Window &window, Sequence *queue, u32 head, u32 &queued)
{
    PER_LANE(u32, next); // where the next token would be, from ip
    PER_LANE(u32, reach); // the tokens from this one on
    PER_LANE(Sequence, sequence);
    PER_LANE(u32, next_of_next);
    PER_LANE(u32, reach_of_next);

    LANES
        next[L] = NOT_EASY | lane;
        reach[L] = 1u << lane;
        u32 at = s.ip + lane;
        if (at < s.csize) {
            const u32 token = peek(s, window, at++);
            u32 literals = token >> 4, match = (token & 15u) + MIN_MATCH;
            bool easy = true;
            if (literals == 15) {
                const u32 more = at < s.csize ? peek(s, window, at++) : 255;
                easy = more != 255;
                literals += more;
            }
            const u32 literals_at = at;
            at += literals;
            if (easy && at + 2 < s.csize) {
                const u32 offset = peek(s, window, at) | peek(s, window, at + 1) << 8;
                at += 2;
                if (match == 15 + MIN_MATCH) {
                    const u32 more = peek(s, window, at++);
                    easy = more != 255 && at < s.csize;
                    match += more;
                }
                if (easy)
                    next[L] = at - s.ip;
                sequence[L] = Sequence{literals_at, literals, offset, match};
            }
        }
    END_LANES

    // After four rounds 16 tokens: more than 32 bytes have. A place behind the window is as final as NOT_EASY.
#pragma unroll
    for (u32 round = 0; round < 4; round++) {
        gather(reach_of_next, reach, next);
        gather(next_of_next, next, next);
        LANES
            if (next[L] < 32) {
                reach[L] |= reach_of_next[L];
                next[L] = next_of_next[L];
            }
        END_LANES
    }
    u32 tokens = read_lane(reach, 0);
    u32 step = read_lane(next, 0);
    const bool stop = step >= NOT_EASY;
    if (stop) {
        step -= NOT_EASY;
        tokens &= ~(1u << step);
    }
    LANES
        if (tokens >> lane & 1u)
            queue[(head + queued + count_bits(tokens & ((1u << lane) - 1u))) % QUEUE_LENGTH] = sequence[L];
    END_LANES
    queued += count_bits(tokens);
    s.ip += step;
    return stop;
}

// The matches of up to 32 sequences, `total` bytes with their literals, which are written: for each byte where its value
// first comes from. One that another match of these makes is followed to where that one has it from, which halves the way
// with each round, so that five rounds do what would take as many as matches build on each other.
DEVICE void resolve_bytes(const Lz4Stream &s, u32 *origins, u32 total, const u32 (&literals)[LANE_COUNT],
                          const u32 (&offset)[LANE_COUNT], const u32 (&match)[LANE_COUNT],
                          const u32 (&match_at)[LANE_COUNT])
{
    PER_LANE(bool, moved);

    // Places count from s.op; what lies before wraps around to beyond `total`.
    LANES
        const u32 first = match_at[L] - s.op;
        for (u32 k = first - literals[L]; k != first; k++)
            origins[k] = k;
        u32 j = 0;
        for (u32 k = 0; k < match[L]; k++) {
            origins[first + k] = first - offset[L] + j;
            j = j + 1 == offset[L] ? 0 : j + 1;
        }
    END_LANES
    do {
        LANES
            // Another lane may be following the same way: the old place and the new one are both on it.
            volatile u32 *const way = origins;
            moved[L] = false;
            for (u32 k = lane; k < total; k += 32) {
                const u32 from = way[k];
                const u32 before = from < total ? way[from] : from;
                if (before != from) {
                    way[k] = before;
                    moved[L] = true;
                }
            }
        END_LANES
    } while (ballot(moved));
    LANES
        for (u32 k = lane; k < total; k += 32)
            if (origins[k] != k)
                *place_of(s, s.op + k) = *place_of(s, s.op + origins[k]);
    END_LANES
}

// Writes the first `n` queued sequences, 32 at most; false when one of them is wrong.
DEVICE bool write_sequences(Lz4Stream &s, const Sequence *queue, u32 head, u32 n, u32 *origins)
{
    PER_LANE(u32, literals);
    PER_LANE(u32, literals_at);
    PER_LANE(u32, offset);
    PER_LANE(u32, match);
    PER_LANE(u32, length);
    PER_LANE(u32, end);
    PER_LANE(u32, match_at);
    PER_LANE(bool, flag);

    LANES
        Sequence own = {0, 0, 0, 0};
        if (lane < n)
            own = queue[(head + lane) % QUEUE_LENGTH];
        literals[L] = own.literals;
        literals_at[L] = own.literals_at;
        offset[L] = own.offset;
        match[L] = own.match;
        length[L] = own.literals + own.match;
    END_LANES
    prefix_sum(end, length); // at most 32 * (269 + 273)
    LANES
        match_at[L] = s.op + end[L] - match[L];
        flag[L] = lane < n && (end[L] > s.usize - s.op || offset[L] == 0 || offset[L] > match_at[L]);
    END_LANES
    if (ballot(flag))
        return false;

    LANES
        if (literals[L] <= LANE_LITERALS) {
            u8 *const to = place_of(s, match_at[L] - literals[L]);
            const u8 *const from = s.source + literals_at[L];
            for (u32 k = 0; k < literals[L]; k++)
                to[k * s.stride] = from[k];
        }
        flag[L] = literals[L] > LANE_LITERALS;
    END_LANES
    for (u32 long_ones = ballot(flag); long_ones; long_ones &= long_ones - 1) {
        const u32 one = lowest_bit(long_ones);
        const u32 size = read_lane(literals, one);
        copy_literals_together(s, read_lane(match_at, one) - size, read_lane(literals_at, one), size);
    }

    const u32 total = read_lane(end, 31);
    LANES
        flag[L] = match[L] > TRACED_MATCH || literals[L] > TRACED_MATCH;
    END_LANES
    if (total <= s.resolved && ballot(flag) == 0) {
        resolve_bytes(s, origins, total, literals, offset, match, match_at);
        s.op += total;
        return true;
    }

    // A match waits for the matches of earlier lanes that its source touches: those from the first that ends behind the
    // source's begin to the last that begins before its end. Both are found by halving, since lanes are in order.
    PER_LANE(u32, ends_before);
    PER_LANE(u32, begins_before);
    PER_LANE(u32, probe);
    PER_LANE(u32, probed);
    LANES
        ends_before[L] = begins_before[L] = 0;
    END_LANES
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) {
        LANES
            probe[L] = ends_before[L] + step - 1;
        END_LANES
        gather(probed, end, probe);
        LANES
            if (s.op + probed[L] <= match_at[L] - offset[L])
                ends_before[L] += step;
            probe[L] = begins_before[L] + step - 1;
        END_LANES
        gather(probed, match_at, probe);
        LANES
            const u32 from_end = match_at[L] - offset[L] + match[L];
            if (probed[L] < from_end)
                begins_before[L] += step;
        END_LANES
    }
    PER_LANE(u32, awaited);
    LANES
        // Of 32 lanes halving leaves the last one out; for the lanes below it only matters what comes before them.
        const u32 before = begins_before[L] < lane ? begins_before[L] : lane;
        awaited[L] = ((1u << before) - 1u) & ~((1u << ends_before[L]) - 1u);
    END_LANES

    u32 pending = n == 32 ? 0xffffffffu : (1u << n) - 1u;
    while (pending) {
        LANES
            flag[L] = (pending >> lane & 1u) && (awaited[L] & pending) == 0;
        END_LANES
        const u32 ready = ballot(flag);
        LANES
            if (flag[L] && match[L] <= LANE_MATCH) {
                u8 *const to = place_of(s, match_at[L]);
                const u8 *const from = place_of(s, match_at[L] - offset[L]);
                u32 j = 0;
                for (u32 k = 0; k < match[L]; k += 4) { // four loads under way at a time
                    u8 bytes[4];
#pragma unroll
                    for (u32 i = 0; i < 4; i++)
                        if (k + i < match[L]) {
                            bytes[i] = from[(u64)j * s.stride];
                            j = j + 1 == offset[L] ? 0 : j + 1;
                        }
#pragma unroll
                    for (u32 i = 0; i < 4; i++)
                        if (k + i < match[L])
                            to[(k + i) * s.stride] = bytes[i];
                }
            }
            flag[L] = flag[L] && match[L] > LANE_MATCH;
        END_LANES
        for (u32 long_ones = ballot(flag); long_ones; long_ones &= long_ones - 1) {
            const u32 one = lowest_bit(long_ones);
            copy_match_together(s, read_lane(match_at, one), read_lane(offset, one), read_lane(match, one));
        }
        pending &= ~ready;
    }
    s.op += total;
    return true;
}

DEVICE bool decode_by_window(Lz4Stream &s, WarpScratch *scratch)
{
    PER_LANE(u64, ahead);
    Window window = {scratch->window, address_bits(s.source) & 7u, 0};
    u32 head = 0, queued = 0;

    load_ahead(s, window, ahead);
    refill(s, window, ahead);
    for (;;) {
        keep_ahead(s, window, ahead);
        const bool stop = queue_sequences(s, window, scratch->queue, head, queued);
        while (queued >= 32 || (stop && queued)) {
            const u32 n = queued < 32 ? queued : 32;
            if (!write_sequences(s, scratch->queue, head, n, scratch->origins))
                return false;
            head += n;
            queued -= n;
        }
        if (stop) {
            const u32 state = decode_sequence(s);
            if (state != 1)
                return state == 2;
        }
    }
}

DEVICE bool decode_by_sequence(Lz4Stream &s)
{
    for (;;) {
        const u32 state = decode_sequence(s);
        if (state != 1)
            return state == 2;
    }
}

template <bool BY_WINDOW>
DEVICE bool decode_lz4(const u8 *source, u32 csize, u8 *out, u32 stride, u32 usize, u32 resolved,
                       WarpScratch *scratch)
{
    Lz4Stream stream = {source, out, csize, usize, resolved, stride, 0, 0};
    return BY_WINDOW ? decode_by_window(stream, scratch) : decode_by_sequence(stream);
}

#endif
