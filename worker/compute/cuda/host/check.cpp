// Every kernel against a plain computation in f64, on fresh random numbers and odd shapes; memory that is to be written
// begins as NaN. Built with AddressSanitizer. `check [SEED]` prints a line a kernel and the seed, and ends with 1 where
// one differs. Built with -DON_DEVICE, `check IMAGE [SEED]` does the same on a GPU.
#include <random>
#include <string>

#include "kernels.h"
#ifdef ON_DEVICE
#include "on_device.h"
#endif

namespace {

std::mt19937_64 chance;
int failures = 0;

float normal() { return std::normal_distribution<float>()(chance); }
u32 below(u32 end) { return static_cast<u32>(chance() % end); }
template <class T> T one_of(std::initializer_list<T> all) { return *(all.begin() + below(static_cast<u32>(all.size()))); }
const float NOTHING = std::nanf("");
u32 up(u32 number, u32 unit) { return (number + unit - 1) / unit * unit; }

template <class Arguments>
void launch(const std::string& name, host::Index grid, u32 threads, size_t shared, const Arguments& arguments) {
#ifdef ON_DEVICE
    on_device::launch(name.c_str(), grid, threads, shared, &arguments);
    return;
#endif
    if (!host::launch_named(name.c_str(), grid, threads, shared, &arguments, sizeof arguments, chance())) {
        fprintf(stderr, "no kernel %s with such arguments\n", name.c_str());
        exit(1);
    }
}

// How far numbers are from what they should be, beside the size of what was summed up.
struct Worst {
    double worst = 0;
    void take(double found, double expected, double size) {
        const double apart = std::abs(found - expected) / (size + 1e-6);
        if (!(apart <= worst)) worst = std::isnan(apart) ? 1e9 : apart;
    }
};

void say(const std::string& what, double worst, double bound) {
    const bool is_right = worst <= bound;
    printf("%-6s %-44s %.2e of %.0e\n", is_right ? "right" : "WRONG", what.c_str(), worst, bound);
    failures += !is_right;
}

struct Matrix {
    u32 outputs, inputs, stride;
    bool is_q8;
    std::vector<u16> bf16;
    std::vector<signed char> bytes;
    std::vector<u16> scales;
    std::vector<float> numbers;  // (outputs, inputs)

