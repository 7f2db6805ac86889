// Choosing tokens from logits that are taken as they are, with the same result as the shared sampler of the CPU, bit by
// bit: weights by the same polynomial, sums of 64 in the same order, masses that add up exactly in any order. So nothing
// here may be contracted or reordered: operations are the rounded ones, named.
//
// Rows with penalties, biases, bans or masks are chosen on the host, by that sampler itself.

struct Choice {
    double uniform;      // [0, 1): from the seed and the number of the draw
    double inverse;      // 1 / temperature
    float temperature;
    float top_p;
    float min_p;
    u32 top_k;
    u32 is_wanted;       // 0: the row's token is somebody else's to choose
    u32 unused;
};

struct Found {
    double sum;          // of the weights at temperature 1: for log probabilities
    float largest;
    u32 is_finite;
};

struct ChooseArgs {
    const float* logits;   // (rows, vocabulary)
    const Choice* choices; // of each row
    u32* tokens;           // of each row: what the next step reads
    Found* found;
    u32 vocabulary;
    u32 are_scored;        // `found` is asked for
};

constexpr u32 CHUNK = 64;
constexpr u32 LANES = 16;
constexpr u32 CHOOSE_THREADS = 512;
// Tokens that weigh anything and are kept in shared memory, rather than found again among all.
constexpr u32 LIST = 2048;

// Logits as whole numbers in the order of rank: a larger one first is a smaller key.
__device__ __forceinline__ u32 rank_key(float logit) {
    const u32 bits = __float_as_uint(logit);
    return bits & 0x80000000u ? bits : ~bits & 0x7FFFFFFFu;
}
__device__ __forceinline__ float logit_of(u32 key) { return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7FFFFFFFu); }

// e to the power of a number that is at most 0: as the CPU's.
__device__ __forceinline__ float weigh_exp(float power) {
    const float shifted = __fadd_rn(__fmul_rn(power, 1.44269504088896340736f), 12582912.0f);
    const float whole = __fsub_rn(shifted, 12582912.0f);
    const float rest = __fsub_rn(__fsub_rn(power, __fmul_rn(whole, 0.6933594f)), __fmul_rn(whole, -2.1219444e-4f));
    const float tail = __fadd_rn(1.0f / 24.0f, __fmul_rn(rest, __fadd_rn(1.0f / 120.0f, __fmul_rn(rest, 1.0f / 720.0f))));
    const float inner = __fadd_rn(0.5f, __fmul_rn(rest, __fadd_rn(1.0f / 6.0f, __fmul_rn(rest, tail))));
    const float value = __fadd_rn(1.0f, __fmul_rn(rest, __fadd_rn(1.0f, __fmul_rn(rest, inner))));
    const u32 exponent = (__float_as_uint(shifted) - 0x4B400000u + 127u) << 23;
    return power > -87.0f ? __fmul_rn(value, __uint_as_float(exponent)) : 0.0f;
}

struct Scale {
    double inverse;
    float largest, floor;
    // The product with a reciprocal in f64 rounds to the same f32 as the quotient: no quotient of two numbers of 24 bits is
    // as near to a number of 25 bits as the product errs.
    __device__ __forceinline__ float weight(float logit) const {
        const double power = __dmul_rn(static_cast<double>(__fsub_rn(logit, largest)), inverse);
        const float weight = weigh_exp(static_cast<float>(power));
        return weight >= floor ? weight : 0.0f;
    }
    // A multiple of 2^-34.
    __device__ __forceinline__ double mass(float logit) const {
        return __dsub_rn(__dadd_rn(static_cast<double>(weight(logit)), 262144.0), 262144.0);
    }
    // The sum of one chunk's weights: 16 lanes, each from the first row on, then the lanes, then the rest.
    __device__ __forceinline__ double sum_of(const float* logits, u32 chunk, u32 vocabulary) const {
        const u32 begin = chunk * CHUNK, end = min(begin + CHUNK, vocabulary), whole = begin + (end - begin) / LANES * LANES;
        float sum = 0.0f, rest = 0.0f;
        for (u32 lane = 0; lane < LANES; lane++) {
            float own = 0.0f;
            for (u32 at = begin + lane; at < whole; at += LANES) own = __fadd_rn(own, weight(logits[at]));
            sum = __fadd_rn(sum, own);
        }
        for (u32 at = whole; at < end; at++) rest = __fadd_rn(rest, weight(logits[at]));
        return static_cast<double>(__fadd_rn(sum, rest));
    }
};

