/* Decoding Blosc 1 frames whose streams are LZ4 (or that hold their bytes uncompressed), whole or a range.
 *
 * Plain C without Python, so that the same text runs in the extension and, under a sanitizer, in the tests.
 * Promises: for any bytes at all it reads only the frame, writes only the output given and scratch of its own (at
 * most three blocks), and ends in time linear in the output; what is wrong comes back as a status, never a fault.
 * It never changes the frame and keeps no state. On failure the output's content is undefined.
 *
 * Format: README_CHUNK_FORMAT.rst of c-blosc 1.21 and its code where the text is silent.
 * frame   16-byte header: version 2, version of the codec's format, flags, typesize, u32 nbytes, u32 blocksize,
 *         u32 cbytes; then an i32 per block, where it begins, counted from the frame's first byte; then the blocks.
 * flags   1 byte shuffle, 2 bytes kept as they are (from byte 16, unshuffled, no block starts), 4 bit shuffle,
 *         8 reserved, 16 blocks are not split; the codec in the upper three bits.
 * block   `typesize` streams, one a byte plane, or a single one. A stream: i32 size, then that many bytes; a size
 *         equal to the uncompressed size means that they are not compressed.
 */

#ifndef VFSD_BLOSC_DECODE_H
#define VFSD_BLOSC_DECODE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "unshuffle.h"

enum {
    BLOSC_HEADER_SIZE = 16,
    BLOSC_VERSION = 2,
    BLOSC_BYTE_SHUFFLE = 0x01,
    BLOSC_KEPT = 0x02,
    BLOSC_BIT_SHUFFLE = 0x04,
    BLOSC_RESERVED = 0x08,
    BLOSC_NOT_SPLIT = 0x10,
    BLOSC_CODEC_LZ4 = 1,
    BLOSC_LZ4_VERSION = 1,
    /* c-blosc's rule for frames older than the not-split flag: */
    BLOSC_MAX_SPLITS = 16,
    BLOSC_MIN_SPLIT_PLANE = 128,
    BLOSC_MAX_TYPESIZE = 255,
    /* INT_MAX less the header: the most that c-blosc takes. */
    BLOSC_MAX_NBYTES = 2147483631,
    /* c-blosc's own limit, (INT_MAX - 4 * 255) / 3; it also bounds the scratch. */
    BLOSC_MAX_BLOCKSIZE = 715827542,
    /* Room behind the scratch for copies in steps of 16 that run over (LZ4_SHORT_OUTPUT + LZ4_OVERRUN). */
    BLOSC_SLACK = 64,
};

typedef enum {
    BLOSC_OK = 0,
    BLOSC_OTHER_CODEC, /* a sound header, but of a codec that is not decoded here */
    BLOSC_NO_MEMORY,
    BLOSC_TOO_SHORT,
    BLOSC_IS_BLOSC2,
    BLOSC_BAD_VERSION,
    BLOSC_BAD_FLAGS,
    BLOSC_BAD_TYPESIZE,
    BLOSC_BAD_NBYTES,
    BLOSC_BAD_BLOCKSIZE,
    BLOSC_BAD_CBYTES,
    BLOSC_CUT_OFF,
    BLOSC_BAD_CODEC_VERSION,
    BLOSC_WRONG_SIZE,
    BLOSC_BAD_RANGE,
    BLOSC_BAD_SPLIT,
    BLOSC_BAD_START,
    BLOSC_BAD_STREAM_SIZE,
    BLOSC_BAD_STREAM,
} blosc_status;

typedef struct {
    uint8_t version, versionlz, flags, typesize;
    uint32_t nbytes, blocksize, cbytes;
} blosc_header;

typedef struct {
    const uint8_t *frame; /* header->cbytes readable bytes */
    blosc_header header;
    uint32_t block_count;
    uint8_t *streams; /* scratch: one block's decoded streams, and slack */
    uint8_t *planes;  /* scratch: one block's byte planes (bit shuffle only) */
    uint8_t *partial; /* scratch: one block's elements (only where a range begins or ends inside a block) */
} blosc_decoder;

