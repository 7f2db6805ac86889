// Attention over paged keys and values, for prompts and for single tokens, by the same few steps: scores of a tile of 64
// keys on the tensor cores, a running maximum and sum (Milakov and Gimelshein 2018, Dao et al. 2022), values on the
// tensor cores. Query heads that share a key head are rows of one fragment, so that keys are read once for all of
// them.
//
// A row's tiles begin at multiples of 64 positions, and how one token's keys are split depends on its own position
// alone: neither company nor chunks of a prompt change the order of its sums.

struct AttendTile {
    u32 row;       // of the step: the first of its tokens
    u32 tokens;    // at most 64 / group; 0 is nobody's
    u32 position;  // of the first
    u32 blocks;    // where its sequence's blocks begin
};

struct AttendArgs {
    const u16* queries;       // (rows, heads, DIM)
    const u16* keys;          // (blocks, kv_heads, 16, DIM)
    const u16* values;
    const AttendTile* tiles;
    const u32* blocks;
    u16* mixed;               // (rows, stride): heads side by side, `dim` numbers each
    float* partial;           // (tiles, heads, SPLITS, DIM + 2): sums of values, then maximum and sum of weights
    u32 heads;
    u32 kv_heads;
    u32 dim;
    u32 stride;
    u32 window;               // positions that a row sees, its own included; all if 0
    float scale;
};

constexpr u32 KEYS = 64;
// One token's keys are split among at most so many blocks.
constexpr u32 SPLITS = 16;
// Query heads that may share a key head.
constexpr u32 GROUP_MAX = 16;

// Tiles of keys that the rows of a tile see, and how many of them a split has.
struct Span {
    u32 first, end, each, splits;
    __device__ Span(const AttendTile& tile, u32 window) {
        const u32 last = tile.position + tile.tokens;
        first = window && tile.position + 1 > window ? (tile.position + 1 - window) / KEYS : 0;
        end = (last + KEYS - 1) / KEYS;
        each = (end - first + SPLITS - 1) / SPLITS;
        splits = (end - first + each - 1) / each;
    }
};

// The place of 16 bytes in rows of DIM numbers in shared memory.
template <u32 DIM> __device__ inline uint4* chunk_of(uint4* rows, u32 row, u32 at) {
    constexpr u32 CHUNKS = DIM / 8, SPREAD = CHUNKS < 8 ? CHUNKS : 8;
    return rows + row * CHUNKS + (at ^ row % SPREAD);
}

// The largest, and the sum, of a row that a quad shares.
__device__ inline float quad_max(float own) {
    own = fmaxf(own, __shfl_xor_sync(EVERY_LANE, own, 1));
    return fmaxf(own, __shfl_xor_sync(EVERY_LANE, own, 2));
}
__device__ inline float quad_sum(float own) {
    own += __shfl_xor_sync(EVERY_LANE, own, 1);
    return own + __shfl_xor_sync(EVERY_LANE, own, 2);
}

// What a warp has of 16 rows: rows `group` and `group + 8` are a lane's.
template <u32 DIM> struct Running {
    float mixed[DIM / 8][4];
    float most[2];
    float sum[2];
};

// Adds 16 · GROUPS keys, from row `from` of the tile in shared memory on, to what a warp has.
template <u32 DIM, u32 GROUPS>
__device__ inline void take_keys(Running<DIM>& own, uint4* queries, uint4* keys, uint4* values, u32 query, u32 from,
                                 u32 key, const int (&position)[2], const AttendArgs& a) {
    const u32 lane = threadIdx.x % WARP, quad = lane % 4;
    float scores[GROUPS * 2][4] = {};
    #pragma unroll
    for (u32 step = 0; step < DIM / 16; step++) {
        u32 q[4];
        load_matrices(q, chunk_of<DIM>(queries, query + lane % 16, step * 2 + lane / 16));
        #pragma unroll
        for (u32 group = 0; group < GROUPS; group++) {
            u32 k[4];
            load_matrices(k, chunk_of<DIM>(keys, from + group * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
            multiply(scores[group * 2], q[0], q[1], q[2], q[3], k[0], k[1]);
            multiply(scores[group * 2 + 1], q[0], q[1], q[2], q[3], k[2], k[3]);
        }
    }
    // e^x is 2^(x · log2 e).
    const float scale = a.scale * 1.4426950408889634f;
    #pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float most = own.most[half];
        #pragma unroll
        for (u32 tile = 0; tile < GROUPS * 2; tile++) {
            #pragma unroll
            for (u32 odd = 0; odd < 2; odd++) {
                const int seen = static_cast<int>(key + tile * 8 + quad * 2 + odd);
                const bool is_seen = seen <= position[half] && (!a.window || seen + static_cast<int>(a.window) > position[half]);
                float& score = scores[tile][half * 2 + odd];
                score = is_seen ? score * scale : -INFINITY;
                most = fmaxf(most, score);
            }
        }
        most = quad_max(most);
        // Nothing seen yet: 0 rather than infinity less infinity.
        const float base = most == -INFINITY ? 0.0f : most;
        const float kept = exp2f(own.most[half] - base);
        own.most[half] = most;
        own.sum[half] *= kept;
        #pragma unroll
        for (u32 tile = 0; tile < DIM / 8; tile++) {
            own.mixed[tile][half * 2] *= kept;
            own.mixed[tile][half * 2 + 1] *= kept;
        }
        #pragma unroll
        for (u32 tile = 0; tile < GROUPS * 2; tile++) {
            #pragma unroll
            for (u32 odd = 0; odd < 2; odd++) {
                float& score = scores[tile][half * 2 + odd];
                score = exp2f(score - base);
                own.sum[half] += score;
            }
        }
    }
    #pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
        // Sums of two tiles of 8 keys lie as the left operand of 16 inputs does.
        const float(&near)[4] = scores[group * 2];
        const float(&far)[4] = scores[group * 2 + 1];
        const u32 p0 = pack(near[0], near[1]), p1 = pack(near[2], near[3]), p2 = pack(far[0], far[1]), p3 = pack(far[2], far[3]);
        #pragma unroll
        for (u32 tile = 0; tile < DIM / 8; tile += 2) {
            u32 v[4];
            load_transposed(v, chunk_of<DIM>(values, from + group * 16 + lane % 16, tile + lane / 16));
            multiply(own.mixed[tile], p0, p1, p2, p3, v[0], v[1]);
            multiply(own.mixed[tile + 1], p0, p1, p2, p3, v[2], v[3]);
        }
    }
}

