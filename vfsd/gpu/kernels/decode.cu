// Blosc 1 frames with LZ4 streams: kernels `plan` (frames.cuh), `decode_fused_*`, `decode_*`, `unshuffle`, `swap_bytes`,
// in this order. All work on a batch of chunks; what one cannot decode is reported for it and leaves the others alone.
//
// `input` and `planes` begin at addresses divisible by 16 and have a multiple of 16 bytes.

#include "warp.cuh"
#include "frames.cuh"
#include "lz4_decode.cuh"
#include "unshuffle.cuh"

enum : u32 {
    DECODE_WARPS = 4, // a block of `decode_*`: as many streams
    FUSED_WARPS = 4,  // a block of `decode_fused_*`: decodes up to as many streams, interleaves with all threads
    UNSHUFFLE_THREADS = 256,
    MOST_FUSED_STREAMS = 8, // element sizes that are interleaved: 2, 4, 8
};

DEVICE u32 stream_block_number(const Chunk &chunk, u32 stream)
{
    return (stream - chunk.first_stream) / chunk.streams_per_block;
}

// Grid: a warp a stream. Shared memory: a WarpScratch each. `resolved`: see Lz4Stream; ORIGINS at most.
template <bool BY_WINDOW>
DEVICE void decode_streams(const u8 *input, const Chunk *chunks, const Stream *streams, u32 stream_count, u8 *out,
                           u8 *planes, u32 *errors, u32 resolved, u8 *shared)
{
    EACH_WARP(w, DECODE_WARPS)
        const u32 number = BLOCK_INDEX * DECODE_WARPS + w;
        if (number < stream_count) {
            const Stream stream = streams[number];
            const u32 method = stream.kind & FUSED ? (u32)NOTHING : stream.kind & METHOD;
            u8 *const target = method == NOTHING ? nullptr : (stream.kind & IN_PLANES ? planes : out) + stream.target;
            const u32 stride = stream.kind & APART && method != NOTHING ? chunks[stream.chunk].typesize : 1;
            if (method == STORED) {
                if (stride == 1)
                    copy_wide(target, input + stream.source, stream.usize);
                else
                    copy_apart(target, stride, input + stream.source, stream.usize);
            } else if (method == COMPRESSED) {
                WarpScratch *const scratch = (WarpScratch *)shared + w;
                if (!decode_lz4<BY_WINDOW>(input + stream.source, stream.csize, target, stride, stream.usize, resolved,
                                           scratch))
                    report(errors, stream.chunk, stream_block_number(chunks[stream.chunk], number), BAD_STREAM);
            }
        }
    END_WARPS
}

KERNEL(128, 8) decode_by_sequence_kernel(const u8 *input, const Chunk *chunks, const Stream *streams, u32 stream_count,
                                      u8 *out, u8 *planes, u32 *errors, u32 resolved)
{
    decode_streams<false>(input, chunks, streams, stream_count, out, planes, errors, resolved, nullptr);
}

KERNEL(128, 8) decode_by_window_kernel(const u8 *input, const Chunk *chunks, const Stream *streams, u32 stream_count,
                                    u8 *out, u8 *planes, u32 *errors, u32 resolved)
{
    DYNAMIC_SHARED(shared);
    decode_streams<true>(input, chunks, streams, stream_count, out, planes, errors, resolved, shared);
}

template <u32 TYPESIZE>
DEVICE void interleave_streams(const u8 *input, const Stream *streams, const u8 *slots, u32 slot_bytes, u8 *out)
{
    EACH_THREAD(t, FUSED_WARPS * 32)
        const u8 *plane[TYPESIZE];
        u32 slot = 0;
#pragma unroll
        for (u32 j = 0; j < TYPESIZE; j++) {
            const bool stored = (streams[j].kind & METHOD) == STORED;
            plane[j] = stored ? input + streams[j].source : slots + slot * slot_bytes;
            slot += !stored;
        }
        interleave<TYPESIZE>(plane, streams[0].usize, out, t, FUSED_WARPS * 32);
    END_THREADS
}

