/* One block of a Blosc frame: its streams decoded and its shuffle undone.
 *
 * A template, included by blosc_decode.h once per instruction set, with
 *   BLOSC_ISA        a suffix for the names
 *   BLOSC_TARGET     the target attribute of the functions (may be empty)
 *   BLOSC_USE_SSSE3  1 where SSSE3's byte shuffle may be used, else 0
 */

#define LZ4_DECODE BLOSC_PASTE(lz4_decode, BLOSC_ISA)
#define LZ4_COPY_MATCH BLOSC_PASTE(lz4_copy_match, BLOSC_ISA)
#define LZ4_TARGET BLOSC_TARGET
#define LZ4_SHUFFLE BLOSC_USE_SSSE3
#include "lz4_stream.h"

/* `out` has block->size bytes; up to `writable_end` what follows them may be overwritten. */
BLOSC_TARGET static blosc_status BLOSC_PASTE(blosc_decode_block, BLOSC_ISA)(const blosc_decoder *decoder,
                                                                            uint32_t number,
                                                                            const blosc_block *block,
                                                                            uint8_t *out,
                                                                            const uint8_t *writable_end)
{
    const uint8_t *const frame = decoder->frame;
    const uint32_t cbytes = decoder->header.cbytes;
    const size_t typesize = decoder->header.typesize;
    const int shuffled = block->byte_shuffled || block->bit_shuffled;
    const uint8_t *const streams_end = decoder->streams + decoder->header.blocksize + BLOSC_SLACK;
    const uint8_t *stream[BLOSC_MAX_SPLITS];
    const uint8_t *plane[BLOSC_MAX_TYPESIZE];

    uint32_t at = blosc_read_u32(frame + BLOSC_HEADER_SIZE + 4 * (size_t)number);
    if (at < BLOSC_HEADER_SIZE + 4 * (uint64_t)decoder->block_count || at > cbytes)
        return BLOSC_BAD_START;

    for (size_t k = 0; k < block->stream_count; k++) {
        uint8_t *const target = (shuffled ? decoder->streams : out) + k * block->stream_size;
        if (cbytes - at < 4)
            return BLOSC_BAD_STREAM_SIZE;
        const uint32_t stream_bytes = blosc_read_u32(frame + at);
        at += 4;
        if (stream_bytes > cbytes - at)
            return BLOSC_BAD_STREAM_SIZE;
        stream[k] = target;
        if (stream_bytes != block->stream_size) {
            if (!BLOSC_PASTE(lz4_decode, BLOSC_ISA)(frame + at, stream_bytes, target, block->stream_size,
                                                    shuffled ? streams_end : writable_end))
                return BLOSC_BAD_STREAM;
        } else if (shuffled) {
            stream[k] = frame + at; /* not compressed: its plane is read where it lies */
        } else {
            memcpy(target, frame + at, stream_bytes);
        }
        at += stream_bytes;
    }
    if (!shuffled)
        return BLOSC_OK;

    const size_t whole = block->count * typesize;
    for (size_t j = 0; j < typesize; j++) {
        plane[j] = block->stream_count == 1 ? stream[0] + j * block->count : stream[j];
        if (block->bit_shuffled) {
            uint8_t *const bytes = decoder->planes + j * block->count;
            gather_bit_rows(plane[j], block->count, bytes);
            plane[j] = bytes;
        }
    }
    unshuffle_planes(plane, typesize, block->count, out);
    if (whole < block->size) /* too short for an element: never shuffled, and only in blocks of one stream */
        memcpy(out + whole, stream[0] + whole, block->size - whole);
    return BLOSC_OK;
}

#undef BLOSC_ISA
#undef BLOSC_TARGET
#undef BLOSC_USE_SSSE3