// What a block shares; the sums of chunks follow.
struct Desk {
    double masses[256];
    u32 counts[256];
    u32 keys[LIST];
    u32 ids[LIST];
    float room[CHOOSE_THREADS / WARP];
    u32 room_ids[CHOOSE_THREADS / WARP];
    u32 listed;
    // The answer of a search.
    double sum;
    u32 prefix, inside, result, is_found;
};

__device__ __forceinline__ double* chunk_sums(Desk* desk) { return reinterpret_cast<double*>(desk + 1); }

// The largest logit and the lowest id that has it; NaN is never it. Whether all are finite goes into `is_finite`.
__device__ __forceinline__ u32 block_largest(const float* logits, u32 vocabulary, Desk* desk, float* largest, u32* is_finite) {
    float most = -INFINITY;
    u32 id = 0;
    bool are_finite = true;
    for (u32 at = threadIdx.x; at < vocabulary; at += CHOOSE_THREADS) {
        const float logit = logits[at];
        are_finite = are_finite && (__float_as_uint(logit) & 0x7F800000u) != 0x7F800000u;
        if (logit > most) most = logit, id = at;
    }
    for (u32 by = WARP / 2; by > 0; by /= 2) {
        const float other = __shfl_xor_sync(EVERY_LANE, most, by);
        const u32 other_id = __shfl_xor_sync(EVERY_LANE, id, by);
        if (other > most || (other == most && other_id < id)) most = other, id = other_id;
    }
    const bool warp_is_finite = __all_sync(EVERY_LANE, are_finite);
    if (threadIdx.x % WARP == 0) {
        desk->room[threadIdx.x / WARP] = most;
        desk->room_ids[threadIdx.x / WARP] = id | (warp_is_finite ? 0 : 0x80000000u);
    }
    __syncthreads();
    most = -INFINITY, id = 0;
    *is_finite = 1;
    for (u32 warp = 0; warp < CHOOSE_THREADS / WARP; warp++) {
        const u32 other_id = desk->room_ids[warp] & 0x7FFFFFFFu;
        if (desk->room_ids[warp] & 0x80000000u) *is_finite = 0;
        if (desk->room[warp] > most || (desk->room[warp] == most && other_id < id)) most = desk->room[warp], id = other_id;
    }
    __syncthreads();
    *largest = most;
    return id;
}

// The sum of all weights, and of each chunk's on the desk.
__device__ __forceinline__ double block_weights(const float* logits, u32 vocabulary, Scale scale, Desk* desk) {
    const u32 chunks = (vocabulary + CHUNK - 1) / CHUNK;
    for (u32 chunk = threadIdx.x; chunk < chunks; chunk += CHOOSE_THREADS) {
        chunk_sums(desk)[chunk] = scale.sum_of(logits, chunk, vocabulary);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0.0;
        for (u32 chunk = 0; chunk < chunks; chunk++) sum = __dadd_rn(sum, chunk_sums(desk)[chunk]);
        desk->sum = sum;
    }
    __syncthreads();
    const double sum = desk->sum;
    __syncthreads();
    return sum;
}