/* Each number is fetched once: what was checked is what is used, even if somebody changes the frame meanwhile. */
static inline uint32_t blosc_read_u32(const uint8_t *p)
{
    const volatile uint8_t *v = p;
    uint32_t b0 = v[0], b1 = v[1], b2 = v[2], b3 = v[3];
    return b0 | b1 << 8 | b2 << 16 | b3 << 24;
}

static inline uint32_t blosc_count_blocks(const blosc_header *header)
{
    return header->nbytes == 0 ? 0 : (header->nbytes - 1) / header->blocksize + 1;
}

/* Whether full blocks hold a stream for each byte plane; a ragged last block never does. */
static inline int blosc_splits_blocks(const blosc_header *header)
{
    return !(header->flags & BLOSC_NOT_SPLIT) && header->typesize <= BLOSC_MAX_SPLITS &&
           header->blocksize / header->typesize >= BLOSC_MIN_SPLIT_PLANE;
}

/* Checks all that the 16 bytes alone can tell; `size` is how many bytes of the frame there are. */
static blosc_status blosc_parse_header(const uint8_t *frame, size_t size, blosc_header *header)
{
    if (size < BLOSC_HEADER_SIZE)
        return BLOSC_TOO_SHORT;
    const uint32_t first = blosc_read_u32(frame);
    header->version = (uint8_t)first;
    header->versionlz = (uint8_t)(first >> 8);
    header->flags = (uint8_t)(first >> 16);
    header->typesize = (uint8_t)(first >> 24);
    header->nbytes = blosc_read_u32(frame + 4);
    header->blocksize = blosc_read_u32(frame + 8);
    header->cbytes = blosc_read_u32(frame + 12);

    const unsigned both = BLOSC_BYTE_SHUFFLE | BLOSC_BIT_SHUFFLE;
    if (header->version > BLOSC_VERSION || (header->flags & both) == both)
        return BLOSC_IS_BLOSC2;
    if (header->version != BLOSC_VERSION)
        return BLOSC_BAD_VERSION;
    if (header->flags & BLOSC_RESERVED)
        return BLOSC_BAD_FLAGS;
    if (header->typesize == 0)
        return BLOSC_BAD_TYPESIZE;
    if (header->nbytes > BLOSC_MAX_NBYTES)
        return BLOSC_BAD_NBYTES;
    if (header->nbytes > 0 && (header->blocksize == 0 || header->blocksize > header->nbytes ||
                               header->blocksize > BLOSC_MAX_BLOCKSIZE))
        return BLOSC_BAD_BLOCKSIZE;
    if (header->cbytes > INT32_MAX)
        return BLOSC_BAD_CBYTES;
    if (header->flags & BLOSC_KEPT) {
        if (header->cbytes != header->nbytes + BLOSC_HEADER_SIZE)
            return BLOSC_BAD_CBYTES;
        return BLOSC_OK;
    }
    if (header->cbytes < BLOSC_HEADER_SIZE + 4 * (uint64_t)blosc_count_blocks(header))
        return BLOSC_BAD_CBYTES;
    /* Streams that do not add up to their block would leave bytes that nobody wrote. */
    if (blosc_splits_blocks(header) && header->blocksize % header->typesize != 0)
        return BLOSC_BAD_SPLIT;
    return BLOSC_OK;
}

/* A block's size and how its bytes are arranged. */
typedef struct {
    size_t size, count; /* bytes; whole elements */
    size_t stream_count, stream_size;
    int byte_shuffled, bit_shuffled;
} blosc_block;

static blosc_block blosc_describe_block(const blosc_header *header, uint32_t number)
{
    const size_t left = header->nbytes - (size_t)number * header->blocksize;
    const int ragged = left < header->blocksize;
    blosc_block block;

    block.size = ragged ? left : header->blocksize;
    block.count = block.size / header->typesize;
    block.stream_count = !ragged && blosc_splits_blocks(header) ? header->typesize : 1;
    block.stream_size = block.size / block.stream_count;
    block.byte_shuffled = (header->flags & BLOSC_BYTE_SHUFFLE) && header->typesize > 1;
    block.bit_shuffled = (header->flags & BLOSC_BIT_SHUFFLE) && block.count > 0 && block.count % 8 == 0;
    return block;
}

