// Products of stored matrices, (outputs, inputs), with rows of bf16: sums in f32.
//
// Limits on one H200: 4.3 TB/s of weights, 790 TFLOP/s. Below some 90 rows a product is as fast as its weights are
// read, whatever it computes; so `narrow` (to 64 rows) is about having enough loads on their way, and `tiled` about
// the tensor cores. In both the matrix is the left operand: 16 outputs × 16 inputs a fragment, 8 rows a fragment.
//
// The order of inputs is free in a sum. Lane t of a quad takes eight neighbouring inputs, 16 bytes, and calls them
// inputs 2t, 2t + 1, 2t + 8 and 2t + 9 of two fragments; the rows are read alike. So weights go from memory to the tensor
// cores with 16-byte loads, 64 bytes of a row to a quad, and nothing in between.

struct ProductArgs {
    const void* weights;  // (outputs rounded up to 16, inputs): bf16, or Q8_0 in the order of `q8_place`
    const u16* scales;    // of Q8_0: (outputs rounded up to 16, inputs / 32), binary16
    const u16* x;         // (rows, inputs)
    const float* bias;    // (outputs); none if null
    void* out;            // (rows, out_stride): f32, or bf16 of GATED
    u32 rows;
    u32 outputs;
    u32 inputs;           // a multiple of 64
    u32 out_stride;
    u32 then;
    u32 unused;
};
// What becomes of the outputs.
constexpr u32 SET = 0;
constexpr u32 ADD = 1;
// The matrix has eight rows of a gate, then the eight of what it gates, and so on: silu(gate) · up, half as many outputs.
constexpr u32 GATED = 2;

__device__ inline float silu(float number) { return number / (1.0f + __expf(-number)); }

// Puts one pair of outputs, eight rows of the matrix apart, where it belongs. `output` is the first's.
__device__ inline void put(const ProductArgs& a, u32 row, u32 output, float first, float second) {
    if (row >= a.rows) return;
    if (a.bias) {
        first += output < a.outputs ? a.bias[output] : 0.0f;
        second += output + 8 < a.outputs ? a.bias[output + 8] : 0.0f;
    }
    const u64 at = static_cast<u64>(row) * a.out_stride;
    if (a.then == GATED) {
        if (output < a.outputs) static_cast<u16*>(a.out)[at + output / 16 * 8 + output % 8] = to_bf16(silu(first) * second);
        return;
    }
    float* out = static_cast<float*>(a.out) + at;
    if (output < a.outputs) out[output] = a.then == ADD ? out[output] + first : first;
    if (output + 8 < a.outputs) out[output + 8] = a.then == ADD ? out[output + 8] + second : second;
}

// Two rows of bf16, eight apart: a lane's 16 bytes of each.
struct Bf16Lane {
    static constexpr u32 INPUTS = 32;
    const u16* low;
    const u16* high;
    struct Piece { uint4 low, high; };

    __device__ Bf16Lane(const ProductArgs& a, u32 output, u32 quad) {
        low = static_cast<const u16*>(a.weights) + static_cast<u64>(output) * a.inputs + quad * 8;
        high = low + static_cast<u64>(8) * a.inputs;
    }
    __device__ Piece read(u32 chunk) const {
        return {read_once(reinterpret_cast<const uint4*>(low + chunk * INPUTS)),
                read_once(reinterpret_cast<const uint4*>(high + chunk * INPUTS))};
    }
    template <int TILES>
    __device__ void multiply_with(const Piece& w, u32 chunk, const u16* const (&x)[TILES], float (&sums)[TILES][4]) const {
        #pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            uint4 v = make_uint4(0, 0, 0, 0);
            if (x[tile]) v = *reinterpret_cast<const uint4*>(x[tile] + chunk * INPUTS);
            multiply(sums[tile], w.low.x, w.high.x, w.low.y, w.high.y, v.x, v.y);
            multiply(sums[tile], w.low.z, w.high.z, w.low.w, w.high.w, v.z, v.w);
        }
    }
};

// Four whole numbers of eight bits as two pairs of bf16: exact.
__device__ inline float widen_byte(u32 bytes, u32 at) { return static_cast<float>(static_cast<signed char>(bytes >> at * 8)); }
__device__ inline uint2 widen_bytes(u32 bytes) {
    return make_uint2(pack(widen_byte(bytes, 0), widen_byte(bytes, 1)), pack(widen_byte(bytes, 2), widen_byte(bytes, 3)));
}