// Fetches a tile of keys and of values; zeros from `end` on, since no number of another's block may be multiplied, not
// even by zero.
template <u32 DIM>
__device__ inline void fetch_keys(uint4* keys, uint4* values, const AttendArgs& a, const u32* blocks, u32 tile, u32 end) {
    constexpr u32 CHUNKS = DIM / 8;
    for (u32 at = threadIdx.x; at < KEYS * CHUNKS; at += 128) {
        const u32 row = at / CHUNKS, part = at % CHUNKS, key = tile * KEYS + row;
        const bool is_there = key < end;
        const u32 block = is_there ? blocks[key / BLOCK_TOKENS] : 0;
        const u64 from = ((static_cast<u64>(block) * a.kv_heads + blockIdx.y) * BLOCK_TOKENS + key % BLOCK_TOKENS) * DIM + part * 8;
        copy16(chunk_of<DIM>(keys, row, part), a.keys + from, is_there);
        copy16(chunk_of<DIM>(values, row, part), a.values + from, is_there);
    }
}

// Adds up what four warps have of one token's heads, and writes it: the result, where nobody else has a share in it.
template <u32 DIM>
__device__ inline void finish_one(const Running<DIM>& own, float* room, const AttendArgs& a, const AttendTile& tile, const Span& span) {
    constexpr u32 WIDTH = DIM + 2;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, group = a.heads / a.kv_heads;
    #pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float* row = room + (warp * 16 + lane / 4 + half * 8) * WIDTH;
        #pragma unroll
        for (u32 at = 0; at < DIM / 8; at++) {
            row[at * 8 + lane % 4 * 2] = own.mixed[at][half * 2];
            row[at * 8 + lane % 4 * 2 + 1] = own.mixed[at][half * 2 + 1];
        }
        if (lane % 4 == 0) {
            row[DIM] = own.most[half];
            row[DIM + 1] = own.sum[half];
        }
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < group * DIM; at += 128) {
        const u32 member = at / DIM, number = at % DIM, head = blockIdx.y * group + member;
        float most = -INFINITY;
        for (u32 other = 0; other < 4; other++) most = fmaxf(most, room[(other * 16 + member) * WIDTH + DIM]);
        const float base = most == -INFINITY ? 0.0f : most;
        float sum = 0.0f, mixed = 0.0f;
        for (u32 other = 0; other < 4; other++) {
            const float* row = room + (other * 16 + member) * WIDTH;
            const float share = exp2f(row[DIM] - base);
            sum += share * row[DIM + 1];
            mixed += share * row[number];
        }
        if (span.splits == 1) {
            if (number < a.dim) a.mixed[static_cast<u64>(tile.row) * a.stride + head * a.dim + number] = to_bf16(mixed / sum);
            continue;
        }
        float* out = a.partial + ((static_cast<u64>(blockIdx.x) * a.heads + head) * SPLITS + blockIdx.z) * WIDTH;
        out[number] = mixed;
        if (number == 0) {
            out[DIM] = most;
            out[DIM + 1] = sum;
        }
    }
}

