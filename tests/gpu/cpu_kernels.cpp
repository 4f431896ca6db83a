/* The kernels as functions of a shared library: run_<kernel>(grid x, grid y, shared bytes, order, arguments as words). */

#include "cpu_warp.h"
#include "decode.cu"
#include "encode.cu"

#define EXPORT(kernel) \
    extern "C" void run_##kernel(u32 grid_x, u32 grid_y, u32 shared_bytes, u32 order, const u64 *words) \
    { \
        run(kernel, grid_x, grid_y, shared_bytes, order, words); \
    }

EXPORT(plan)
EXPORT(decode_by_sequence_kernel)
EXPORT(decode_by_window_kernel)
EXPORT(decode_fused_by_sequence_kernel)
EXPORT(decode_fused_by_window_kernel)
EXPORT(unshuffle)
EXPORT(swap_bytes)
EXPORT(encode_streams)
EXPORT(pack_frames)