// The first token at which the running sum of weights exceeds `goal`: one thread's walk, over chunks, then in one.
__device__ __forceinline__ u32 walk(const float* logits, u32 vocabulary, Scale scale, const double* sums, double goal) {
    const u32 chunks = (vocabulary + CHUNK - 1) / CHUNK;
    double left = goal;
    u32 heaviest = 0;
    bool is_any = false, is_inside = false;
    for (u32 chunk = 0; chunk < chunks && !is_inside; chunk++) {
        if (sums[chunk] == 0.0) continue;
        heaviest = chunk, is_any = true;
        is_inside = left < sums[chunk];
        if (!is_inside) left = __dsub_rn(left, sums[chunk]);
    }
    if (!is_any) return 0;
    // Rounding may leave a crumb: it belongs to the last that weighs anything.
    u32 last = 0;
    double inner = left;
    for (u32 at = heaviest * CHUNK; at < min(heaviest * CHUNK + CHUNK, vocabulary); at++) {
        const float weight = scale.weight(logits[at]);
        if (weight > 0.0f) last = at;
        inner = __dsub_rn(inner, static_cast<double>(weight));
        if (is_inside && inner < 0.0) return at;
    }
    return last;
}

// Lists the tokens that weigh anything, if the desk has room for them.
__device__ __forceinline__ void list(const float* logits, u32 vocabulary, Scale scale, Desk* desk) {
    if (threadIdx.x == 0) desk->listed = 0;
    __syncthreads();
    for (u32 at = threadIdx.x; at < vocabulary; at += CHOOSE_THREADS) {
        if (scale.mass(logits[at]) == 0.0) continue;
        const u32 place = atomicAdd(&desk->listed, 1u);
        if (place < LIST) desk->keys[place] = rank_key(logits[at]), desk->ids[place] = at;
    }
    __syncthreads();
}

// Does something with every token that may weigh anything; with all if `are_all` is set.
template <class Visit>
__device__ __forceinline__ void each_token(const float* logits, u32 vocabulary, const Desk* desk, bool are_all, Visit visit) {
    if (!are_all && desk->listed <= LIST) {
        for (u32 at = threadIdx.x; at < desk->listed; at += CHOOSE_THREADS) visit(desk->keys[at], desk->ids[at]);
    } else {
        for (u32 at = threadIdx.x; at < vocabulary; at += CHOOSE_THREADS) visit(rank_key(logits[at]), at);
    }
}

// The `which`-th lowest id of a key: each thread has ids of its own, in order.
__device__ __forceinline__ u32 id_of(const float* logits, u32 vocabulary, u32 key, u32 which, Desk* desk) {
    const u32 each = (vocabulary + CHOOSE_THREADS - 1) / CHOOSE_THREADS;
    const u32 begin = min(threadIdx.x * each, vocabulary), end = min(begin + each, vocabulary);
    // The desk's list is not needed any more where many share a key; its first words are.
    u32 own = 0;
    for (u32 at = begin; at < end; at++) own += rank_key(logits[at]) == key;
    u32* counts = reinterpret_cast<u32*>(desk->masses);
    counts[threadIdx.x] = own;
    __syncthreads();
    u32 before = 0;
    for (u32 thread = 0; thread < threadIdx.x; thread++) before += counts[thread];
    if (before <= which && which < before + own) {
        for (u32 at = begin; at < end; at++) {
            if (rank_key(logits[at]) != key) continue;
            if (before++ == which) desk->result = at;
        }
    }
    __syncthreads();
    const u32 id = desk->result;
    __syncthreads();
    return id;
}

// What a search is for.
struct Goal {
    u32 kind;
    u32 count;      // of COUNT: so many tokens
    double masses;  // of NUCLEUS: masses that reach it; of DRAW: that exceed it, or
    double whole;   // reach this, since a product may be rounded up to it
    __device__ __forceinline__ bool is_reached(double sum, u32 tokens) const {
        if (kind == 0) return tokens >= count;
        return kind == 1 ? sum > 0.0 && sum >= masses : sum > masses || sum >= whole;
    }
};
constexpr u32 COUNT = 0;
constexpr u32 NUCLEUS = 1;
constexpr u32 DRAW = 2;