    Matrix(u32 outputs, u32 inputs, bool is_q8) : outputs(outputs), inputs(inputs), stride(up(inputs, INPUTS_UNIT)), is_q8(is_q8) {
        const u32 rows = up(outputs, 16);
        numbers.resize(static_cast<size_t>(outputs) * inputs);
        if (is_q8) {
            bytes.resize(static_cast<size_t>(rows) * stride), scales.resize(static_cast<size_t>(rows) * stride / Q8_NUMBERS);
        } else {
            bf16.resize(static_cast<size_t>(rows) * stride);
        }
        for (u32 row = 0; row < outputs; row++) {
            for (u32 at = 0; at < inputs; at++) {
                float& number = numbers[static_cast<size_t>(row) * inputs + at];
                const size_t place = static_cast<size_t>(row) * stride + at;
                if (!is_q8) {
                    bf16[place] = to_bf16(normal());
                    number = from_bf16(bf16[place]);
                    continue;
                }
                u16& scale = scales[place / Q8_NUMBERS];
                if (at % Q8_NUMBERS == 0) scale = static_cast<u16>(0x2000 + below(0x800));
                const int whole = static_cast<int>(below(255)) - 127;
                bytes[static_cast<size_t>(row) * stride + q8_place(at)] = static_cast<signed char>(whole);
                number = from_half(scale) * static_cast<float>(whole);
            }
        }
    }
    const void* data() const { return is_q8 ? static_cast<const void*>(bytes.data()) : bf16.data(); }
    const u16* scale_data() const { return is_q8 ? scales.data() : nullptr; }
};

void check_embed() {
    Worst worst;
    for (u32 width : {8u, 72u, 200u}) {
        for (bool is_q8 : {false, true}) {
            const Matrix table(50, width, is_q8);
            std::vector<u32> chosen = {7, 49}, tokens = {0, CHOSEN + 1, 13, CHOSEN};
            std::vector<float> stream(tokens.size() * width, NOTHING);
            launch("embed", {4, 1, 1}, 256, 0,
                   EmbedArgs{tokens.data(), chosen.data(), table.data(), table.scale_data(), stream.data(), width, table.stride});
            const u32 rows[] = {0, 49, 13, 7};
            for (u32 at = 0; at < stream.size(); at++) worst.take(stream[at], table.numbers[rows[at / width] * width + at % width], 1);
        }
    }
    say("embed", worst.worst, 0);
}

void check_norm() {
    Worst worst;
    for (u32 width : {8u, 72u, 1000u}) {
        const u32 stride = up(width, INPUTS_UNIT);
        std::vector<float> stream(5 * width), weight(width);
        for (float& number : stream) number = normal();
        for (float& number : weight) number = normal();
        for (std::vector<u32> picked : {std::vector<u32>{}, std::vector<u32>{4, 1}}) {
            const u32 rows = picked.empty() ? 5 : 2;
            std::vector<u16> out(rows * stride, 0xFFFF);
            std::vector<float> wide(rows * width, NOTHING);
            launch("normalize", {rows, 1, 1}, 256, 32,
                   NormArgs{stream.data(), picked.empty() ? nullptr : picked.data(), weight.data(), out.data(),
                            picked.empty() ? nullptr : wide.data(), width, stride, 1e-5f, 0});
            for (u32 row = 0; row < rows; row++) {
                const float* in = stream.data() + (picked.empty() ? row : picked[row]) * width;
                double squares = 0;
                for (u32 at = 0; at < width; at++) squares += double(in[at]) * in[at];
                for (u32 at = 0; at < stride; at++) {
                    const double expected = at < width ? in[at] / std::sqrt(squares / width + 1e-5) * weight[at] : 0;
                    worst.take(from_bf16(out[row * stride + at]), expected, std::abs(expected));
                    if (!picked.empty() && at < width) worst.take(wide[row * width + at], expected, 1e3 * std::abs(expected));
                }
            }
        }
    }
    say("normalize", worst.worst, 4e-3);
}

void check_turn() {
    Worst worst;
    std::vector<u32> positions = {0, 1, 17, 4095, 131071};
    std::vector<float> frequencies(33);
    for (u32 at = 0; at < 33; at++) frequencies[at] = std::pow(10000.0f, -float(at) / 33);
    std::vector<float> angles(5 * 66, NOTHING);
    launch("turn", {5, 1, 1}, 128, 0, TurnArgs{positions.data(), frequencies.data(), angles.data(), 33, 1.25f});
    for (u32 row = 0; row < 5; row++) {
        for (u32 at = 0; at < 33; at++) {
            const double angle = static_cast<float>(positions[row]) * frequencies[at];
            worst.take(angles[row * 66 + at], std::cos(angle) * 1.25, 1);
            worst.take(angles[row * 66 + 33 + at], std::sin(angle) * 1.25, 1);
        }
    }
    say("turn", worst.worst, 3e-7);
}

void check_rotate() {
    Worst worst;
    for (int round = 0; round < 8; round++) {
        const u32 dim = one_of({8u, 16u, 24u, 64u, 80u, 128u}), room = dim <= 32 ? 32 : dim <= 64 ? 64 : 128;
        const u32 kv_heads = 1 + below(3), heads = kv_heads * (1 + below(4)), rows = 5, all = heads + 2 * kv_heads, blocks = 3;
        const bool has_norms = round % 2, are_neighbours = round / 2 % 2;
        std::vector<float> projected(rows * all * dim), angles(rows * dim), query_norm(dim), key_norm(dim);
        for (auto* numbers : {&projected, &angles, &query_norm, &key_norm}) for (float& number : *numbers) number = normal();
        std::vector<u32> slots = {17, NOBODY, 3, 47, 0};
        std::vector<u16> queries(rows * heads * room, 0xFFFF), keys(blocks * kv_heads * 16 * room, 0xFFFF), values = keys;
        launch("rotate", {rows, (all + 3) / 4, 1}, 128, 0,
               RotateArgs{projected.data(), angles.data(), slots.data(), has_norms ? query_norm.data() : nullptr,
                          has_norms ? key_norm.data() : nullptr, queries.data(), keys.data(), values.data(), heads, kv_heads, dim, room,
                          1e-5f, 1e-6f, are_neighbours, 0});
        std::vector<u16> expected_keys(keys.size(), 0xFFFF), expected_values = expected_keys;
        for (u32 row = 0; row < rows; row++) {
            for (u32 head = 0; head < all; head++) {
                const float* in = projected.data() + (row * all + head) * dim;
                const bool is_query = head < heads, is_value = head >= heads + kv_heads;
                std::vector<double> numbers(dim);
                double squares = 0;
                for (u32 at = 0; at < dim; at++) {
                    const u32 from = are_neighbours && !is_value ? (at < dim / 2 ? 2 * at : 2 * (at - dim / 2) + 1) : at;
                    numbers[at] = in[from];
                    squares += numbers[at] * numbers[at];
                }
                if (has_norms && !is_value) {
                    const double scale = 1 / std::sqrt(squares / dim + (is_query ? 1e-5 : 1e-6));
                    for (u32 at = 0; at < dim; at++) numbers[at] *= scale * (is_query ? query_norm : key_norm)[at];
                }
                if (!is_value) {
                    for (u32 at = 0; at < dim / 2; at++) {
                        const double cosine = angles[row * dim + at], sine = angles[row * dim + dim / 2 + at];
                        const double x = numbers[at], y = numbers[at + dim / 2];
                        numbers[at] = x * cosine - y * sine, numbers[at + dim / 2] = y * cosine + x * sine;
                    }
                }
                u16* found = queries.data() + (row * heads + head) * room;
                if (!is_query) {
                    if (slots[row] == NOBODY) continue;
                    const u32 kv_head = (head - heads) % kv_heads;
                    const size_t place = ((slots[row] / 16 * kv_heads + kv_head) * 16 + slots[row] % 16) * room;
                    found = (is_value ? values : keys).data() + place;
                    auto& expected = is_value ? expected_values : expected_keys;
                    std::copy(found, found + room, expected.begin() + place);
                }
                for (u32 at = 0; at < room; at++) {
                    worst.take(from_bf16(found[at]), at < dim ? numbers[at] : 0, at < dim ? 1 + std::abs(numbers[at]) : 0);
                }
            }
        }
        // Nothing else was written.
        if (keys != expected_keys || values != expected_values) worst.worst = 1e9;
    }
    say("rotate", worst.worst, 5e-3);
}

void check_product(const std::string& name, bool is_q8, u32 rows_max, double bound) {
    Worst worst;
    const bool is_narrow = name.rfind("narrow", 0) == 0;
    for (u32 round = 0; round < 6; round++) {
        const u32 then = round % 3, rows = 1 + below(rows_max);
        const u32 outputs = then == GATED ? 16 * (1 + below(9)) : 1 + below(150), inputs = 8 * (1 + below(40));
        const Matrix matrix(outputs, inputs, is_q8);
        std::vector<u16> x(rows * matrix.stride, 0);
        std::vector<float> bias(outputs);
        for (float& number : bias) number = normal();
        for (u32 row = 0; row < rows; row++) for (u32 at = 0; at < inputs; at++) x[row * matrix.stride + at] = to_bf16(normal());
        const u32 out_stride = then == GATED ? outputs / 2 + 8 : outputs + 3;
        std::vector<float> before(rows * out_stride, NOTHING), out;
        if (then == ADD) for (float& number : before) number = normal();
        out = before;
        std::vector<u16> gated(rows * out_stride, 0xFFFF);
        const bool has_bias = round >= 3;
        const ProductArgs arguments{matrix.data(), matrix.scale_data(), x.data(), has_bias ? bias.data() : nullptr,
                                    then == GATED ? static_cast<void*>(gated.data()) : out.data(), rows, outputs, matrix.stride,
                                    out_stride, then, 0};
        if (is_narrow) {
            const u32 tiles = static_cast<u32>(name.back() - '0'), down = (rows + 8 * tiles - 1) / (8 * tiles);
            launch(name, {(outputs + 15) / 16, down, 1}, 256, NARROW_WARPS * 8 * tiles * NARROW_STRIDE * 4, arguments);
        } else {
            const u32 side = name.find("128") == std::string::npos ? 64 : 128;
            launch(name, {(rows + side - 1) / side, (outputs + side - 1) / side, 1}, 256, STAGES * 2 * side * 128, arguments);
        }
        for (u32 row = 0; row < rows; row++) {
            auto sum = [&](u32 output, double* size) {
                double total = has_bias ? bias[output] : 0;
                for (u32 at = 0; at < inputs; at++) {
                    const double product = double(from_bf16(x[row * matrix.stride + at])) * matrix.numbers[output * inputs + at];
                    total += product, *size += product * product;
                }
                *size = std::sqrt(*size);
                return total;
            };
            for (u32 at = 0; at < out_stride; at++) {
                double size = 0, other_size = 0;
                if (then == GATED) {
                    const u16 found = gated[row * out_stride + at];
                    if (at >= outputs / 2) { worst.take(found, 0xFFFF, 0); continue; }
                    const double gate = sum(at / 8 * 16 + at % 8, &size), upper = sum(at / 8 * 16 + at % 8 + 8, &other_size);
                    const double expected = gate / (1 + std::exp(-gate)) * upper;
                    // The result is rounded to bf16.
                    worst.take(from_bf16(found), expected, 1e3 * std::abs(expected) + size * other_size);
                } else if (at >= outputs) {
                    const float untouched = before[row * out_stride + at];
                    if (memcmp(&out[row * out_stride + at], &untouched, 4) != 0) worst.worst = 1e9;
                } else {
                    const double expected = (then == ADD ? before[row * out_stride + at] : 0) + sum(at, &size);
                    worst.take(out[row * out_stride + at], expected, size);
                }
            }
        }
    }
    say(name, worst.worst, bound);
}

struct Sequence { u32 position, tokens; std::vector<u32> blocks; };

void check_attention(u32 room, bool is_one) {
    Worst worst;
    for (u32 round = 0; round < 4; round++) {
        const u32 dim = round == 3 ? room - 8 : room, group = one_of({1u, 2u, 3u, 4u, 7u, 16u}), kv_heads = 1 + below(2), heads = group * kv_heads;
        const u32 window = round % 2 ? 1 + below(100) : 0, stride = up(heads * dim, INPUTS_UNIT);
        std::vector<Sequence> sequences;
        u32 rows = 0, blocks = 0;
        for (u32 at = 0; at < 3; at++) {
            const u32 position = is_one && at == 2 ? 1100 + below(900) : below(150), tokens = is_one ? 1 : 1 + below(90);
            sequences.push_back({position, tokens, {}});
            rows += tokens, blocks += (position + tokens + 15) / 16;
        }
        // Blocks in no order; one is nobody's. All begin as NaN, which is what others' numbers must not do to us.
        std::vector<u32> order(blocks + 1), tables;
        for (u32 at = 0; at <= blocks; at++) order[at] = at;
        std::shuffle(order.begin(), order.end(), chance);
        std::vector<u16> keys((blocks + 1) * kv_heads * 16 * room, 0xFFFF), values = keys, queries(rows * heads * room, 0);
        for (u32 at = 0; at < queries.size(); at++) if (at % room < dim) queries[at] = to_bf16(normal());
        auto place = [&](const Sequence& sequence, u32 position, u32 kv_head) {
            return ((sequence.blocks[position / 16] * kv_heads + kv_head) * 16 + position % 16) * room;
        };
        std::vector<AttendTile> tiles;
        u32 row = 0;
        for (Sequence& sequence : sequences) {
            const u32 begin = static_cast<u32>(tables.size()), each = is_one ? 1 : 64 / group;
            for (u32 at = 0; at < (sequence.position + sequence.tokens + 15) / 16; at++) {
                sequence.blocks.push_back(order.back()), order.pop_back();
                tables.push_back(sequence.blocks.back());
            }
            for (u32 position = 0; position < sequence.position + sequence.tokens; position++) {
                for (u32 kv_head = 0; kv_head < kv_heads; kv_head++) {
                    for (u32 at = 0; at < room; at++) {
                        keys[place(sequence, position, kv_head) + at] = at < dim ? to_bf16(normal()) : 0;
                        values[place(sequence, position, kv_head) + at] = at < dim ? to_bf16(normal()) : 0;
                    }
                }
            }
            for (u32 at = 0; at < sequence.tokens; at += each) tiles.push_back({row + at, std::min(each, sequence.tokens - at), sequence.position + at, begin});
            row += sequence.tokens;
        }
        tiles.push_back({0, 0, 0, 0});
        const u32 count = static_cast<u32>(tiles.size());
        std::vector<u16> mixed(rows * stride, 0xFFFF);
        std::vector<float> partial(is_one ? count * heads * SPLITS * (room + 2) : 1, NOTHING);
        const float scale = 0.3f;
        const AttendArgs arguments{queries.data(), keys.data(), values.data(), tiles.data(), tables.data(), mixed.data(), partial.data(),
                                   heads, kv_heads, dim, stride, window, scale};
        const std::string name = std::to_string(room);
        if (is_one) {
            launch("attend_one_" + name, {count, kv_heads, SPLITS}, 128, std::max((16 + 4 * 64) * room * 2, 0u), arguments);
            launch("join_" + name, {count, heads, 1}, room, 0, arguments);
        } else {
            launch("attend_" + name, {count, kv_heads, 1}, 128, (64 + 4 * 64) * room * 2, arguments);
        }
        row = 0;
        for (const Sequence& sequence : sequences) {
            for (u32 token = 0; token < sequence.tokens; token++, row++) {
                for (u32 head = 0; head < heads; head++) {
                    const u32 own = sequence.position + token, first = window && own + 1 > window ? own + 1 - window : 0;
                    std::vector<double> weights, out(dim), size(dim);
                    double most = -1e30, sum = 0;
                    for (u32 position = first; position <= own; position++) {
                        double score = 0;
                        for (u32 at = 0; at < dim; at++) {
                            score += double(from_bf16(queries[(row * heads + head) * room + at])) * from_bf16(keys[place(sequence, position, head / group) + at]);
                        }
                        weights.push_back(score * scale);
                        most = std::max(most, weights.back());
                    }
                    for (double& weight : weights) weight = std::exp(weight - most), sum += weight;
                    for (u32 position = first; position <= own; position++) {
                        for (u32 at = 0; at < dim; at++) {
                            const double term = weights[position - first] / sum * from_bf16(values[place(sequence, position, head / group) + at]);
                            out[at] += term, size[at] += std::abs(term);
                        }
                    }
                    for (u32 at = 0; at < dim; at++) worst.take(from_bf16(mixed[row * stride + head * dim + at]), out[at], size[at]);
                }
            }
        }
        for (u32 at = 0; at < mixed.size(); at++) if (at % stride >= heads * dim && mixed[at] != 0xFFFF) worst.worst = 1e9;
    }
    say((is_one ? "attend_one_" : "attend_") + std::to_string(room) + (is_one ? ", join" : ""), worst.worst, 1e-2);
}

// What a full sort finds.
u32 choose_plainly(const std::vector<float>& logits, const Choice& choice) {
    const float largest = *std::max_element(logits.begin(), logits.end());
    std::vector<u32> order(logits.size());
    for (u32 at = 0; at < order.size(); at++) order[at] = at;
    std::sort(order.begin(), order.end(), [&](u32 a, u32 b) { return std::make_pair(rank_key(logits[a]), a) < std::make_pair(rank_key(logits[b]), b); });
    if (choice.temperature == 0) return static_cast<u32>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    const Scale scale = {choice.inverse, largest, choice.min_p};
    std::vector<double> sums;
    double goal = 0, sum = 0, all = 0;
    for (u32 begin = 0; begin < logits.size(); begin += CHUNK) sums.push_back(scale.sum_of(logits.data(), begin / CHUNK, static_cast<u32>(logits.size())));
    for (double own : sums) goal += own;
    const bool is_top_k = choice.top_k > 0 && choice.top_k < logits.size();
    if (!is_top_k && choice.top_p >= 1) {
        double left = choice.uniform * goal;
        u32 last = 0;
        for (u32 at = 0; at < logits.size(); at++) if (scale.weight(logits[at]) > 0) last = at;
        for (u32 chunk = 0; chunk < sums.size(); chunk++) {
            if (sums[chunk] == 0) continue;
            if (left >= sums[chunk]) { left -= sums[chunk]; continue; }
            for (u32 at = chunk * CHUNK; at < std::min<size_t>(logits.size(), chunk * CHUNK + CHUNK); at++) {
                const float weight = scale.weight(logits[at]);
                if (weight > 0) last = at;
                left -= weight;
                if (left < 0) return at;
            }
            return last;
        }
        return last;
    }
    if (is_top_k) {
        goal = 0;
        for (u32 at = 0; at < choice.top_k; at++) goal += scale.mass(logits[order[at]]);
    }
    for (u32 token : order) all += scale.mass(logits[token]);
    goal = std::min(goal * choice.top_p, all);
    auto reach = [&](auto enough) {
        sum = 0;
        for (u32 token : order) if (sum += scale.mass(logits[token]), enough(sum)) return token;
        return ~0u;
    };
    if (reach([&](double at) { return at > 0 && at >= goal; }) == ~0u) return order[0];
    const double whole = sum, draw = choice.uniform * whole;
    return reach([&](double at) { return at > draw || at >= whole; });
}

void check_choose() {
    u32 wrong = 0;
    for (u32 round = 0; round < 30; round++) {
        const u32 vocabulary = one_of({1u, 2u, 63u, 65u, 700u, 5001u}), rows = 3;
        std::vector<float> logits(rows * vocabulary);
        const float spread = one_of({0.0f, 0.01f, 3.0f, 30.0f});
        for (float& logit : logits) logit = spread * normal() * (below(3) ? 1.0f : 0.25f);
        // Equal ones, where the lowest id comes first.
        for (u32 at = 0; at < 20; at++) logits[below(rows * vocabulary)] = logits[below(rows * vocabulary)];
        std::vector<Choice> choices;
        for (u32 row = 0; row < rows; row++) {
            const float temperature = one_of({0.0f, 0.5f, 0.7f, 1.0f, 2.5f});
            choices.push_back({std::uniform_real_distribution<double>()(chance), 1.0 / temperature, temperature, one_of({1.0f, 0.9f, 0.3f, 1e-6f}),
                               one_of({0.0f, 0.0f, 0.1f}), one_of({0u, 0u, 1u, 5u, 300u}), 1, 0});
        }
        choices[2].is_wanted = round % 2;
        // All of a sum, as rounding may make of nearly all: it belongs to the last token that weighs anything.
        if (round % 3 == 0) choices[0] = {1.0, 1.0, 1.0f, 1.0f, 0.0f, 0, 1, 0};
        std::vector<u32> tokens(rows, 12345);
        std::vector<Found> found(rows, Found{0, NOTHING, 9});
        const u32 chunks = (vocabulary + CHUNK - 1) / CHUNK;
        if (round % 5 == 4) logits[vocabulary + below(vocabulary)] = one_of({NOTHING, INFINITY, -INFINITY});
        launch("choose", {rows, 1, 1}, CHOOSE_THREADS, sizeof(Desk) + chunks * 8, ChooseArgs{logits.data(), choices.data(), tokens.data(), found.data(), vocabulary, round % 2});
        for (u32 row = 0; row < rows; row++) {
            const std::vector<float> own(logits.begin() + row * vocabulary, logits.begin() + (row + 1) * vocabulary);
            const bool is_finite = std::all_of(own.begin(), own.end(), [](float logit) { return std::isfinite(logit); });
            const u32 expected = !choices[row].is_wanted ? 12345 : is_finite ? choose_plainly(own, choices[row]) : 0;
            wrong += tokens[row] != expected || found[row].is_finite != is_finite;
            if (!is_finite) continue;
            wrong += found[row].largest != *std::max_element(own.begin(), own.end());
            if (round % 2) {
                double sum = 0;
                for (float logit : own) sum += std::exp(double(logit) - found[row].largest);
                wrong += !(std::abs(found[row].sum / sum - 1) < 1e-5);
            }
        }
    }
    say("choose: tokens that differ", wrong, 0);
}

void check_score() {
    u32 wrong = 0;
    for (u32 vocabulary : {3u, 600u, 4000u}) {
        std::vector<float> logits(2 * vocabulary);
        for (float& logit : logits) logit = std::floor(normal() * 8);
        std::vector<u32> asked = {1, NOBODY}, chosen = {0, 2}, tops = {0, 7}, ids(2 * 8, 99);
        std::vector<float> own(2, NOTHING), top(2 * 8, NOTHING);
        launch("score", {2, 1, 1}, CHOOSE_THREADS, 16 * 8,
               ScoreArgs{logits.data(), asked.data(), chosen.data(), tops.data(), own.data(), ids.data(), top.data(), vocabulary, 8});
        wrong += own[0] != logits[1] || own[1] != logits[vocabulary + 2] || ids[0] != 99;
        std::vector<u32> order(vocabulary);
        for (u32 at = 0; at < vocabulary; at++) order[at] = at;
        std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return rank_key(logits[vocabulary + a]) < rank_key(logits[vocabulary + b]); });
        for (u32 at = 0; at < std::min(7u, vocabulary); at++) wrong += ids[8 + at] != order[at] || top[8 + at] != logits[vocabulary + order[at]];
        wrong += ids[15] != 99;
    }
    say("score: answers that differ", wrong, 0);
}

}  // namespace

int main(int count, char** words) {
#ifdef ON_DEVICE
    if (count < 2) {
        fprintf(stderr, "usage: check IMAGE [SEED]\n");
        return 2;
    }
    on_device::open(words[1]);
    count--, words++;
#endif
    const u64 seed = count > 1 ? strtoull(words[1], nullptr, 10) : std::random_device()();
    chance.seed(seed);
    printf("seed %llu\n", seed);
    check_embed();
    check_norm();
    check_turn();
    check_rotate();
    for (u32 tiles : {1, 2, 4}) {
        check_product("narrow_" + std::to_string(tiles), false, 8 * tiles + 5, 1e-5);
        check_product("narrow_q8_" + std::to_string(tiles), true, 8 * tiles + 5, 1e-5);
    }
    for (u32 side : {64, 128}) {
        check_product("tiled_" + std::to_string(side), false, side + 20, 1e-5);
        // Numbers of Q8_0 are rounded to bf16.
        check_product("tiled_q8_" + std::to_string(side), true, side + 20, 2e-2);
    }
    for (u32 room : {32, 64, 128, 256}) check_attention(room, false), check_attention(room, true);
    check_choose();
    check_score();
    return failures != 0;
}
