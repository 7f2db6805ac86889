// Rows one at a time: embeddings, norms, rotation, and the writing of keys and values.
//
// All of it together moves a few hundred kilobytes a step at batch 1, where weights are gigabytes: what it costs is the
// launch. So there are few of them: the addition of a branch is the end of its product (`products.cu`), not a kernel.

struct EmbedArgs {
    const u32* tokens;   // of each row; from CHOSEN on the place of a token that the step before has chosen
    const u32* chosen;   // tokens of the step before
    const void* table;   // (vocabulary, stride): bf16, or Q8_0 if there are scales
    const u16* scales;
    float* stream;       // (rows, width)
    u32 width;
    u32 stride;
};
constexpr u32 CHOSEN = 0x80000000u;

extern "C" __global__ void __launch_bounds__(256) embed(EmbedArgs a) {
    u32 token = a.tokens[blockIdx.x];
    if (token >= CHOSEN) token = a.chosen[token - CHOSEN];
    float* out = a.stream + static_cast<u64>(blockIdx.x) * a.width;
    const u64 row = static_cast<u64>(token) * a.stride;
    for (u32 at = threadIdx.x; at < a.width; at += blockDim.x) {
        if (a.scales) {
            const signed char number = static_cast<const signed char*>(a.table)[row + q8_place(at)];
            out[at] = from_half(a.scales[(row + at) / Q8_NUMBERS]) * static_cast<float>(number);
        } else {
            out[at] = from_bf16(static_cast<const u16*>(a.table)[row + at]);
        }
    }
}

struct NormArgs {
    const float* stream;  // (rows of the step, width)
    const u32* picked;    // which rows; all if null
    const float* weight;
    u16* out;             // (rows, stride), zeros beyond the width
    float* wide;          // (rows, width) in full; nothing if null
    u32 width;
    u32 stride;
    float eps;
    u32 unused;
};

// A block a row: 16 KB of a stream that is in the second cache, read twice.
extern "C" __global__ void __launch_bounds__(256) normalize(NormArgs a) {
    SHARED(float, room);
    const u32 from = a.picked ? a.picked[blockIdx.x] : blockIdx.x;
    const float* in = a.stream + static_cast<u64>(from) * a.width;
    float squares = 0.0f;
    for (u32 at = threadIdx.x; at < a.width; at += blockDim.x) squares += in[at] * in[at];
    const float scale = 1.0f / sqrtf(block_sum(squares, room) / static_cast<float>(a.width) + a.eps);
    u16* out = a.out + static_cast<u64>(blockIdx.x) * a.stride;
    for (u32 at = threadIdx.x; at < a.stride; at += blockDim.x) {
        const float number = at < a.width ? in[at] * scale * a.weight[at] : 0.0f;
        out[at] = to_bf16(number);
        if (a.wide && at < a.width) a.wide[static_cast<u64>(blockIdx.x) * a.width + at] = number;
    }
}

struct TurnArgs {
    const u32* positions;     // of each row
    const float* frequencies; // (pairs)
    float* angles;            // (rows, 2, pairs): cosines, then sines
    u32 pairs;
    float factor;
};

// Cosines and sines of a step's rows, once for all layers. An angle is rounded to f32 as the CPU rounds it, then brought
// into an eighth of a turn in f64: the library's own reduction keeps an array in local memory.
extern "C" __global__ void __launch_bounds__(128) turn(TurnArgs a) {
    float* out = a.angles + static_cast<u64>(blockIdx.x) * 2 * a.pairs;
    const float position = static_cast<float>(a.positions[blockIdx.x]);
    for (u32 pair = threadIdx.x; pair < a.pairs; pair += blockDim.x) {
        const double angle = position * a.frequencies[pair];
        const double quarter = rint(angle * 0.63661977236758134308);
        const float rest = static_cast<float>(angle - quarter * 1.57079632679489661923);
        const float square = rest * rest;
        // Polynomials for at most an eighth of a turn (Cephes).
        const float sine =
            rest + rest * square * (-1.6666654611e-1f + square * (8.3321608736e-3f - square * 1.9515295891e-4f));
        const float cosine = 1.0f - 0.5f * square +
            square * square * (4.166664568298827e-2f + square * (-1.388731625493765e-3f + square * 2.443315711809948e-5f));
        const u32 quadrant = static_cast<u32>(static_cast<long long>(quarter)) & 3;
        const float turned_cosine = quadrant % 2 == 0 ? cosine : sine, turned_sine = quadrant % 2 == 0 ? sine : cosine;
        out[pair] = (quadrant == 1 || quadrant == 2 ? -turned_cosine : turned_cosine) * a.factor;
        out[a.pairs + pair] = (quadrant >= 2 ? -turned_sine : turned_sine) * a.factor;
    }
}