// The first token in rank order at which a goal is reached: eight bits of the key at a time, by sums of masses, or
// counts, of what begins with those bits. False if there is none; else its key, how many of that key come before it, and
// the sum with it are on the desk.
__device__ __forceinline__ bool search(const float* logits, u32 vocabulary, Scale scale, Desk* desk, Goal goal) {
    double before = 0.0;
    u32 before_count = 0, prefix = 0;
    #pragma unroll 1
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (u32 bucket = threadIdx.x; bucket < 256; bucket += CHOOSE_THREADS) desk->masses[bucket] = 0.0, desk->counts[bucket] = 0;
        __syncthreads();
        each_token(logits, vocabulary, desk, goal.kind == COUNT, [&](u32 key, u32) {
            if (shift < 24 && key >> (shift + 8) != prefix) return;
            const u32 bucket = key >> shift & 255;
            atomicAdd(&desk->counts[bucket], 1u);
            atomicAdd(&desk->masses[bucket], scale.mass(logit_of(key)));
        });
        __syncthreads();
        if (threadIdx.x == 0) {
            double sum = before;
            u32 count = before_count, bucket = 0;
            for (; bucket < 256; bucket++) {
                const double with = sum + desk->masses[bucket];
                if (desk->counts[bucket] && goal.is_reached(with, count + desk->counts[bucket])) break;
                sum = with;
                count += desk->counts[bucket];
            }
            desk->is_found = bucket < 256;
            desk->prefix = prefix << 8 | bucket;
            desk->sum = sum;
            desk->inside = count;
        }
        __syncthreads();
        if (!desk->is_found) return false;
        prefix = desk->prefix, before = desk->sum, before_count = desk->inside;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        // All that are left weigh the same; sums are exact, so the place among them is found by halving.
        const double mass = scale.mass(logit_of(prefix));
        u32 low = 1, high = desk->counts[prefix & 255];
        while (low < high) {
            const u32 middle = low + (high - low) / 2;
            if (goal.is_reached(before + middle * mass, before_count + middle)) high = middle; else low = middle + 1;
        }
        desk->sum = before + low * mass;
        desk->inside = low - 1;
    }
    __syncthreads();
    return true;
}

__device__ __forceinline__ double mass_of_all(const float* logits, u32 vocabulary, Scale scale, Desk* desk) {
    if (threadIdx.x == 0) desk->masses[0] = 0.0;
    __syncthreads();
    each_token(logits, vocabulary, desk, false, [&](u32 key, u32) { atomicAdd(&desk->masses[0], scale.mass(logit_of(key))); });
    __syncthreads();
    const double sum = desk->masses[0];
    __syncthreads();
    return sum;
}

// Draws from the first `top_k` tokens, or from all if 0, as far as their masses reach a share of `top_p`; the likeliest
// if nothing weighs anything. The end of the first, of the nucleus, and the token in it are three searches.
__device__ __forceinline__ u32 draw(const float* logits, u32 vocabulary, Scale scale, Desk* desk, const Choice& choice, u32 top_k, u32 likeliest) {
    const double weights = top_k ? 0.0 : block_weights(logits, vocabulary, scale, desk);
    list(logits, vocabulary, scale, desk);
    Goal goal = {COUNT, top_k, 0.0, 0.0};
    if (!top_k) {
        // All of the masses may be less than all of the weights, by their rounding.
        const double all = mass_of_all(logits, vocabulary, scale, desk), share = __dmul_rn(weights, static_cast<double>(choice.top_p));
        goal = {NUCLEUS, 0, share < all ? share : all, 0.0};
    }
    #pragma unroll 1
    for (;;) {
        if (!search(logits, vocabulary, scale, desk, goal)) return likeliest;
        const double sum = desk->sum;
        if (goal.kind == DRAW) break;
        goal.whole = sum;
        goal.masses = __dmul_rn(sum, goal.kind == COUNT ? static_cast<double>(choice.top_p) : choice.uniform);
        goal.kind++;
        __syncthreads();
    }
    const u32 key = desk->prefix, which = desk->inside;
    __syncthreads();
    return id_of(logits, vocabulary, key, which, desk);
}

