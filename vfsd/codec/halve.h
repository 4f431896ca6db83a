/* Half the size of a plane: each pixel of the result is the mean of 2 by 2 pixels.
 *
 * Whole numbers are added in a wider type and rounded half up: (a + b + c + d + 2) >> 2, an arithmetic shift, so that
 * -0.5 becomes 0. Floats are added in their own type, (a + b) + (c + d), and multiplied by a quarter. Of an odd side the
 * last row or column is left out. Samples of a pixel lie side by side, each with its own mean.
 *
 * The caller has seen to it that both sides are at least 2 and that `out` has (height / 2) * (width / 2) * samples items.
 * Buffers may lie at any address. Items are in the machine's byte order.
 */

#include <stddef.h>
#include <stdint.h>

#define HALVE(NAME, ITEM, SUM, MEAN)                                                                                    \
    typedef ITEM NAME##_item __attribute__((aligned(1), may_alias));                                                    \
    static void NAME(const void *plane, void *result, size_t height, size_t width, size_t samples)                      \
    {                                                                                                                   \
        const size_t columns = width / 2;                                                                               \
        for (size_t row = 0; row < height / 2; row++) {                                                                 \
            const NAME##_item *a = (const NAME##_item *)plane + 2 * row * width * samples, *b = a + width * samples;    \
            NAME##_item *restrict out = (NAME##_item *)result + row * columns * samples;                                \
            if (samples == 1) { /* its own loop: this one is vectorised */                                              \
                for (size_t x = 0; x < columns; x++)                                                                    \
                    out[x] = (ITEM)MEAN(((SUM)a[2 * x] + (SUM)a[2 * x + 1]) + ((SUM)b[2 * x] + (SUM)b[2 * x + 1]));     \
                continue;                                                                                               \
            }                                                                                                           \
            for (size_t x = 0; x < columns; x++) {                                                                      \
                for (size_t s = 0; s < samples; s++) {                                                                  \
                    const size_t left = 2 * x * samples + s, right = left + samples;                                    \
                    out[x * samples + s] = (ITEM)MEAN(((SUM)a[left] + (SUM)a[right]) + ((SUM)b[left] + (SUM)b[right])); \
                }                                                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }

#define HALVE_WHOLE(sum) (((sum) + 2) >> 2)
#define HALVE_FLOAT(sum) ((sum)*0.25f)

HALVE(halve_u8, uint8_t, uint32_t, HALVE_WHOLE)
HALVE(halve_i8, int8_t, int32_t, HALVE_WHOLE)
HALVE(halve_u16, uint16_t, uint32_t, HALVE_WHOLE)
HALVE(halve_i16, int16_t, int32_t, HALVE_WHOLE)
HALVE(halve_u32, uint32_t, uint64_t, HALVE_WHOLE)
HALVE(halve_i32, int32_t, int64_t, HALVE_WHOLE)
HALVE(halve_f32, float, float, HALVE_FLOAT)
HALVE(halve_f64, double, double, HALVE_FLOAT)
#if defined(__SIZEOF_INT128__)
HALVE(halve_u64, uint64_t, unsigned __int128, HALVE_WHOLE)
HALVE(halve_i64, int64_t, __int128, HALVE_WHOLE)
#endif
