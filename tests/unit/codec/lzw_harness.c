/* Feeds mutated LZW strips and made-up gaps to the codec, to be run under AddressSanitizer and UndefinedBehaviorSanitizer.
 *
 * usage: lzw_harness SAMPLES ROUNDS SEED
 * SAMPLES: for each sample u32 strip size, u32 content size, the strip, the content (native byte order).
 *
 * Every buffer is an allocation of exactly its size, so that one byte too far is a report. Each sample is decoded and
 * encoded unchanged first, and must give its content, and its strip.
 */

#include <stdio.h>
#include <stdlib.h>

#include "lzw.h"

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
    return size == 0 ? (char *)room + 1 : room;
}

static void let_go(void *room, size_t size)
{
    free(size == 0 ? (char *)room - 1 : room);
}

/* Whether it decodes; what comes out is then encoded into too little, exact and ample room. */
static int try_strip(const uint8_t *original, size_t size, size_t content_size, const uint8_t *content)
{
    const size_t gaps_room = content == NULL ? draw(40) : content_size + 4;
    uint8_t *strip = exactly(size), *out = exactly(content_size);
    uint16_t *gaps = exactly(2 * gaps_room);
    size_t count = 0;
    uint64_t bits = 0, again = 0;
    lzw_status status;

    memcpy(strip, original, size);
    status = lzw_decode(strip, size, out, content_size, gaps, gaps_room, &count, &bits);
    if (content != NULL && (status != LZW_OK || memcmp(out, content, content_size) != 0)) {
        fprintf(stderr, "wrong content: status %d\n", (int)status);
        exit(2);
    }
    if (status == LZW_OK) {
        const size_t rooms[] = {(size_t)(bits / 8), draw((uint32_t)(bits / 8) + 1), (size_t)(bits / 8) + draw(9)};
        for (int i = 0; i < 3; i++) {
            uint8_t *room = exactly(rooms[i]);
            const lzw_status made = lzw_encode(out, content_size, gaps, count, room, rooms[i], &again);
            if (content != NULL && i == 0 && (made != LZW_OK || again != bits || memcmp(room, strip, rooms[0]) != 0)) {
                fprintf(stderr, "another strip: status %d\n", (int)made);
                exit(2);
            }
            let_go(room, rooms[i]);
        }
    }
    let_go(strip, size);
    let_go(out, content_size);
    let_go(gaps, 2 * gaps_room);
    return status == LZW_OK;
}

static void try_gaps(const uint8_t *content, size_t size)
{
    const size_t count = draw(30), room = draw(2) ? draw((uint32_t)size + 1) : 2 * size + 64;
    uint16_t *gaps = exactly(2 * count);
    uint8_t *out = exactly(room), *pixels = exactly(size);
    uint64_t bits;

    memcpy(pixels, content, size);
    for (size_t i = 0; i < count; i++)
        gaps[i] = (uint16_t)(i == 0 && draw(20) ? 0 : draw(3) ? draw(40) : draw(4000));
    lzw_encode(pixels, size, gaps, count, out, room, &bits);
    let_go(gaps, 2 * count);
    let_go(out, room);
    let_go(pixels, size);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 1;
    FILE *samples = fopen(argv[1], "rb");
    const unsigned long rounds = strtoul(argv[2], NULL, 10);
    unsigned long tried = 0, decoded = 0;
    uint32_t sizes[2];

    state = strtoull(argv[3], NULL, 10) * 2654435769u + 1;
    if (samples == NULL)
        return 1;
    while (fread(sizes, sizeof sizes, 1, samples) == 1) {
        uint8_t *strip = exactly(sizes[0]), *content = exactly(sizes[1]), *changed = exactly(sizes[0]);
        if (fread(strip, 1, sizes[0], samples) != sizes[0] || fread(content, 1, sizes[1], samples) != sizes[1])
            return 1;
        try_strip(strip, sizes[0], sizes[1], content);
        for (unsigned long i = 0; i < rounds; i++, tried++) {
            const uint32_t cut = draw(4) ? sizes[0] : draw(sizes[0] + 1);
            const uint32_t changes = draw(4);
            memcpy(changed, strip, sizes[0]);
            for (uint32_t k = 0; k < changes; k++)
                changed[draw(3) ? draw(sizes[0]) : draw(sizes[0] < 8 ? sizes[0] : 8)] = (uint8_t)draw(256);
            decoded += (unsigned long)try_strip(changed, cut, draw(2) ? sizes[1] : draw(2 * sizes[1]), NULL);
            try_gaps(content, sizes[1]);
        }
        let_go(strip, sizes[0]);
        let_go(content, sizes[1]);
        let_go(changed, sizes[0]);
    }
    fclose(samples);
    printf("%lu %lu\n", tried, decoded);
    return 0;
}
