// The kernels as a library that a test loads in the place of a device.
#include "kernels.h"

extern "C" int forebay_launch(const char* name, const u32* grid, u32 threads, u32 shared, const void* arguments, size_t bytes, u64 seed) {
    return host::launch_named(name, {grid[0], grid[1], grid[2]}, threads, shared, arguments, bytes, seed) ? 0 : 1;
}

// What `choose` shares, without its sums of chunks: whoever launches it must know.
extern "C" size_t forebay_desk_bytes() { return sizeof(Desk); }
