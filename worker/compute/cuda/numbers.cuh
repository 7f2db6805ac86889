// Conversions and sums that every kernel uses.

constexpr u32 WARP = 32;
constexpr u32 EVERY_LANE = 0xFFFFFFFFu;

// Positions of a block of keys and values.
constexpr u32 BLOCK_TOKENS = 16;
// Inputs of a stored matrix are whole multiples of this, zeros beyond the model's own; so are rows of its inputs.
constexpr u32 INPUTS_UNIT = 64;
// Numbers of Q8_0 that share a scale.
constexpr u32 Q8_NUMBERS = 32;
// A row that only fills a batch up.
constexpr u32 NOBODY = 0xFFFFFFFFu;

__device__ inline float lower(u32 pair) { return __uint_as_float(pair << 16); }
__device__ inline float upper(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
__device__ inline float from_bf16(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }
__device__ inline u16 to_bf16(float number) { return static_cast<u16>(pack(number, 0.0f)); }

// Where the number of an input lies in a row of Q8_0 as it is uploaded. Of every 64 numbers, a lane's eight of the
// first 32 and its eight of the second lie together, so that it reads both with one load.
__device__ inline u32 q8_place(u32 input) {
    const u32 half = input / 32 % 2, lane = input % 32 / 8;
    return input / 64 * 64 + lane * 16 + half * 8 + input % 8;
}

// The sum over a block, the same in every thread; `room` holds a number for each warp.
__device__ inline float block_sum(float own, float* room) {
    for (u32 by = WARP / 2; by > 0; by /= 2) own += __shfl_xor_sync(EVERY_LANE, own, by);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = own;
    __syncthreads();
    float sum = 0.0f;
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) sum += room[warp];
    __syncthreads();
    return sum;
}
