// One way of writing a warp, for the GPU and for a CPU.
//
// Work is written as *sections* that each lane (or thread) runs once, and that end in a barrier; between sections all
// lanes agree. A value of a lane's own that lives across sections is a PER_LANE array, indexed by L; what is declared
// outside sections is the same in all lanes. On the GPU a section is a brace with __syncwarp() at its end, and a
// PER_LANE array has one element, in a register. The tests define VFSD_WARP_PROVIDED and their own version, in which a
// section is a loop over the lanes in an order that changes: a lane that reads what another one writes in the same
// section is wrong on the GPU, and gives different bytes there. No header is included: NVRTC has none at hand.

#ifndef VFSD_WARP_CUH
#define VFSD_WARP_CUH

#ifndef VFSD_WARP_PROVIDED

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
// Threads of a block, and how many blocks a multiprocessor should have registers for.
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

#define BLOCK_INDEX (blockIdx.x)
#define BLOCK_INDEX_Y (blockIdx.y)
#define GRID_SIZE_Y (gridDim.y)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]

// Sections of a block's threads, and of its warps; n must be what the kernel is launched with.
#define EACH_THREAD(t, n) { const u32 t = threadIdx.x;
#define END_THREADS __syncthreads(); }
#define EACH_WARP(w, n) { const u32 w = threadIdx.x >> 5;
#define END_WARPS __syncthreads(); }

#define ALL_LANES 0xffffffffu
#define LANE_COUNT 1
#define PER_LANE(type, name) type name[LANE_COUNT]
#define LANES { const u32 lane = threadIdx.x & 31u; const u32 L = 0; (void)lane; (void)L;
#define END_LANES } __syncwarp(ALL_LANES);

DEVICE u32 ballot(const bool (&x)[LANE_COUNT]) { return __ballot_sync(ALL_LANES, x[0]); }
DEVICE u32 read_lane(const u32 (&x)[LANE_COUNT], u32 from) { return __shfl_sync(ALL_LANES, x[0], (int)(from & 31u)); }
// out = x of the lane that `from` names, modulo 32; out may be x
DEVICE void gather(u32 (&out)[LANE_COUNT], const u32 (&x)[LANE_COUNT], const u32 (&from)[LANE_COUNT])
{
    out[0] = __shfl_sync(ALL_LANES, x[0], (int)(from[0] & 31u));
}
// out = sum of x over this lane and those before
DEVICE void prefix_sum(u32 (&out)[LANE_COUNT], const u32 (&x)[LANE_COUNT])
{
    const u32 lane = threadIdx.x & 31u;
    u32 sum = x[0];
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        const u32 below = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane >= step)
            sum += below;
    }
    out[0] = sum;
}
// out = the lanes whose x equals this lane's
DEVICE void match_any(u32 (&out)[LANE_COUNT], const u32 (&x)[LANE_COUNT]) { out[0] = __match_any_sync(ALL_LANES, x[0]); }

DEVICE u32 count_bits(u32 x) { return (u32)__popc(x); }
DEVICE u32 lowest_bit(u32 x) { return (u32)__ffs((int)x) - 1u; }       // x is not 0
DEVICE u32 highest_bit(u32 x) { return 31u - (u32)__clz((int)x); }     // x is not 0
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
DEVICE u32 shift_right_pair(u32 low, u32 high, u32 bits) { return __funnelshift_r(low, high, bits); }
DEVICE void set_if_zero(u32 *at, u32 value) { atomicCAS(at, 0u, value); }

// At aligned places only.
DEVICE u32 load_u32(const u8 *at) { return *(const u32 *)at; }
DEVICE u64 load_u64(const u8 *at) { return *(const u64 *)at; }
DEVICE void store_u32(u8 *at, u32 value) { *(u32 *)at = value; }
DEVICE void store_u64(u8 *at, u64 value) { *(u64 *)at = value; }

#endif

DEVICE u32 address_bits(const u8 *at) { return (u32)(u64)at; }

// Four bytes from any place. Reads the aligned words that hold them and no others: a buffer whose size is a multiple of
// four, at an aligned address, is never left.
DEVICE u32 load_u32_anywhere(const u8 *at)
{
    const u32 skew = address_bits(at) & 3u;
    const u32 low = load_u32(at - skew);
    if (skew == 0)
        return low;
    return shift_right_pair(low, load_u32(at - skew + 4), 8 * skew);
}

// n bytes by one warp, at the width of words; the two do not overlap.
DEVICE void copy_wide(u8 *to, const u8 *from, u32 n)
{
    const u32 skew = (0u - address_bits(to)) & 3u;
    const u32 head = skew < n ? skew : n;
    const u32 words = (n - head) >> 2;
    LANES
        if (lane < head)
            to[lane] = from[lane];
        u8 *const wide = to + head;
        const u8 *const source = from + head;
#pragma unroll 4
        for (u32 k = lane; k < words; k += 32)
            store_u32(wide + 4 * (u64)k, load_u32_anywhere(source + 4 * (u64)k));
        const u32 done = head + 4 * words;
        if (lane < n - done)
            to[done + lane] = from[done + lane];
    END_LANES
}

// n bytes by one warp to places `stride` apart.
DEVICE void copy_apart(u8 *to, u32 stride, const u8 *from, u32 n)
{
    LANES
#pragma unroll 4
        for (u32 k = lane; k < n; k += 32)
            to[(u64)k * stride] = from[k];
    END_LANES
}

#endif
