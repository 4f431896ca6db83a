/* The decoder of the C extension, as a function for hostile_driver.cpp. */

#include "blosc_decode.h"

int reference_decode(const uint8_t *frame, size_t size, uint8_t *out, size_t nbytes);

int reference_decode(const uint8_t *frame, size_t size, uint8_t *out, size_t nbytes)
{
    uint32_t bad_block;
    return blosc_decode_range(frame, size, 0, nbytes, out, &bad_block) == BLOSC_OK;
}
