/* Mutated frames through the kernels on a CPU, under sanitizers, against the decoder of the C extension.
 *
 * usage: hostile_driver SAMPLES ROUNDS SEED
 * SAMPLES: u32 frame size, u32 content size, frame, content; again and again. Each round damages every sample once and
 * decodes it between two sound ones, in one batch, by one of the ways and in one of the orders. Input, planes and output
 * have exactly the sizes that the host promises the kernels. Prints how many were tried, decoded, and refused by kernels.
 */

#include <cstdio>
#include <string>
#include <vector>

#include "cpu_warp.h"
#include "decode.cu"

extern "C" int reference_decode(const u8 *frame, size_t size, u8 *out, size_t nbytes);

struct Sample {
    std::vector<u8> frame, content;
};

static u32 state;
static u32 random_number(u32 below)
{
    state = state * 1664525u + 1013904223u;
    return (u32)((u64)(state >> 4) * below >> 28);
}

static void fail(const char *what)
{
    std::fprintf(stderr, "%s\n", what);
    std::abort();
}

static std::vector<Sample> read_samples(const char *path)
{
    std::vector<Sample> samples;
    FILE *const file = std::fopen(path, "rb");
    u32 sizes[2];
    if (file == nullptr)
        fail("no samples");
    while (std::fread(sizes, 4, 2, file) == 2) {
        Sample sample;
        sample.frame.resize(sizes[0]);
        sample.content.resize(sizes[1]);
        if (std::fread(sample.frame.data(), 1, sizes[0], file) != sizes[0] ||
            std::fread(sample.content.data(), 1, sizes[1], file) != sizes[1])
            fail("cut off samples");
        samples.push_back(sample);
    }
    std::fclose(file);
    return samples;
}

static std::vector<u8> damaged(std::vector<u8> frame)
{
    const u32 times = 1 + random_number(4);
    for (u32 n = 0; n < times; n++) {
        const u32 size = (u32)frame.size();
        /* half of the blows fall on block starts, stream sizes and first tokens; none on the header, which the host checks */
        const u32 at = 16 + random_number(random_number(2) && size > 80 ? 64 : size - 16);
        switch (random_number(5)) {
        case 0: frame[at] ^= (u8)(1u << random_number(8)); break;
        case 1: frame[at] = (u8)random_number(256); break;
        case 2: frame[at] = random_number(2) ? 255 : 0; break;
        case 3: for (u32 k = at; k < size && k < at + 1 + random_number(40); k++) frame[k] = 255; break;
        case 4: frame[at] = frame[16 + random_number(size - 16)]; break;
        }
    }
    return frame;
}

/* The host's part (vfsd/gpu/frames.py) for frames whose header is sound. */
static Chunk describe(const std::vector<u8> &frame)
{
    Chunk chunk = {};
    chunk.flags = frame[2];
    chunk.typesize = frame[3];
    chunk.nbytes = read_u32(&frame[4]);
    chunk.blocksize = read_u32(&frame[8]);
    chunk.cbytes = read_u32(&frame[12]);
    const bool kept = chunk.flags & KEPT;
    const bool split = !kept && !(chunk.flags & 16) && chunk.typesize <= 16 && chunk.blocksize / chunk.typesize >= 128;
    if (kept)
        chunk.blocksize = chunk.nbytes < 32768 ? chunk.nbytes : 32768;
    chunk.streams_per_block = split ? chunk.typesize : 1;
    return chunk;
}

static u64 word(const void *pointer) { return (u64)(uintptr_t)pointer; }
static size_t rounded(size_t n) { return (n + 15) / 16 * 16; }