// The same of Q8_0: whole numbers are multiplied exactly, and each 32 inputs' sum by its scale.
struct Q8Lane {
    static constexpr u32 INPUTS = 64;
    const u8* low;
    const u8* high;
    const u16* low_scales;
    const u16* high_scales;
    struct Piece { uint4 low, high; u32 low_scales, high_scales; };

    __device__ Q8Lane(const ProductArgs& a, u32 output, u32 quad) {
        const u64 row = static_cast<u64>(output) * a.inputs, rows = static_cast<u64>(8) * a.inputs;
        low = static_cast<const u8*>(a.weights) + row + quad * 16;
        high = low + rows;
        low_scales = a.scales + row / Q8_NUMBERS;
        high_scales = low_scales + rows / Q8_NUMBERS;
    }
    __device__ Piece read(u32 chunk) const {
        return {read_once(reinterpret_cast<const uint4*>(low + chunk * INPUTS)),
                read_once(reinterpret_cast<const uint4*>(high + chunk * INPUTS)),
                *reinterpret_cast<const u32*>(low_scales + chunk * 2), *reinterpret_cast<const u32*>(high_scales + chunk * 2)};
    }
    template <int TILES>
    __device__ void multiply_with(const Piece& w, u32 chunk, const u16* const (&x)[TILES], float (&sums)[TILES][4]) const {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint2 a = widen_bytes(half ? w.low.z : w.low.x), b = widen_bytes(half ? w.high.z : w.high.x);
            const uint2 c = widen_bytes(half ? w.low.w : w.low.y), d = widen_bytes(half ? w.high.w : w.high.y);
            const float low_scale = from_half(static_cast<u16>(half ? w.low_scales >> 16 : w.low_scales));
            const float high_scale = from_half(static_cast<u16>(half ? w.high_scales >> 16 : w.high_scales));
            #pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                uint4 v = make_uint4(0, 0, 0, 0);
                if (x[tile]) v = *reinterpret_cast<const uint4*>(x[tile] + chunk * INPUTS + half * 32);
                float own[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                multiply(own, a.x, b.x, a.y, b.y, v.x, v.y);
                multiply(own, c.x, d.x, c.y, d.y, v.z, v.w);
                sums[tile][0] += low_scale * own[0];
                sums[tile][1] += low_scale * own[1];
                sums[tile][2] += high_scale * own[2];
                sums[tile][3] += high_scale * own[3];
            }
        }
    }
};

constexpr u32 NARROW_WARPS = 8;
// Floats between two rows of sums in shared memory: 16 outputs, and one so that banks differ.
constexpr u32 NARROW_STRIDE = 17;

