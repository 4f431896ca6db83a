// Where the streams of Blosc 1 frames lie: `plan` walks every block's streams, one thread a block, and checks them.
//
// The host has parsed the headers and vouches for what a Chunk says: the frame's cbytes lie in the input, nbytes of room
// in the output, and the table of block starts inside the frame. Everything behind that is checked here, with the rules
// of vfsd/codec/blosc_decode.h. What is wrong goes into `errors`, one number a chunk; 0 is sound.

#ifndef VFSD_FRAMES_CUH
#define VFSD_FRAMES_CUH

struct Chunk {
    u64 frame, out, planes; // where its frame begins in the input, its content in the output, its planes among the planes
    u32 cbytes, nbytes, blocksize, typesize, flags;
    u32 first_block, first_stream; // numbers of its first block and stream among those of the batch
    u32 streams_per_block;
};

struct Stream {
    u64 source, target; // in the input; in the output or, if `kind` has IN_PLANES, among the planes
    u32 csize, usize, chunk, kind;
};

enum : u32 {
    BYTE_SHUFFLE = 0x01,
    KEPT = 0x02,
    BIT_SHUFFLE = 0x04,
    HEADER_SIZE = 16,

    // Stream.kind
    NOTHING = 0, // its block is damaged
    STORED = 1,
    COMPRESSED = 2,
    METHOD = 3,
    IN_PLANES = 4, // to be unshuffled from there
    FUSED = 8,     // its block is decoded by `decode_fused`
    APART = 16,    // is byte k of the elements: its bytes lie in the output, the size of an element apart

    // the low byte of errors[chunk]; above it the number of the block
    BAD_START = 1,
    BAD_STREAM_SIZE = 2,
    BAD_STREAM = 3,
};

DEVICE void report(u32 *errors, u32 chunk, u32 block, u32 code)
{
    set_if_zero(errors + chunk, code | block << 8);
}

// The chunk that a block belongs to: the last one whose first block is not behind it.
DEVICE u32 find_chunk(const Chunk *chunks, u32 chunk_count, u32 block)
{
    u32 low = 0, high = chunk_count;
    while (high - low > 1) {
        const u32 middle = low + (high - low) / 2;
        if (chunks[middle].first_block <= block)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// A block's size and how its bytes are arranged.
struct Block {
    u64 begin; // in the chunk's content
    u32 size, count, stream_count, stream_size;
    bool byte_shuffled, bit_shuffled;
};

DEVICE Block describe_block(const Chunk &chunk, u32 number)
{
    Block block;
    block.begin = (u64)number * chunk.blocksize;
    const u64 left = chunk.nbytes - block.begin;
    const bool ragged = left < chunk.blocksize;
    const bool kept = (chunk.flags & KEPT) != 0;
    block.size = ragged ? (u32)left : chunk.blocksize;
    block.count = block.size / chunk.typesize;
    block.stream_count = ragged ? 1 : chunk.streams_per_block;
    block.stream_size = block.size / block.stream_count;
    block.byte_shuffled = !kept && (chunk.flags & BYTE_SHUFFLE) && chunk.typesize > 1;
    block.bit_shuffled = !kept && (chunk.flags & BIT_SHUFFLE) && block.count > 0 && block.count % 8 == 0;
    return block;
}

// Byte by byte: a frame lies anywhere.
DEVICE u32 read_u32(const u8 *at)
{
    return (u32)at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24;
}

DEVICE u32 plan_block(const u8 *input, const Chunk &chunk, u32 chunk_number, u32 number, const Block &block,
                      Stream *streams, u32 fused_streams, u32 fused_bytes, bool apart)
{
    const bool shuffled = block.byte_shuffled || block.bit_shuffled;
    const u8 *const frame = input + chunk.frame;

    if (chunk.flags & KEPT) {
        streams[0] = Stream{chunk.frame + HEADER_SIZE + block.begin, chunk.out + block.begin, block.size, block.size,
                            chunk_number, STORED};
        return 0;
    }
    const u32 block_count = (chunk.nbytes - 1) / chunk.blocksize + 1;
    u32 at = read_u32(frame + HEADER_SIZE + 4 * (u64)number);
    if (at < HEADER_SIZE + 4 * (u64)block_count || at > chunk.cbytes)
        return BAD_START;
    const u64 target = (shuffled ? chunk.planes : chunk.out) + block.begin;
    u32 compressed = 0;
    for (u32 k = 0; k < block.stream_count; k++) {
        if (chunk.cbytes - at < 4)
            return BAD_STREAM_SIZE;
        const u32 size = read_u32(frame + at);
        at += 4;
        if (size > chunk.cbytes - at)
            return BAD_STREAM_SIZE;
        const u32 kind = size == block.stream_size ? STORED : COMPRESSED;
        compressed += kind == COMPRESSED;
        streams[k] = Stream{chunk.frame + at, target + (u64)k * block.stream_size, size, block.stream_size,
                            chunk_number, shuffled ? kind | IN_PLANES : kind};
        at += size;
    }
    // Whole groups of four elements, at places that take wide stores: see interleave_four.
    const u32 ts = chunk.typesize;
    const bool even = block.stream_count == ts && (ts == 2 || ts == 4 || ts == 8) && block.stream_size % 4 == 0 &&
                      (chunk.out + block.begin) % 8 == 0;
    if (block.byte_shuffled && even && compressed <= fused_streams && block.stream_size <= fused_bytes)
        for (u32 k = 0; k < block.stream_count; k++)
            streams[k].kind |= FUSED;
    else if (apart && block.byte_shuffled && block.stream_count == ts)
        for (u32 k = 0; k < block.stream_count; k++) {
            streams[k].kind = (streams[k].kind & METHOD) | APART;
            streams[k].target = chunk.out + block.begin + k;
        }
    return 0;
}

// Grid: a thread a block. `fused_streams`, `fused_bytes`: which blocks `decode_fused` will be launched for. `apart`: whether
// `decode` writes the streams of other shuffled blocks into the output at once.
KERNEL(128, 4) plan(const u8 *input, const Chunk *chunks, u32 chunk_count, u32 block_count, Stream *streams, u32 *errors,
                 u32 fused_streams, u32 fused_bytes, u32 apart)
{
    EACH_THREAD(t, 128)
        const u32 block_number = BLOCK_INDEX * 128 + t;
        if (block_number < block_count) {
            const u32 chunk_number = find_chunk(chunks, chunk_count, block_number);
            const Chunk chunk = chunks[chunk_number];
            const u32 number = block_number - chunk.first_block;
            const Block block = describe_block(chunk, number);
            Stream *const own = streams + (chunk.first_stream + (u64)number * chunk.streams_per_block);
            const u32 error = plan_block(input, chunk, chunk_number, number, block, own, fused_streams, fused_bytes,
                                         apart != 0);
            if (error)
                report(errors, chunk_number, number, error);
            // A ragged block has rows for as many streams as a full one, and uses the first.
            for (u32 k = error ? 0 : block.stream_count; k < chunk.streams_per_block; k++)
                own[k].kind = NOTHING;
        }
    END_THREADS
}

#endif