int main(int count, char **arguments)
{
    if (count != 4)
        fail("usage: hostile_driver SAMPLES ROUNDS SEED");
    const std::vector<Sample> samples = read_samples(arguments[1]);
    const u32 rounds = (u32)std::stoul(arguments[2]);
    state = (u32)std::stoul(arguments[3]);
    u32 tried = 0, decoded = 0, refused = 0;

    for (u32 round = 0; round < rounds; round++)
        for (const Sample &sample : samples) {
            const std::vector<u8> mutant = damaged(sample.frame);
            const std::vector<u8> *const frames[3] = {&sample.frame, &mutant, &sample.frame};
            Chunk chunks[3];
            size_t input_size = 0, planes_size = 0;
            u32 blocks = 0, streams = 0;
            for (u32 n = 0; n < 3; n++) {
                chunks[n] = describe(*frames[n]);
                chunks[n].frame = input_size;
                chunks[n].out = n * rounded(sample.content.size());
                chunks[n].planes = planes_size;
                chunks[n].first_block = blocks;
                chunks[n].first_stream = streams;
                const u32 own = (chunks[n].nbytes - 1) / chunks[n].blocksize + 1;
                blocks += own;
                streams += own * chunks[n].streams_per_block;
                input_size += frames[n]->size();
                planes_size += n < 2 ? rounded(chunks[n].nbytes) : chunks[n].nbytes;
            }
            u8 *const input = (u8 *)aligned_alloc(16, rounded(input_size));
            u8 *const planes = (u8 *)aligned_alloc(16, rounded(planes_size));
            u8 *const out = (u8 *)aligned_alloc(16, rounded(3 * rounded(sample.content.size())));
            Stream *const rows = (Stream *)std::malloc(streams * sizeof(Stream));
            for (u32 n = 0; n < 3; n++)
                std::memcpy(input + chunks[n].frame, frames[n]->data(), frames[n]->size());
            std::memset(out, 0xcd, 3 * rounded(sample.content.size()));
            u32 errors[3] = {0, 0, 0};

            const bool by_window = tried % 2 == 0;
            const u32 resolved = tried / 8 % 2 ? (u32)ORIGINS : 0;
            const u32 order = tried % 3, most = tried % 4 == 0 ? 0 : tried % 4 == 1 ? 1 : 8;
            u32 slot = 16;
            for (const Chunk &chunk : chunks)
                if (chunk.blocksize / chunk.typesize > slot)
                    slot = chunk.blocksize / chunk.typesize;
            slot = (slot + 15) / 16 * 16;
            {
                const u64 words[] = {word(input), word(chunks), 3, blocks, word(rows), word(errors), most, slot, tried / 4 % 2};
                run(plan, (blocks + 127) / 128, 1, 0, order, words);
            }
            if (most) {
                const u64 words[] = {word(input), word(chunks), 3, word(rows), word(out), word(errors), 0, most, slot, resolved};
                const u32 warps = most < FUSED_WARPS ? most : (u32)FUSED_WARPS;
                const u32 shared = warps * (u32)sizeof(WarpScratch) + most * slot;
                run(by_window ? decode_fused_by_window_kernel : decode_fused_by_sequence_kernel, blocks, 1, shared, order, words);
            }
            {
                const u64 words[] = {word(input), word(chunks), word(rows), streams, word(out), word(planes), word(errors), resolved};
                const u32 shared = by_window ? DECODE_WARPS * (u32)sizeof(WarpScratch) : 0;
                run(by_window ? decode_by_window_kernel : decode_by_sequence_kernel, (streams + DECODE_WARPS - 1) / DECODE_WARPS,
                    1, shared, order, words);
            }
            {
                const u64 words[] = {word(chunks), 3, word(rows), word(planes), word(out)};
                run(unshuffle, blocks, 1 + tried % 3, 0, order, words);
            }

            const size_t size = sample.content.size();
            if (errors[0] || errors[2] || std::memcmp(out, sample.content.data(), size) ||
                std::memcmp(out + chunks[2].out, sample.content.data(), size))
                fail("a damaged chunk spoilt another");
            std::vector<u8> expected(size);
            const bool sound = reference_decode(mutant.data(), mutant.size(), expected.data(), size);
            if (sound != (errors[1] == 0))
                fail(sound ? "a sound frame was refused" : "a damaged frame was taken");
            if (sound && std::memcmp(out + chunks[1].out, expected.data(), size))
                fail("a frame was decoded to other bytes");
            tried++;
            decoded += sound;
            refused += errors[1] != 0;
            std::free(input);
            std::free(planes);
            std::free(out);
            std::free(rows);
        }
    std::printf("%u %u %u\n", tried, decoded, refused);
    return 0;
}