struct RotateArgs {
    const float* projected;   // (rows, (heads + 2 · kv_heads) · dim): queries, keys, values
    const float* angles;      // (rows, 2, dim / 2)
    const u32* slots;         // where each row's keys and values go: block · 16 + offset; NOBODY goes nowhere
    const float* query_norm;  // (dim); none if null
    const float* key_norm;
    u16* queries;             // (rows, heads, room)
    u16* keys;                // (blocks, kv_heads, 16, room)
    u16* values;
    u32 heads;
    u32 kv_heads;
    u32 dim;
    u32 room;                 // numbers kept for a head; zeros beyond dim
    float query_eps;
    float key_eps;
    u32 are_neighbours;       // pairs are neighbours rather than of two halves
    u32 unused;
};

// A warp for each head of each row: norm, rotation, then where it belongs.
extern "C" __global__ void __launch_bounds__(128) rotate(RotateArgs a) {
    const u32 head = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 all = a.heads + 2 * a.kv_heads, pairs = a.dim / 2;
    const u32 slot = a.slots[blockIdx.x];
    if (head >= all || (head >= a.heads && slot == NOBODY)) return;
    const float* in = a.projected + (static_cast<u64>(blockIdx.x) * all + head) * a.dim;
    const bool is_query = head < a.heads, is_value = head >= a.heads + a.kv_heads;
    u16* out;
    if (is_query) {
        out = a.queries + (static_cast<u64>(blockIdx.x) * a.heads + head) * a.room;
    } else {
        const u32 kv_head = (head - a.heads) % a.kv_heads;
        const u64 row = (static_cast<u64>(slot / BLOCK_TOKENS) * a.kv_heads + kv_head) * BLOCK_TOKENS + slot % BLOCK_TOKENS;
        out = (is_value ? a.values : a.keys) + row * a.room;
    }
    const float* weight = is_value ? nullptr : (is_query ? a.query_norm : a.key_norm);
    float scale = 1.0f;
    if (weight) {
        float squares = 0.0f;
        for (u32 at = lane; at < a.dim; at += WARP) squares += in[at] * in[at];
        for (u32 by = WARP / 2; by > 0; by /= 2) squares += __shfl_xor_sync(EVERY_LANE, squares, by);
        scale = 1.0f / sqrtf(squares / static_cast<float>(a.dim) + (is_query ? a.query_eps : a.key_eps));
    }
    const float* cosines = a.angles + static_cast<u64>(blockIdx.x) * a.dim;
    for (u32 pair = lane; pair < pairs; pair += WARP) {
        const bool is_split = is_value || !a.are_neighbours;
        const u32 left = is_split ? pair : 2 * pair, right = is_split ? pair + pairs : 2 * pair + 1;
        float x = in[left], y = in[right];
        if (weight) {
            // The weights of a norm are in the order of the halves.
            x *= scale * weight[pair];
            y *= scale * weight[pair + pairs];
        }
        const float cosine = is_value ? 1.0f : cosines[pair], sine = is_value ? 0.0f : cosines[pairs + pair];
        out[pair] = to_bf16(x * cosine - y * sine);
        out[pair + pairs] = to_bf16(y * cosine + x * sine);
    }
    for (u32 at = a.dim + lane; at < a.room; at += WARP) out[at] = 0;
}