// Grid: a block a Blosc block. A block with `fewest` to `most` compressed streams that `plan` marked: these are decoded
// into slots of shared memory, and interleaved from there with those that are stored. Shared memory: a WarpScratch for each
// warp that decodes, `most` or FUSED_WARPS, then `most` slots of `slot_bytes`, a multiple of 16.
template <bool BY_WINDOW>
DEVICE void decode_fused(const u8 *input, const Chunk *chunks, u32 chunk_count, const Stream *streams, u8 *out,
                         u32 *errors, u32 fewest, u32 most, u32 slot_bytes, u32 resolved, u8 *shared)
{
    const u32 chunk_number = find_chunk(chunks, chunk_count, BLOCK_INDEX);
    const u32 number = BLOCK_INDEX - chunks[chunk_number].first_block;
    const u32 count = chunks[chunk_number].streams_per_block;
    const Stream *const own = streams + (chunks[chunk_number].first_stream + (u64)number * count);
    if (!(own[0].kind & FUSED))
        return;
    u32 compressed = 0;
    for (u32 k = 0; k < count; k++)
        compressed += (own[k].kind & METHOD) == COMPRESSED;
    if (compressed < fewest || compressed > most)
        return;

    u8 *const slots = shared + (most < FUSED_WARPS ? most : (u32)FUSED_WARPS) * sizeof(WarpScratch);
    EACH_WARP(w, FUSED_WARPS)
        u32 slot = 0;
        for (u32 k = 0; k < count; k++) {
            if ((own[k].kind & METHOD) != COMPRESSED)
                continue;
            WarpScratch *const scratch = (WarpScratch *)shared + w;
            if (slot % FUSED_WARPS == w &&
                !decode_lz4<BY_WINDOW>(input + own[k].source, own[k].csize, slots + slot * slot_bytes, 1,
                                       own[k].usize, resolved, scratch))
                report(errors, chunk_number, number, BAD_STREAM);
            slot++;
        }
    END_WARPS
    u8 *const target = out + chunks[chunk_number].out + (u64)number * chunks[chunk_number].blocksize;
    if (count == 2)
        interleave_streams<2>(input, own, slots, slot_bytes, target);
    else if (count == 4)
        interleave_streams<4>(input, own, slots, slot_bytes, target);
    else
        interleave_streams<8>(input, own, slots, slot_bytes, target);
}

KERNEL(128, 6) decode_fused_by_sequence_kernel(const u8 *input, const Chunk *chunks, u32 chunk_count,
                                            const Stream *streams, u8 *out, u32 *errors, u32 fewest, u32 most,
                                            u32 slot_bytes, u32 resolved)
{
    DYNAMIC_SHARED(shared);
    decode_fused<false>(input, chunks, chunk_count, streams, out, errors, fewest, most, slot_bytes, resolved, shared);
}

KERNEL(128, 6) decode_fused_by_window_kernel(const u8 *input, const Chunk *chunks, u32 chunk_count,
                                          const Stream *streams, u8 *out, u32 *errors, u32 fewest, u32 most,
                                          u32 slot_bytes, u32 resolved)
{
    DYNAMIC_SHARED(shared);
    decode_fused<true>(input, chunks, chunk_count, streams, out, errors, fewest, most, slot_bytes, resolved, shared);
}

// Grid: x a block each, y shares of it.
KERNEL(256, 6) unshuffle(const Chunk *chunks, u32 chunk_count, const Stream *streams, const u8 *planes, u8 *out)
{
    const u32 chunk_number = find_chunk(chunks, chunk_count, BLOCK_INDEX);
    const Chunk chunk = chunks[chunk_number];
    const u32 number = BLOCK_INDEX - chunk.first_block;
    const u32 kind = streams[chunk.first_stream + (u64)number * chunk.streams_per_block].kind;
    if (!(kind & IN_PLANES) || (kind & FUSED))
        return;
    const Block block = describe_block(chunk, number);
    const u8 *const from = planes + chunk.planes + block.begin;
    u8 *const to = out + chunk.out + block.begin;
    const u32 whole = block.count * chunk.typesize;
    const u32 step = GRID_SIZE_Y * UNSHUFFLE_THREADS;
    EACH_THREAD(t, UNSHUFFLE_THREADS)
        const u32 first = BLOCK_INDEX_Y * UNSHUFFLE_THREADS + t;
        if (block.bit_shuffled)
            unshuffle_bits(from, chunk.typesize, block.count, to, first, step);
        else
            unshuffle_bytes(from, chunk.typesize, block.count, to, first, step);
        for (u32 k = whole + first; k < block.size; k += step)
            to[k] = from[k];
    END_THREADS
}

// Turns each element's bytes round, in place. Grid: a thread an element.
KERNEL(256, 6) swap_bytes(u8 *data, u64 count, u32 itemsize)
{
    EACH_THREAD(t, 256)
        const u64 i = (u64)BLOCK_INDEX * 256 + t;
        if (i < count)
            for (u32 j = 0; j < itemsize / 2; j++) {
                u8 *const one = data + i * itemsize + j, *const other = data + (i + 1) * itemsize - 1 - j;
                const u8 byte = *one;
                *one = *other;
                *other = byte;
            }
    END_THREADS
}
