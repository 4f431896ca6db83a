/* Feeds mutated Blosc frames to the decoder, to be run under AddressSanitizer and UndefinedBehaviorSanitizer.
 *
 * usage: decode_harness SAMPLES ROUNDS SEED
 * SAMPLES: for each sample u32 frame size, u32 content size, the frame, the content (native byte order).
 *
 * Frame and output each get an allocation of exactly their size, so that one byte too far in either is a report.
 * Every sample is decoded unchanged first, and must give its content: whole, and in random ranges. Mutated samples
 * seldom come near the ends of a buffer with a sequence that is sound so far, so frames of one made-up stream, which
 * ends about where its header says, are tried as well.
 */

#include <stdio.h>

#include "blosc_decode.h"

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13; /* xorshift64 */
    state ^= state >> 7;
    state ^= state << 17;
    return below == 0 ? 0 : (uint32_t)((state >> 16) % below);
}

static void *exactly(size_t size)
{
    void *room = malloc(size == 0 ? 1 : size);
    if (room == NULL)
        exit(3);
    return room;
}

static blosc_status decode(const uint8_t *frame, size_t size, uint64_t offset, uint64_t length, const uint8_t *expected)
{
    uint8_t *out = exactly(length);
    uint32_t bad_block = 0;
    blosc_status status = blosc_decode_range(frame, size, offset, length, out, &bad_block);

    if (expected != NULL && (status != BLOSC_OK || memcmp(out, expected, length) != 0)) {
        fprintf(stderr, "wrong content: status %d, range %llu + %llu\n", (int)status, (unsigned long long)offset,
                (unsigned long long)length);
        exit(2);
    }
    free(out);
    return status;
}

static void mutate(uint8_t *frame, size_t size)
{
    static const uint32_t edges[] = {0, 1, 3, 4, 15, 16, 127, 128, 255, 65535, 0x7fffffff, 0x80000000, 0xffffffff};
    const uint32_t changes = 1 + draw(4);

    for (uint32_t i = 0; i < changes && size > 0; i++) {
        const uint32_t near = size < 256 || draw(3) ? (uint32_t)size : 256; /* now and then near the front */
        const uint32_t at = draw(near);
        switch (draw(6)) {
        case 0:
            frame[at] ^= (uint8_t)(1u << draw(8));
            break;
        case 1:
            frame[at] = (uint8_t)draw(256);
            break;
        case 2:
            frame[at] = 255; /* a length that goes on */
            break;
        case 3:
            if (size >= 4) {
                const uint32_t value = draw(2) ? edges[draw(sizeof edges / sizeof *edges)] : draw(1u << draw(20));
                memcpy(frame + at / 4 * 4 - (at / 4 * 4 + 4 > size ? 4 : 0), &value, 4);
            }
            break;
        case 4:
            memset(frame + at, (int)draw(256), draw((uint32_t)(size - at < 64 ? size - at : 64)));
            break;
        default: {
            const uint32_t from = draw((uint32_t)size), most = (uint32_t)size - (from > at ? from : at);
            memmove(frame + at, frame + from, draw(most < 4096 ? most : 4096));
        }
        }
    }
}

static void try_mutated(const uint8_t *original, size_t size, uint32_t content_size, unsigned long *decoded)
{
    const size_t kept = draw(4) ? size : draw((uint32_t)size + 1);
    uint8_t *frame = exactly(kept);
    blosc_header header;

    memcpy(frame, original, kept);
    if (kept == size || draw(2))
        mutate(frame, kept);
    if (kept >= BLOSC_HEADER_SIZE && kept < size && draw(2)) {
        const uint32_t cbytes = (uint32_t)kept; /* cut off, with a header that agrees */
        memcpy(frame + 12, &cbytes, 4);
    }
    if (blosc_parse_header(frame, kept, &header) == BLOSC_OK) {
        const uint32_t most = header.nbytes < (1u << 20) ? header.nbytes : (1u << 20);
        *decoded += decode(frame, kept, 0, most, NULL) == BLOSC_OK;
        const uint32_t offset = draw(header.nbytes);
        decode(frame, kept, offset, draw(most), NULL);
    } else {
        decode(frame, kept, 0, content_size, NULL);
    }
    free(frame);
}