// A block has 16 outputs and up to 8 · TILES rows; its warps have an eighth of the inputs each and add up at the end. So a
// matrix of 2,048 outputs keeps 1,024 warps busy, four loads of 1 KiB each: 32 KiB on their way from each block of
// 256 threads, and two blocks an SM are beyond the 26 KiB that latency times bandwidth asks of it.
// A row's sum has one order, whatever rows are beside it.
template <class Lane, int TILES> __device__ inline void narrow(const ProductArgs& a) {
    constexpr u32 AHEAD = TILES == 4 || Lane::INPUTS == 64 ? 2 : 4;  // there are no registers for more
    SHARED(float, sums_of_warps);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, group = lane / 4, quad = lane % 4;
    const u32 first_output = blockIdx.x * 16, first_row = blockIdx.y * 8 * TILES;
    const Lane weights(a, first_output + group, quad);
    const u16* x[TILES];
    float sums[TILES][4] = {};
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const u32 row = first_row + tile * 8 + group;
        x[tile] = row < a.rows ? a.x + static_cast<u64>(row) * a.inputs + quad * 8 : nullptr;
    }
    const u32 chunks = a.inputs / Lane::INPUTS;
    const u32 begin = chunks * warp / NARROW_WARPS, end = chunks * (warp + 1) / NARROW_WARPS;
    u32 chunk = begin;
    #pragma unroll 1
    for (; chunk + AHEAD <= end; chunk += AHEAD) {
        typename Lane::Piece pieces[AHEAD];
        #pragma unroll
        for (u32 next = 0; next < AHEAD; next++) pieces[next] = weights.read(chunk + next);
        #pragma unroll
        for (u32 next = 0; next < AHEAD; next++) weights.multiply_with(pieces[next], chunk + next, x, sums);
    }
    #pragma unroll 1
    for (; chunk < end; chunk++) weights.multiply_with(weights.read(chunk), chunk, x, sums);

    float* own = sums_of_warps + warp * (8 * TILES * NARROW_STRIDE);
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        #pragma unroll
        for (u32 i = 0; i < 4; i++) own[(tile * 8 + quad * 2 + i % 2) * NARROW_STRIDE + group + i / 2 * 8] = sums[tile][i];
    }
    __syncthreads();
    for (u32 pair = threadIdx.x; pair < 8 * TILES * 8; pair += blockDim.x) {
        const u32 output = pair % 8, row = pair / 8;
        float first = 0.0f, second = 0.0f;
        for (u32 other = 0; other < NARROW_WARPS; other++) {
            const float* from = sums_of_warps + (other * 8 * TILES + row) * NARROW_STRIDE + output;
            first += from[0];
            second += from[8];
        }
        put(a, first_row + row, first_output + output, first, second);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) narrow_1(ProductArgs a) { narrow<Bf16Lane, 1>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) narrow_2(ProductArgs a) { narrow<Bf16Lane, 2>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) narrow_4(ProductArgs a) { narrow<Bf16Lane, 4>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) narrow_q8_1(ProductArgs a) { narrow<Q8Lane, 1>(a); }
extern "C" __global__ void __launch_bounds__(256, 2) narrow_q8_2(ProductArgs a) { narrow<Q8Lane, 2>(a); }
extern "C" __global__ void __launch_bounds__(256) narrow_q8_4(ProductArgs a) { narrow<Q8Lane, 4>(a); }

// Inputs of one stage of `tiled`: eight pieces of 16 bytes.
constexpr u32 STAGE_INPUTS = 64;
constexpr u32 STAGES = 3;

// The place of a piece in a tile of shared memory: rows apart by a power of two would share banks.
__device__ inline uint4* piece(uint4* tile, u32 row, u32 at) { return tile + row * 8 + (at ^ row % 8); }

// Fetches some rows of bf16 into a tile.
template <u32 ROWS> __device__ inline void fetch_bf16(uint4* tile, const u16* from, u32 first, u32 rows, u32 inputs, u32 stage) {
    #pragma unroll
    for (u32 at = threadIdx.x; at < ROWS * 8; at += 256) {
        const u32 row = at / 8, part = at % 8;
        const bool is_there = first + row < rows;
        const u16* source = from + static_cast<u64>(is_there ? first + row : 0) * inputs + stage * STAGE_INPUTS + part * 8;
        copy16(piece(tile, row, part), source, is_there);
    }
}

// Fetches some rows of Q8_0 into a tile, as bf16: beyond `narrow` a number is rounded once more.
template <u32 ROWS> __device__ inline void fetch_q8(uint4* tile, const ProductArgs& a, u32 first, u32 stage) {
    #pragma unroll
    for (u32 at = threadIdx.x; at < ROWS * 4; at += 256) {
        const u32 row = at / 4, quad = at % 4;
        uint4 both[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        if (first + row < (a.outputs + 15) / 16 * 16) {
            const u64 begin = static_cast<u64>(first + row) * a.inputs + stage * STAGE_INPUTS;
            const uint4 bytes = read_once(reinterpret_cast<const uint4*>(static_cast<const u8*>(a.weights) + begin + quad * 16));
            const u32 scales = *reinterpret_cast<const u32*>(a.scales + begin / Q8_NUMBERS);
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                const float scale = from_half(static_cast<u16>(half ? scales >> 16 : scales));
                const uint2 left = widen_bytes(half ? bytes.z : bytes.x), right = widen_bytes(half ? bytes.w : bytes.y);
                both[half] = make_uint4(pack(lower(left.x) * scale, upper(left.x) * scale),
                                        pack(lower(left.y) * scale, upper(left.y) * scale),
                                        pack(lower(right.x) * scale, upper(right.x) * scale),
                                        pack(lower(right.y) * scale, upper(right.y) * scale));
            }
        }
        *piece(tile, row, quad) = both[0];
        *piece(tile, row, quad + 4) = both[1];
    }
}

