/* The kernels' warp (vfsd/gpu/kernels/warp.cuh) on a CPU: a section is a loop over its lanes or threads.
 *
 * The order of the loop changes (`cpu_order`): forwards, backwards, or another one for every section. What comes out must not
 * depend on it, or lanes read what others write in the same section. Shared memory is allocated for each block, of
 * exactly the size that the launch gives, and poisoned; aligned accesses are checked to be aligned.
 */

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define VFSD_WARP_PROVIDED

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static thread_local u32 cpu_block_x, cpu_block_y, cpu_grid_y, cpu_order, cpu_random = 1;
static thread_local u8 *cpu_shared;

#define DEVICE static inline
#define KERNEL(threads, blocks) [[maybe_unused]] static void
#define BLOCK_INDEX (cpu_block_x)
#define BLOCK_INDEX_Y (cpu_block_y)
#define GRID_SIZE_Y (cpu_grid_y)
#define DYNAMIC_SHARED(name) u8 *const name = cpu_shared

/* Walks 0 to n - 1, n a power of two, in an order of the section's own. */
struct Turns {
    u32 n, first, step, turn;
    explicit Turns(u32 count) : n(count), first(0), step(1), turn(0)
    {
        if (cpu_order == 1) {
            first = n - 1;
            step = n - 1;
        } else if (cpu_order == 2) {
            cpu_random = cpu_random * 1664525u + 1013904223u;
            first = (cpu_random >> 8) % n;
            step = (cpu_random >> 16 | 1u) % n;
            step += step == 0;
        }
    }
    u32 current() const { return (first + turn * step) % n; }
};

#define EACH_TURN(name, count) \
    for (Turns name##_turns(count); name##_turns.turn < name##_turns.n; name##_turns.turn++) { \
        const u32 name = name##_turns.current();
#define EACH_THREAD(t, n) EACH_TURN(t, (n))
#define END_THREADS }
#define EACH_WARP(w, n) EACH_TURN(w, (n))
#define END_WARPS }
#define LANE_COUNT 32
#define PER_LANE(type, name) type name[LANE_COUNT]
#define LANES EACH_TURN(lane, 32u) const u32 L = lane; (void)L;
#define END_LANES }

static inline u32 ballot(const bool (&x)[32])
{
    u32 all = 0;
    for (u32 i = 0; i < 32; i++)
        all |= (u32)x[i] << i;
    return all;
}
static inline u32 read_lane(const u32 (&x)[32], u32 from) { return x[from & 31u]; }
static inline void gather(u32 (&out)[32], const u32 (&x)[32], const u32 (&from)[32])
{
    u32 result[32];
    for (u32 i = 0; i < 32; i++)
        result[i] = x[from[i] & 31u];
    memcpy(out, result, sizeof result);
}
static inline void prefix_sum(u32 (&out)[32], const u32 (&x)[32])
{
    u32 sum = 0;
    for (u32 i = 0; i < 32; i++)
        out[i] = sum += x[i];
}
static inline void match_any(u32 (&out)[32], const u32 (&x)[32])
{
    u32 result[32];
    for (u32 i = 0; i < 32; i++) {
        result[i] = 0;
        for (u32 j = 0; j < 32; j++)
            result[i] |= (u32)(x[i] == x[j]) << j;
    }
    memcpy(out, result, sizeof result);
}

static inline u32 count_bits(u32 x) { return (u32)__builtin_popcount(x); }
static inline u32 lowest_bit(u32 x) { return (u32)__builtin_ctz(x); }
static inline u32 highest_bit(u32 x) { return 31u - (u32)__builtin_clz(x); }
static inline u32 permute_bytes(u32 a, u32 b, u32 selector)
{
    const u64 bytes = (u64)b << 32 | a;
    u32 out = 0;
    for (u32 i = 0; i < 4; i++)
        out |= (u32)(bytes >> 8 * (selector >> 4 * i & 7u) & 255u) << 8 * i;
    return out;
}
static inline u32 shift_right_pair(u32 low, u32 high, u32 bits) { return (u32)(((u64)high << 32 | low) >> bits); }
static inline void set_if_zero(u32 *at, u32 value)
{
    if (*at == 0)
        *at = value;
}

template <class T> static inline T checked_load(const u8 *at)
{
    if ((uintptr_t)at % sizeof(T))
        abort();
    T value;
    memcpy(&value, at, sizeof value);
    return value;
}
template <class T> static inline void checked_store(u8 *at, T value)
{
    if ((uintptr_t)at % sizeof(T))
        abort();
    memcpy(at, &value, sizeof value);
}
static inline u32 load_u32(const u8 *at) { return checked_load<u32>(at); }
static inline u64 load_u64(const u8 *at) { return checked_load<u64>(at); }
static inline void store_u32(u8 *at, u32 value) { checked_store(at, value); }
static inline void store_u64(u8 *at, u64 value) { checked_store(at, value); }

template <class T> static T from_word(u64 word)
{
    if constexpr (std::is_pointer_v<T>)
        return (T)(uintptr_t)word;
    else
        return (T)word;
}

template <class... A, std::size_t... I>
static void call_kernel(void (*kernel)(A...), const u64 *words, std::index_sequence<I...>)
{
    kernel(from_word<A>(words[I])...);
}

/* One launch: every block in turn, each with shared memory of its own. */
template <class... A>
static void run(void (*kernel)(A...), u32 grid_x, u32 grid_y, u32 shared_bytes, u32 order, const u64 *words)
{
    cpu_order = order;
    cpu_grid_y = grid_y;
    for (cpu_block_y = 0; cpu_block_y < grid_y; cpu_block_y++)
        for (cpu_block_x = 0; cpu_block_x < grid_x; cpu_block_x++) {
            cpu_shared = shared_bytes ? (u8 *)aligned_alloc(16, (shared_bytes + 15u) & ~15u) : nullptr;
            if (cpu_shared)
                memset(cpu_shared, 0xa5, shared_bytes);
            call_kernel(kernel, words, std::index_sequence_for<A...>{});
            free(cpu_shared);
        }
}