/* A stream of random sequences: mostly short and sound, ended anyhow; returns its size, `*made` is its output's. */
static size_t make_stream(uint8_t *stream, size_t room, uint32_t *made)
{
    const uint32_t sequences = draw(12);
    size_t at = 0;

    *made = 0;
    for (uint32_t i = 0; i <= sequences && at + 64 < room; i++) {
        const uint32_t literals = draw(3) ? draw(15) : draw(60), match = draw(3) ? draw(15) : draw(300);
        stream[at++] = (uint8_t)((literals < 15 ? literals : 15) << 4 | (match < 15 ? match : 15));
        if (literals >= 15)
            stream[at++] = (uint8_t)(literals - 15);
        for (uint32_t k = 0; k < literals; k++)
            stream[at++] = (uint8_t)draw(256);
        *made += literals;
        if (i == sequences) /* the last has no match, except now and then */
            return draw(4) ? at : at + draw(3);
        const uint32_t offset = draw(50) ? 1 + draw(*made < 40 ? *made : 40) : draw(65536);
        stream[at++] = (uint8_t)offset;
        stream[at++] = (uint8_t)(offset >> 8);
        if (match >= 15) {
            if (match >= 15 + 255)
                stream[at++] = 255;
            stream[at++] = (uint8_t)(match >= 15 + 255 ? match - 15 - 255 : match - 15);
        }
        *made += match + 4;
    }
    return at;
}

static void try_made_up(unsigned long *decoded)
{
    static const uint8_t kinds[] = {0x30, 0x31, 0x34}; /* LZ4, one stream a block: no shuffle, bytes, bits */
    uint8_t stream[2048];
    uint32_t made;
    size_t size = make_stream(stream, sizeof stream, &made);
    if (draw(4) == 0 && size > 2) { /* a length that goes on past the end */
        const uint32_t tail = draw(size < 8 ? (uint32_t)size : 8);
        memset(stream + size - tail, 255, tail);
    }
    const uint32_t near = made + draw(4) * draw(2) - (made > 3 ? draw(4) * draw(2) : 0);
    const uint32_t nbytes = draw(50) ? (near ? near : 1) : 100000000 + draw(600000000);
    const uint32_t words[] = {2 | 1 << 8 | (uint32_t)kinds[draw(3)] << 16 | (1 + draw(9)) << 24, nbytes, nbytes,
                              24 + (uint32_t)size, 20, (uint32_t)size};
    uint8_t *frame = exactly(24 + size);
    memcpy(frame, words, 24);
    memcpy(frame + 24, stream, size);
    *decoded += decode(frame, 24 + size, 0, nbytes < 65536 ? nbytes : 65536, NULL) == BLOSC_OK;
    free(frame);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 1;
    FILE *samples = fopen(argv[1], "rb");
    const unsigned long rounds = strtoul(argv[2], NULL, 10);
    unsigned long tried = 0, decoded = 0, made_up = 0;
    uint32_t sizes[2];

    state = strtoull(argv[3], NULL, 10) * 2654435769u + 1;
    if (samples == NULL)
        return 1;
    while (fread(sizes, sizeof sizes, 1, samples) == 1) {
        uint8_t *frame = exactly(sizes[0]), *content = exactly(sizes[1]);
        if (fread(frame, 1, sizes[0], samples) != sizes[0] || fread(content, 1, sizes[1], samples) != sizes[1])
            return 1;
        decode(frame, sizes[0], 0, sizes[1], content);
        for (int i = 0; i < 8; i++) {
            const uint32_t offset = draw(sizes[1] + 1);
            decode(frame, sizes[0], offset, draw(sizes[1] - offset + 1), NULL);
            const uint32_t length = draw(sizes[1] - offset + 1);
            decode(frame, sizes[0], offset, length, content + offset);
        }
        for (unsigned long i = 0; i < rounds; i++, tried++)
            try_mutated(frame, sizes[0], sizes[1], &decoded);
        for (unsigned long i = 0; i < 10 * rounds; i++)
            try_made_up(&made_up);
        free(frame);
        free(content);
    }
    fclose(samples);
    printf("%lu %lu %lu\n", tried, decoded, made_up);
    return 0;
}
