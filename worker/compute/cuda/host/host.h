// Runs the kernels on the host, for tests on machines without a GPU. Included in the place of device.cuh.
//
// Blocks run one after another, the threads of a block as fibers that are switched where they wait for each other, in an
// order drawn from a seed: a missing barrier shows as a wrong result in some order. Shared memory is fresh from the heap
// for each block, filled with NaN, so that AddressSanitizer sees what is beyond its end and tests see what nobody has
// written. A copy to shared memory happens as late as its thread allows: a missing wait shows too. It knows nothing of
// time, and between blocks it has no concurrency.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
using std::max;
using std::min;

namespace host {

struct Index { u32 x = 1, y = 1, z = 1; };

// A group of copies that are not there yet.
struct Copy { void* to; const void* from; bool is_there; };

constexpr size_t STACK = 128 * 1024;

struct Fiber {
    std::unique_ptr<u8[]> stack{new u8[STACK]};
    void* at = nullptr;
#if !defined(__x86_64__)
    ucontext_t context;
#endif
    void* sanitizer = nullptr;
    u32 number = 0;
    bool is_done = false;
    const char* waits_at = nullptr;
    std::deque<std::vector<Copy>> closed;
    std::vector<Copy> open;
};

// Threads that wait for the others of a block or of a warp.
struct Barrier { u32 expected = 0, arrived = 0; std::vector<Fiber*> waiting; };

// 64 bytes of each lane, while a warp exchanges them.
struct Warp { Barrier barrier; u8 slots[32][64]; };

struct Block {
    Index grid, block, index;
    const std::function<void()>* body = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> ready;
    std::vector<Warp> warps;
    Barrier all;
    Fiber* current = nullptr;
    Fiber scheduler;
    u8* shared = nullptr;
    u32 live = 0;
    u64 random = 1;
    // The scheduler's own stack, for AddressSanitizer.
    const void* bottom = nullptr;
    size_t size = 0;
};

inline Block*& now() {
    static thread_local Block* block = nullptr;
    return block;
}

#if defined(__x86_64__)
// Keeps the callee's registers on its stack, and goes on with another's.
extern "C" void forebay_switch(void** from, void* to);
asm(R"(
.text
.globl forebay_switch
.type forebay_switch, @function
forebay_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size forebay_switch, .-forebay_switch
)");
#endif

inline void change(Fiber& from, Fiber& to, bool is_over) {
#if defined(__SANITIZE_ADDRESS__)
    const bool to_scheduler = &to == &now()->scheduler;
    __sanitizer_start_switch_fiber(is_over ? nullptr : &from.sanitizer, to_scheduler ? now()->bottom : to.stack.get(),
                                   to_scheduler ? now()->size : STACK);
#endif
#if defined(__x86_64__)
    forebay_switch(&from.at, to.at);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
    (void)is_over;
}

inline void wait(Barrier& barrier, const char* what) {
    Block& block = *now();
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        block.ready.insert(block.ready.end(), barrier.waiting.begin(), barrier.waiting.end());
        barrier.waiting.clear();
        return;
    }
    Fiber& own = *block.current;
    own.waits_at = what;
    barrier.waiting.push_back(&own);
    change(own, block.scheduler, false);
    own.waits_at = nullptr;
}

inline u32 lane() { return now()->current->number % 32; }
inline Warp& warp() { return now()->warps[now()->current->number / 32]; }
inline void warp_wait(const char* what) { wait(warp().barrier, what); }

// Every lane shows a value; `look` makes of all of them what the lane gets.
template <class T, class Look> auto exchange(const T& value, const char* what, Look look) {
    static_assert(sizeof(T) <= 64, "a slot is 64 bytes");
    memcpy(warp().slots[lane()], &value, sizeof value);
    warp_wait(what);
    auto result = look([](u32 of) {
        T other;
        memcpy(&other, warp().slots[of], sizeof other);
        return other;
    });
    warp_wait(what);
    return result;
}

inline void enter() {
    Block& block = *now();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.bottom, &block.size);
#endif
    (*block.body)();
    Fiber& own = *now()->current;
    own.is_done = true;
    now()->live--;
    change(own, now()->scheduler, true);
    abort();
}

inline void prepare(Fiber& fiber) {
#if defined(__x86_64__)
    // As `forebay_switch` leaves a stack: six registers, then where to go on, aligned as after a call.
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(fiber.stack.get()) + STACK) & ~uintptr_t(63));
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&enter);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.at = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
#endif
}

inline void run_block(Block& block) {
    const u32 threads = block.block.x * block.block.y * block.block.z;
    block.live = threads;
    block.all = {threads, 0, {}};
    for (u32 at = 0; at < threads; at++) {
        Fiber& fiber = *block.fibers[at];
        fiber.number = at;
        fiber.is_done = false;
        fiber.waits_at = nullptr;
        fiber.closed.clear();
        fiber.open.clear();
        prepare(fiber);
        block.ready.push_back(&fiber);
    }
    while (!block.ready.empty()) {
        block.random = block.random * 6364136223846793005ull + 1442695040888963407ull;
        const size_t pick = (block.random >> 33) % block.ready.size();
        std::swap(block.ready[pick], block.ready.back());
        block.current = block.ready.back();
        block.ready.pop_back();
        change(block.scheduler, *block.current, false);
    }
    if (block.live == 0) return;
    for (auto& fiber : block.fibers) {
        if (fiber->is_done) continue;
        fprintf(stderr, "block (%u, %u, %u): thread %u waits for ever at %s, which others do not reach\n", block.index.x,
                block.index.y, block.index.z, fiber->number, fiber->waits_at);
        abort();
    }
}