#define BLOSC_PASTE_(name, suffix) name##_##suffix
#define BLOSC_PASTE(name, suffix) BLOSC_PASTE_(name, suffix)

#define BLOSC_ISA portable
#define BLOSC_TARGET
#define BLOSC_USE_SSSE3 0
#include "blosc_block.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(VFSD_PORTABLE)
#define BLOSC_HAVE_AVX2
#include <immintrin.h>
#define BLOSC_ISA avx2
#define BLOSC_TARGET __attribute__((target("avx2")))
#define BLOSC_USE_SSSE3 1
#include "blosc_block.h"
#endif

typedef blosc_status (*blosc_block_function)(const blosc_decoder *, uint32_t, const blosc_block *, uint8_t *,
                                             const uint8_t *);

static blosc_block_function blosc_choose_block_function(void)
{
#ifdef BLOSC_HAVE_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        return blosc_decode_block_avx2;
#endif
    return blosc_decode_block_portable;
}

/* Bytes [offset, offset + length) of the frame's content into `out`, which has `length` bytes and overlaps no
 * byte of the frame. Only the blocks touched are looked at. `*bad_block` is set where a block is at fault. */
static blosc_status blosc_decode_range(const uint8_t *frame, size_t size, uint64_t offset, uint64_t length,
                                       uint8_t *out, uint32_t *bad_block)
{
    blosc_decoder decoder = {.frame = frame};
    blosc_header *const header = &decoder.header;
    blosc_status status = blosc_parse_header(frame, size, header);

    if (status != BLOSC_OK)
        return status;
    if (header->cbytes > size)
        return BLOSC_CUT_OFF;
    if (offset > header->nbytes || length > header->nbytes - offset)
        return BLOSC_BAD_RANGE;
    if (length == 0)
        return BLOSC_OK;
    if (header->flags & BLOSC_KEPT) {
        memcpy(out, frame + BLOSC_HEADER_SIZE + offset, (size_t)length);
        return BLOSC_OK;
    }
    if (header->flags >> 5 != BLOSC_CODEC_LZ4)
        return BLOSC_OTHER_CODEC;
    if (header->versionlz != BLOSC_LZ4_VERSION)
        return BLOSC_BAD_CODEC_VERSION;

    const size_t blocksize = header->blocksize;
    const uint64_t end = offset + length;
    const int bits = (header->flags & BLOSC_BIT_SHUFFLE) != 0;
    const int partial = offset % blocksize != 0 || (end % blocksize != 0 && end != header->nbytes);
    /* Claimed, not touched, until there is data to fill it: a frame that lies about its blocks costs nothing. */
    uint8_t *const scratch = malloc(blocksize * (size_t)(1 + bits + partial) + BLOSC_SLACK);
    if (scratch == NULL)
        return BLOSC_NO_MEMORY;
    decoder.partial = scratch;
    decoder.planes = decoder.partial + (partial ? blocksize : 0);
    decoder.streams = decoder.planes + (bits ? blocksize : 0);
    decoder.block_count = blosc_count_blocks(header);

    const blosc_block_function decode_block = blosc_choose_block_function();
    const uint8_t *const out_end = out + length;
    const uint32_t last = (uint32_t)((end - 1) / blocksize);
    for (uint32_t number = (uint32_t)(offset / blocksize); number <= last; number++) {
        const uint64_t begin = (uint64_t)number * blocksize;
        const blosc_block block = blosc_describe_block(header, number);
        if (begin >= offset && begin + block.size <= end) {
            status = decode_block(&decoder, number, &block, out + (begin - offset), out_end);
        } else {
            const uint64_t from = begin > offset ? begin : offset;
            const uint64_t to = begin + block.size < end ? begin + block.size : end;
            status = decode_block(&decoder, number, &block, decoder.partial, decoder.partial + block.size);
            if (status == BLOSC_OK)
                memcpy(out + (from - offset), decoder.partial + (from - begin), (size_t)(to - from));
        }
        if (status != BLOSC_OK) {
            *bad_block = number;
            break;
        }
    }
    free(scratch);
    return status;
}

#endif