// A block has OUTPUTS × ROWS sums, its warps 32 × (ROWS / across) each, three stages of 64 inputs in shared memory. With
// 128 × 128 a stage of 32 KiB feeds 2.1 MFLOP: 64 FLOP a byte from the second cache, which 790 TFLOP/s ask 12 TB/s of;
// shared memory, read once for two multiplications of a fragment, is the tighter limit, and `mma.sync` itself
// (some two thirds of the peak on this card).
template <bool IS_Q8, u32 OUTPUTS, u32 ROWS> __device__ inline void tiled(const ProductArgs& a) {
    constexpr u32 DOWN = OUTPUTS / 32, ACROSS = 8 / DOWN, OWN_ROWS = ROWS / ACROSS, TILES = OWN_ROWS / 8;
    constexpr u32 STAGE = (OUTPUTS + ROWS) * 8;
    SHARED(uint4, stages);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 first_row = blockIdx.x * ROWS, first_output = blockIdx.y * OUTPUTS;
    const u32 down = warp % DOWN * 32, across = warp / DOWN * OWN_ROWS;
    float sums[2][TILES][4] = {};
    auto fetch = [&](u32 stage) {
        uint4* left = stages + stage % STAGES * STAGE;
        if constexpr (IS_Q8) {
            fetch_q8<OUTPUTS>(left, a, first_output, stage);
        } else {
            fetch_bf16<OUTPUTS>(left, static_cast<const u16*>(a.weights), first_output, (a.outputs + 15) / 16 * 16, a.inputs, stage);
        }
        fetch_bf16<ROWS>(left + OUTPUTS * 8, a.x, first_row, a.rows, a.inputs, stage);
    };
    const u32 count = a.inputs / STAGE_INPUTS;
    for (u32 stage = 0; stage + 1 < STAGES; stage++) {
        if (stage < count) fetch(stage);
        copies_close();
    }
    for (u32 stage = 0; stage < count; stage++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (stage + STAGES - 1 < count) fetch(stage + STAGES - 1);
        copies_close();
        uint4* left = stages + stage % STAGES * STAGE;
        uint4* right = left + OUTPUTS * 8;
        #pragma unroll
        for (u32 step = 0; step < STAGE_INPUTS / 16; step++) {
            u32 weights[2][4], x[TILES / 2][4];
            #pragma unroll
            for (u32 i = 0; i < 2; i++) load_matrices(weights[i], piece(left, down + i * 16 + lane % 16, step * 2 + lane / 16));
            #pragma unroll
            for (u32 i = 0; i < TILES / 2; i++) {
                load_matrices(x[i], piece(right, across + i * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
            }
            #pragma unroll
            for (u32 i = 0; i < 2; i++) {
                #pragma unroll
                for (u32 tile = 0; tile < TILES; tile++) {
                    const u32 high = tile % 2 * 2;
                    multiply(sums[i][tile], weights[i][0], weights[i][1], weights[i][2], weights[i][3], x[tile / 2][high],
                             x[tile / 2][high + 1]);
                }
            }
        }
    }
    const u32 group = lane / 4, quad = lane % 4;
    #pragma unroll
    for (u32 i = 0; i < 2; i++) {
        #pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) {
            #pragma unroll
            for (u32 odd = 0; odd < 2; odd++) {
                put(a, first_row + across + tile * 8 + quad * 2 + odd, first_output + down + i * 16 + group, sums[i][tile][odd],
                    sums[i][tile][2 + odd]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) tiled_128(ProductArgs a) { tiled<false, 128, 128>(a); }
extern "C" __global__ void __launch_bounds__(256) tiled_64(ProductArgs a) { tiled<false, 64, 64>(a); }
extern "C" __global__ void __launch_bounds__(256) tiled_q8_128(ProductArgs a) { tiled<true, 128, 128>(a); }
extern "C" __global__ void __launch_bounds__(256) tiled_q8_64(ProductArgs a) { tiled<true, 64, 64>(a); }