// Runs every block of a grid.
inline void launch(Index grid, Index size, size_t shared_bytes, u64 seed, const std::function<void()>& body) {
    Block block;
    block.grid = grid, block.block = size, block.body = &body, block.random = seed * 2 + 1;
    const u32 threads = size.x * size.y * size.z;
    for (u32 at = 0; at < threads; at++) block.fibers.emplace_back(new Fiber);
    block.warps.resize((threads + 31) / 32);
    for (u32 at = 0; at < block.warps.size(); at++) block.warps[at].barrier.expected = std::min(32u, threads - at * 32);
    now() = &block;
    for (u32 z = 0; z < grid.z; z++) {
        for (u32 y = 0; y < grid.y; y++) {
            for (u32 x = 0; x < grid.x; x++) {
                block.index = {x, y, z};
                // The end of the memory is the allocation's own.
                void* shared = nullptr;
                if (posix_memalign(&shared, 128, std::max<size_t>(shared_bytes, 1))) abort();
                memset(shared, 0xFF, shared_bytes);
                block.shared = static_cast<u8*>(shared);
                run_block(block);
                free(shared);
            }
        }
    }
    now() = nullptr;
}

}  // namespace host

#define threadIdx (host::Index{host::now()->current->number % host::now()->block.x, 0, 0})
#define blockIdx (host::now()->index)
#define blockDim (host::now()->block)
#define gridDim (host::now()->grid)
#define SHARED(type, name) type* name = reinterpret_cast<type*>(host::now()->shared)

inline void __syncthreads() { host::wait(host::now()->all, "__syncthreads"); }
template <class T> T __shfl_xor_sync(u32, T value, u32 by) {
    return host::exchange(value, "a shuffle", [by](auto of) { return of(host::lane() ^ by); });
}
inline bool __all_sync(u32, bool own) {
    return host::exchange(own, "a vote", [](auto of) {
        bool all = true;
        for (u32 lane = 0; lane < 32; lane++) all = all && of(lane);
        return all;
    });
}
template <class T> T atomicAdd(T* at, T value) {
    const T old = *at;
    *at = old + value;
    return old;
}

inline float __uint_as_float(u32 bits) { float out; memcpy(&out, &bits, 4); return out; }
inline u32 __float_as_uint(float number) { u32 out; memcpy(&out, &number, 4); return out; }
// Compiled with -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __expf(float number) { return std::exp(number); }

inline float from_half(u16 bits) {
    const u32 sign = static_cast<u32>(bits & 0x8000) << 16, exponent = bits >> 10 & 31, rest = bits & 1023;
    if (exponent == 0) return __uint_as_float(sign) + (sign ? -1.0f : 1.0f) * std::ldexp(static_cast<float>(rest), -24);
    return __uint_as_float(sign | (exponent == 31 ? 255u : exponent + 112) << 23 | rest << 13);
}
inline u32 round_to_bf16(float number) {
    const u32 bits = __float_as_uint(number);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline u32 pack(float low, float high) { return round_to_bf16(low) | round_to_bf16(high) << 16; }

// By the fragment layouts of the PTX manual: of lane 4g + t, `a` has rows g and g + 8 and columns 2t, 2t + 1 and eight on,
// `b` rows 2t, 2t + 1 and eight on and column g, `sum` rows g and g + 8 and columns 2t and 2t + 1.
inline void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    struct Fragment { u32 a[4], b[2]; };
    float out[4] = {sum[0], sum[1], sum[2], sum[3]};
    host::exchange(Fragment{{a0, a1, a2, a3}, {b0, b1}}, "mma", [&out](auto) {
        const u32 g = host::lane() / 4, t = host::lane() % 4;
        const auto& slots = host::warp().slots;
        auto number = [&slots](u32 lane, u32 pair, u32 odd) {
            u16 bits;
            memcpy(&bits, slots[lane] + pair * 4 + odd * 2, 2);
            return __uint_as_float(static_cast<u32>(bits) << 16);
        };
        for (u32 i = 0; i < 4; i++) {
            const u32 row = g + i / 2 * 8, column = 2 * t + i % 2;
            for (u32 k = 0; k < 16; k++) {
                const float left = number(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
                out[i] += left * number(column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
            }
        }
        return 0;
    });
    memcpy(sum, out, sizeof out);
}

inline void load_fragment(u32 (&out)[4], const void* row, bool is_transposed) {
    host::exchange(row, "ldmatrix", [&out, is_transposed](auto of) {
        const u32 g = host::lane() / 4, t = host::lane() % 4;
        for (u32 matrix = 0; matrix < 4; matrix++) {
            u16 pair[2];
            for (u32 odd = 0; odd < 2; odd++) {
                const u32 row = is_transposed ? 2 * t + odd : g, column = is_transposed ? g : 2 * t + odd;
                pair[odd] = static_cast<const u16*>(of(matrix * 8 + row))[column];
            }
            out[matrix] = pair[0] | static_cast<u32>(pair[1]) << 16;
        }
        return 0;
    });
}
inline void load_matrices(u32 (&out)[4], const void* row) { load_fragment(out, row, false); }
inline void load_transposed(u32 (&out)[4], const void* row) { load_fragment(out, row, true); }

inline void copy16(void* to, const void* from, bool is_there) {
    host::now()->current->open.push_back({to, from, is_there});
}
inline void copies_close() {
    auto& fiber = *host::now()->current;
    fiber.closed.push_back(std::move(fiber.open));
    fiber.open.clear();
}
template <int LATER> void copies_wait() {
    auto& closed = host::now()->current->closed;
    for (; closed.size() > LATER; closed.pop_front()) {
        for (const host::Copy& copy : closed.front()) {
            if (copy.is_there) memcpy(copy.to, copy.from, 16); else memset(copy.to, 0, 16);
        }
    }
}
inline uint4 read_once(const uint4* at) { return *at; }
