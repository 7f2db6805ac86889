// Every kernel by name, for the host: check.cpp and library.cpp launch them as a driver would.
#pragma once
#include "host.h"
#include "../numbers.cuh"
#include "../rows.cu"
#include "../products.cu"
#include "../attention.cu"
#include "../sampling.cu"

namespace host {

struct Kernel {
    const char* name;
    size_t argument_bytes;
    void (*run)(const void* arguments);
};

template <class Arguments, void (*KERNEL)(Arguments)> void run(const void* arguments) {
    Arguments own;
    memcpy(&own, arguments, sizeof own);
    KERNEL(own);
}
#define KERNEL(name, Arguments) {#name, sizeof(Arguments), run<Arguments, name>}

inline const std::vector<Kernel>& kernels() {
    static const std::vector<Kernel> all = {
        KERNEL(embed, EmbedArgs), KERNEL(normalize, NormArgs), KERNEL(turn, TurnArgs), KERNEL(rotate, RotateArgs),
        KERNEL(narrow_1, ProductArgs), KERNEL(narrow_2, ProductArgs), KERNEL(narrow_4, ProductArgs),
        KERNEL(narrow_q8_1, ProductArgs), KERNEL(narrow_q8_2, ProductArgs), KERNEL(narrow_q8_4, ProductArgs),
        KERNEL(tiled_64, ProductArgs), KERNEL(tiled_128, ProductArgs), KERNEL(tiled_q8_64, ProductArgs),
        KERNEL(tiled_q8_128, ProductArgs),
        KERNEL(attend_32, AttendArgs), KERNEL(attend_64, AttendArgs), KERNEL(attend_128, AttendArgs), KERNEL(attend_256, AttendArgs),
        KERNEL(attend_one_32, AttendArgs), KERNEL(attend_one_64, AttendArgs), KERNEL(attend_one_128, AttendArgs),
        KERNEL(attend_one_256, AttendArgs),
        KERNEL(join_32, AttendArgs), KERNEL(join_64, AttendArgs), KERNEL(join_128, AttendArgs), KERNEL(join_256, AttendArgs),
        KERNEL(choose, ChooseArgs), KERNEL(score, ScoreArgs),
    };
    return all;
}

// Runs a kernel; false if there is none of the name, or its arguments have another size.
inline bool launch_named(const char* name, Index grid, u32 threads, size_t shared, const void* arguments, size_t bytes, u64 seed) {
    for (const Kernel& kernel : kernels()) {
        if (strcmp(kernel.name, name) != 0) continue;
        if (kernel.argument_bytes != bytes) return false;
        launch(grid, {threads, 1, 1}, shared, seed, [&] { kernel.run(arguments); });
        return true;
    }
    return false;
}

}  // namespace host
