// Core Blosc 1 frames of arrays on the GPU: `encode_streams` shuffles and compresses each stream into a place of its own,
// the host adds up their sizes, `pack_frames` puts headers, block starts and streams together.
//
// Frames are as c-blosc's: blocks of `blocksize`, split into a stream for each byte of an element, the ragged last block
// in one; a stream that LZ4 makes no smaller is stored; a frame that would be larger than its content plus its header is
// kept. `out` of the first kernel begins at an address divisible by 16.

#include "warp.cuh"
#include "lz4_encode.cuh"

// All frames of a batch have one content size; the last stream of a frame is the only one of another size.
struct FramePlan {
    u64 content_stride; // bytes from one content to the next
    u32 nbytes, blocksize, typesize, flags;
    u32 blocks, streams_per_block, streams, slot_bytes; // of a frame: blocks, streams of a full block, of all blocks
};

struct StreamPlace {
    u32 block, begin, size, part; // part: which byte of the elements
    bool split;
};

DEVICE StreamPlace find_stream(const FramePlan &plan, u32 stream)
{
    StreamPlace place;
    const u32 full = plan.nbytes / plan.blocksize * plan.streams_per_block;
    place.split = stream < full && plan.streams_per_block > 1;
    place.block = stream < full ? stream / plan.streams_per_block : plan.nbytes / plan.blocksize;
    place.part = stream < full ? stream % plan.streams_per_block : 0;
    place.begin = place.block * plan.blocksize;
    const u32 left = plan.nbytes - place.begin;
    place.size = stream < full ? plan.blocksize / plan.streams_per_block : left;
    return place;
}

// A byte of a block as the shuffle arranges it.
DEVICE u8 shuffled_byte(const u8 *block, u32 size, u32 typesize, u32 at)
{
    const u32 count = size / typesize;
    if (typesize == 1 || at >= count * typesize)
        return block[at];
    return block[(u64)(at % count) * typesize + at / count];
}

// Grid: x a stream each, y a frame. sizes: that of each stream, its own size where it is stored. Shared memory: the table,
// then `slot_bytes` for the largest stream that is compressed. Slot of a stream in `out`: slot_bytes.
KERNEL(32, 4) encode_streams(const u8 *contents, const FramePlan *plans, u8 *out, u32 *sizes)
{
    const FramePlan plan = *plans;
    DYNAMIC_SHARED(shared);
    u16 *const table = (u16 *)shared;
    u8 *const source = shared + (2u << HASH_BITS);
    const StreamPlace place = find_stream(plan, BLOCK_INDEX);
    const u8 *const block = contents + BLOCK_INDEX_Y * plan.content_stride + place.begin;
    const u64 number = (u64)BLOCK_INDEX_Y * plan.streams + BLOCK_INDEX;
    u8 *const target = out + number * plan.slot_bytes;
    const u32 first = place.split ? place.part * place.size : 0;
    const u32 size = place.split ? plan.blocksize : place.size;
    EACH_WARP(w, 1)
        (void)w;
        u8 *const staged = place.size <= MOST_ENCODED ? source : target;
        LANES
            for (u32 k = lane; k < place.size; k += 32)
                staged[k] = plan.flags & 1u ? shuffled_byte(block, size, plan.typesize, first + k) : block[first + k];
        END_LANES
        u32 encoded = 0;
        if (place.size <= MOST_ENCODED) {
            Lz4Encoder encoder = {source, table, target, place.size, place.size - 1, 0};
            if (place.size > NO_MATCH_FROM_END)
                encoded = encode_lz4(encoder);
            if (encoded == 0)
                copy_wide(target, source, place.size);
        }
        LANES
            if (lane == 0)
                sizes[number] = encoded ? encoded : place.size;
        END_LANES
    END_WARPS
}

DEVICE void put_u32(u8 *at, u32 value)
{
    for (u32 k = 0; k < 4; k++)
        at[k] = (u8)(value >> 8 * k);
}

// Grid: x a stream each, y a frame. begins: where the size of each stream stands in its frame; cbytes: of each frame,
// content size + 16 where it is kept.
KERNEL(32, 16) pack_frames(const u8 *contents, const FramePlan *plans, const u8 *streams, const u32 *sizes,
                            const u32 *begins, const u32 *cbytes, const u64 *frame_places, u8 *frames)
{
    const FramePlan plan = *plans;
    const u64 number = (u64)BLOCK_INDEX_Y * plan.streams + BLOCK_INDEX;
    u8 *const frame = frames + frame_places[BLOCK_INDEX_Y];
    const StreamPlace place = find_stream(plan, BLOCK_INDEX);
    const bool kept = cbytes[BLOCK_INDEX_Y] == plan.nbytes + 16;
    EACH_WARP(w, 1)
        (void)w;
        LANES
            if (BLOCK_INDEX == 0 && lane == 0) {
                put_u32(frame, 2u | 1u << 8 | (plan.flags | (kept ? 2u : 0u)) << 16 | plan.typesize << 24);
                put_u32(frame + 4, plan.nbytes);
                put_u32(frame + 8, plan.blocksize);
                put_u32(frame + 12, cbytes[BLOCK_INDEX_Y]);
            }
            if (!kept && place.part == 0 && lane == 0)
                put_u32(frame + 16 + 4 * (u64)place.block, begins[number]);
            if (!kept && lane == 0)
                put_u32(frame + begins[number], sizes[number]);
        END_LANES
        if (kept) {
            const u32 from = place.begin + place.part * place.size;
            copy_wide(frame + 16 + from, contents + BLOCK_INDEX_Y * plan.content_stride + from, place.size);
        } else {
            copy_wide(frame + begins[number] + 4, streams + number * plan.slot_bytes, sizes[number]);
        }
    END_WARPS
}