// Four warps. Of a prompt each has 16 rows (tokens × heads of the group) and all 64 keys of a tile; of one token all have
// the same rows and 16 keys each, and add up at the end. Two tiles of keys are in shared memory, one being fetched.
template <u32 DIM, bool IS_ONE> __device__ inline void attend(const AttendArgs& a) {
    constexpr u32 ROWS = IS_ONE ? 16 : 64, CHUNKS = DIM / 8, TILE = KEYS * CHUNKS;
    SHARED(uint4, queries);
    uint4* stored = queries + ROWS * CHUNKS;
    const AttendTile tile = a.tiles[blockIdx.x];
    if (tile.tokens == 0) return;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, quad_row = lane / 4;
    const u32 group = a.heads / a.kv_heads, first_head = blockIdx.y * group, rows = tile.tokens * group;
    const Span span(tile, a.window);
    const u32 begin = IS_ONE ? span.first + blockIdx.z * span.each : span.first;
    const u32 end = IS_ONE ? min(begin + span.each, span.end) : span.end;
    if (begin >= end) return;
    const u32* blocks = a.blocks + tile.blocks;
    const u32 keys_end = tile.position + tile.tokens;

    for (u32 at = threadIdx.x; at < ROWS * CHUNKS; at += 128) {
        const u32 row = at / CHUNKS, part = at % CHUNKS;
        const bool is_there = row < rows;
        const u32 token = is_there ? row / group : 0, head = first_head + (is_there ? row % group : 0);
        copy16(chunk_of<DIM>(queries, row, part), a.queries + (static_cast<u64>(tile.row + token) * a.heads + head) * DIM + part * 8,
               is_there);
    }
    fetch_keys<DIM>(stored, stored + TILE, a, blocks, begin, keys_end);
    copies_close();

    const u32 own_rows = IS_ONE ? 0 : warp * 16;
    int position[2];
    Running<DIM> own = {};
    #pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = own_rows + quad_row + half * 8;
        position[half] = row < rows ? static_cast<int>(tile.position + row / group) : -1;
        own.most[half] = -INFINITY;
    }
    for (u32 at = begin; at < end; at++) {
        uint4* here = stored + (at - begin) % 2 * 2 * TILE;
        if (at + 1 < end) {
            uint4* next = stored + (at + 1 - begin) % 2 * 2 * TILE;
            fetch_keys<DIM>(next, next + TILE, a, blocks, at + 1, keys_end);
        }
        copies_close();
        copies_wait<1>();
        __syncthreads();
        if constexpr (IS_ONE) {
            take_keys<DIM, 1>(own, queries, here, here + TILE, 0, warp * 16, at * KEYS + warp * 16, position, a);
        } else {
            take_keys<DIM, 4>(own, queries, here, here + TILE, own_rows, 0, at * KEYS, position, a);
        }
        __syncthreads();
    }
    own.sum[0] = quad_sum(own.sum[0]);
    own.sum[1] = quad_sum(own.sum[1]);
    if constexpr (IS_ONE) {
        finish_one<DIM>(own, reinterpret_cast<float*>(stored), a, tile, span);
    } else {
        #pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 row = own_rows + quad_row + half * 8;
            if (row >= rows) continue;
            const float share = 1.0f / own.sum[half];
            u16* out = a.mixed + static_cast<u64>(tile.row + row / group) * a.stride + (first_head + row % group) * a.dim;
            #pragma unroll
            for (u32 at = 0; at < DIM / 8; at++) {
                const u32 number = at * 8 + lane % 4 * 2;
                if (number < a.dim) {
                    *reinterpret_cast<u32*>(out + number) = pack(own.mixed[at][half * 2] * share, own.mixed[at][half * 2 + 1] * share);
                }
            }
        }
    }
}

// Adds up the splits of one token: a block for each head.
template <u32 DIM> __device__ inline void join(const AttendArgs& a) {
    constexpr u32 WIDTH = DIM + 2;
    const AttendTile tile = a.tiles[blockIdx.x];
    if (tile.tokens == 0) return;
    const Span span(tile, a.window);
    if (span.splits == 1) return;
    const float* partial = a.partial + (static_cast<u64>(blockIdx.x) * a.heads + blockIdx.y) * SPLITS * WIDTH;
    float most = -INFINITY, sum = 0.0f, mixed = 0.0f;
    for (u32 split = 0; split < span.splits; split++) most = fmaxf(most, partial[split * WIDTH + DIM]);
    for (u32 split = 0; split < span.splits; split++) {
        const float share = exp2f(partial[split * WIDTH + DIM] - most);
        sum += share * partial[split * WIDTH + DIM + 1];
        mixed += share * partial[split * WIDTH + threadIdx.x];
    }
    if (threadIdx.x < a.dim) {
        a.mixed[static_cast<u64>(tile.row) * a.stride + blockIdx.y * a.dim + threadIdx.x] = to_bf16(mixed / sum);
    }
}

#define ATTENTION(dim) \
    extern "C" __global__ void __launch_bounds__(128) attend_##dim(AttendArgs a) { attend<dim, false>(a); } \
    extern "C" __global__ void __launch_bounds__(128) attend_one_##dim(AttendArgs a) { attend<dim, true>(a); } \
    extern "C" __global__ void __launch_bounds__(dim) join_##dim(AttendArgs a) { join<dim>(a); }
ATTENTION(32)
ATTENTION(64)
ATTENTION(128)
ATTENTION(256)