// A block a row: half a megabyte of logits, in the second cache from the product before. Greedy reads them once.
extern "C" __global__ void __launch_bounds__(512, 1) choose(ChooseArgs a) {
    SHARED(Desk, desk);
    const Choice choice = a.choices[blockIdx.x];
    const float* logits = a.logits + static_cast<u64>(blockIdx.x) * a.vocabulary;
    float largest;
    u32 is_finite;
    const u32 likeliest = block_largest(logits, a.vocabulary, desk, &largest, &is_finite);
    if (a.are_scored) {
        const Scale scale = {1.0, largest, 0.0f};
        const double sum = is_finite ? block_weights(logits, a.vocabulary, scale, desk) : 0.0;
        if (threadIdx.x == 0) a.found[blockIdx.x].sum = sum;
    }
    if (threadIdx.x == 0) {
        a.found[blockIdx.x].largest = largest;
        a.found[blockIdx.x].is_finite = is_finite;
    }
    if (!choice.is_wanted) return;
    u32 token = likeliest;
    if (is_finite && choice.temperature != 0.0f) {
        const Scale scale = {choice.inverse, largest, choice.min_p};
        const u32 top_k = choice.top_k < a.vocabulary ? choice.top_k : 0;
        if (top_k || choice.top_p < 1.0f) {
            token = draw(logits, a.vocabulary, scale, desk, choice, top_k, likeliest);
        } else {
            const double sum = block_weights(logits, a.vocabulary, scale, desk);
            if (threadIdx.x == 0) token = walk(logits, a.vocabulary, scale, chunk_sums(desk), __dmul_rn(choice.uniform, sum));
        }
    }
    if (threadIdx.x == 0) a.tokens[blockIdx.x] = is_finite ? token : 0;
}

struct ScoreArgs {
    const float* logits;   // (rows, vocabulary)
    const u32* asked;      // of each row: a token; NOBODY is the one that was chosen
    const u32* chosen;
    const u32* tops;       // of each row: how many of the likeliest
    float* own;            // of each row: the logit of the token asked about
    u32* top_ids;          // (rows, room)
    float* top_logits;
    u32 vocabulary;
    u32 room;
};

// Logits of the tokens that were asked about, and of the likeliest, in rank order: one pass over the row for each.
extern "C" __global__ void __launch_bounds__(512) score(ScoreArgs a) {
    SHARED(u64, room);
    const float* logits = a.logits + static_cast<u64>(blockIdx.x) * a.vocabulary;
    if (threadIdx.x == 0) {
        const u32 asked = a.asked[blockIdx.x], token = asked == NOBODY ? a.chosen[blockIdx.x] : asked;
        a.own[blockIdx.x] = token < a.vocabulary ? logits[token] : -INFINITY;
    }
    // Rank as one number: the key, then the id. The next one is the least that is greater.
    u64 last = 0;
    const u32 count = min(min(a.tops[blockIdx.x], a.room), a.vocabulary);
    for (u32 at = 0; at < count; at++) {
        u64 least = ~0ull;
        for (u32 id = threadIdx.x; id < a.vocabulary; id += CHOOSE_THREADS) {
            const u64 rank = static_cast<u64>(rank_key(logits[id])) << 32 | id;
            if ((at == 0 || rank > last) && rank < least) least = rank;
        }
        for (u32 by = WARP / 2; by > 0; by /= 2) least = min(least, __shfl_xor_sync(EVERY_LANE, least, by));
        if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = least;
        __syncthreads();
        for (u32 warp = 0; warp < CHOOSE_THREADS / WARP; warp++) least = min(least, room[warp]);
        __syncthreads();
        last = least;
        if (threadIdx.x == 0) {
            a.top_ids[blockIdx.x * a.room + at] = static_cast<u32>(least);
            a.top_logits[blockIdx.x * a.room + at] = logit_of(static_cast<u32>(least >> 32));
        }
    }
}
