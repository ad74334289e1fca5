// The step of decoder.h over a `Simd` type (packed_loops.h). Threads share the rows of every matrix
// and the heads of attention, and wait for each other six times a layer; what is small, such as
// norms, each computes for itself. Everything is float32.
#pragma once

#include <cmath>

#include "decoder.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bobot {
namespace {

// Some numbers that all threads see, and some of each thread's own.
struct DecoderBuffers {
    DecoderBuffers(const DecoderPlan& plan, const DecoderStep& step)
        : qkv(step.num_rows * plan.head_dim * (plan.num_heads + 2 * plan.num_kv_heads)),
          mixed(step.num_rows * plan.head_dim * plan.num_heads),
          hidden(step.num_rows * plan.intermediate_size) {}
    std::vector<float> qkv, mixed, hidden;
};

struct ThreadBuffers {
    std::vector<float> normed, row_scales, rows, scores;
};

struct Share {
    std::size_t first, end;
};

inline Share share_of(std::size_t count, int thread, int num_threads) {
    return {count * thread / num_threads, count * (thread + 1) / num_threads};
}

template <class Simd>
float dot_floats(const float* a, const float* b, std::size_t count) {
    auto even = Simd::zero(), odd = Simd::zero();
    std::size_t i = 0;
    for (; i + 2 * Simd::width <= count; i += 2 * Simd::width) {
        even = Simd::fma(Simd::load(a + i), Simd::load(b + i), even);
        odd = Simd::fma(Simd::load(a + i + Simd::width), Simd::load(b + i + Simd::width), odd);
    }
    float sum = Simd::sum(even) + Simd::sum(odd);
    for (; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

// e^x to 2e-7 of its size (Cephes' polynomial), in a form that compilers vectorize.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounded to an integer
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return (p * r * r + r + 1.0f) * power;
}

template <class Simd>
void rms_norm(const float* x, const float* weight, std::size_t count, float eps, float* out) {
    const float mean = dot_floats<Simd>(x, x, count) / static_cast<float>(count);
    const float scale = 1.0f / std::sqrt(mean + eps);
    for (std::size_t i = 0; i < count; ++i) out[i] = x[i] * scale * weight[i];
}

inline void rotate(float* head, const float* cos, const float* sin, std::size_t half) {
    for (std::size_t i = 0; i < half; ++i) {
        const float first = head[i], second = head[i + half];
        head[i] = first * cos[i] - second * sin[i];
        head[i + half] = second * cos[i] + first * sin[i];
    }
}

// softmax in place; returns nothing but weights that sum to 1.
inline void softmax(float* scores, std::size_t count) {
    float largest = scores[0];
    for (std::size_t i = 1; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
    for (std::size_t i = 0; i < count; ++i) scores[i] = exponential(scores[i] - largest);
    float total = 0;
    for (std::size_t i = 0; i < count; ++i) total += scores[i];
    for (std::size_t i = 0; i < count; ++i) scores[i] /= total;
}

// out = sum over s of weights[s] * the s-th value; four registers of it at a time.
template <class Simd>
void mix(const float* weights, const float* values, const std::int64_t* slots, std::size_t count,
         std::size_t stride, std::size_t size, float* out) {
    constexpr std::size_t kWidth = Simd::width, kStep = 4 * kWidth;
    std::size_t i = 0;
    for (; i + kStep <= size; i += kStep) {
        typename Simd::Vector sums[4] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
        for (std::size_t s = 0; s < count; ++s) {
            const float* value = values + slots[s] * stride + i;
            for (std::size_t j = 0; j < 4; ++j)
                sums[j] += weights[s] * Simd::load(value + j * kWidth);
        }
        std::memcpy(out + i, sums, sizeof sums);
    }
    for (; i < size; ++i) {
        float sum = 0;
        for (std::size_t s = 0; s < count; ++s) sum += weights[s] * values[slots[s] * stride + i];
        out[i] = sum;
    }
}

// All query heads of one key head, for one row: its group of heads reads each key once.
template <class Simd>
void attend(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
            std::size_t m, std::size_t kv_head, const float* q, float* out,
            std::vector<float>& scores) {
    const std::size_t h = plan.head_dim, group = plan.num_heads / plan.num_kv_heads;
    const std::size_t length = static_cast<std::size_t>(step.lengths[m]);
    const std::size_t start = plan.window && length > plan.window ? length - plan.window : 0;
    const std::size_t count = length - start, stride = plan.num_kv_heads * h;
    const std::int64_t* slots = step.key_slots + step.first_keys[m] + start;
    scores.resize(group * count);
    for (std::size_t s = 0; s < count; ++s) {
        const float* key = layer.keys + slots[s] * stride + kv_head * h;
        for (std::size_t g = 0; g < group; ++g)
            scores[g * count + s] = dot_floats<Simd>(q + g * h, key, h) * plan.scale;
    }
    for (std::size_t g = 0; g < group; ++g) softmax(scores.data() + g * count, count);
    for (std::size_t g = 0; g < group; ++g)
        mix<Simd>(scores.data() + g * count, layer.values + kv_head * h, slots, count, stride, h,
                  out + g * h);
}

template <class Simd>
void decode_layer(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                  DecoderBuffers& shared, ThreadBuffers& own, int thread, int num_threads) {
    const std::size_t rows = step.num_rows, d = plan.hidden_size, h = plan.head_dim;
    const std::size_t q_size = plan.num_heads * h, kv_size = plan.num_kv_heads * h;
    const std::size_t qkv_size = q_size + 2 * kv_size, f = plan.intermediate_size;
    float *normed = own.normed.data(), *row_scales = own.row_scales.data();

    for (std::size_t m = 0; m < rows; ++m)
        rms_norm<Simd>(step.x + m * d, layer.attention_norm, d, plan.eps, normed + m * d);
    const Share outputs = share_of(qkv_size, thread, num_threads);
    for (std::size_t n = outputs.first; n < outputs.end; ++n) {
        const bool is_q = n < q_size, is_k = !is_q && n < q_size + kv_size;
        const PackedRows& weight = is_q ? layer.q : is_k ? layer.k : layer.v;
        const std::size_t row = is_q ? n : is_k ? n - q_size : n - q_size - kv_size;
        dot_row(weight, row, row_scales, normed, rows, shared.qkv.data() + n, qkv_size);
    }
#pragma omp barrier
    // Every key is written before any is read: rows may belong to one sequence.
    const Share heads = share_of(rows * plan.num_kv_heads, thread, num_threads);
    for (std::size_t task = heads.first; task < heads.end; ++task) {
        const std::size_t m = task / plan.num_kv_heads, head = task % plan.num_kv_heads;
        const float *cos = step.cos + m * (h / 2), *sin = step.sin + m * (h / 2);
        float* qkv = shared.qkv.data() + m * qkv_size;
        const std::size_t group = plan.num_heads / plan.num_kv_heads;
        for (std::size_t g = 0; g < group; ++g)
            rotate(qkv + (head * group + g) * h, cos, sin, h / 2);
        rotate(qkv + q_size + head * h, cos, sin, h / 2);
        const std::int64_t slot = step.key_slots[step.first_keys[m] + step.lengths[m] - 1];
        std::memcpy(layer.keys + slot * kv_size + head * h, qkv + q_size + head * h, 4 * h);
        std::memcpy(layer.values + slot * kv_size + head * h,
                    qkv + q_size + kv_size + head * h, 4 * h);
    }
#pragma omp barrier
    for (std::size_t task = heads.first; task < heads.end; ++task) {
        const std::size_t m = task / plan.num_kv_heads, head = task % plan.num_kv_heads;
        const std::size_t first = head * (plan.num_heads / plan.num_kv_heads) * h;
        attend<Simd>(plan, layer, step, m, head, shared.qkv.data() + m * qkv_size + first,
                     shared.mixed.data() + m * q_size + first, own.scores);
    }
#pragma omp barrier
    const Share hidden = share_of(d, thread, num_threads);
    float* sums = own.rows.data();
    for (std::size_t n = hidden.first; n < hidden.end; ++n) {
        dot_row(layer.o, n, row_scales, shared.mixed.data(), rows, sums, 1);
        for (std::size_t m = 0; m < rows; ++m) step.x[m * d + n] += sums[m];
    }
#pragma omp barrier
    for (std::size_t m = 0; m < rows; ++m)
        rms_norm<Simd>(step.x + m * d, layer.mlp_norm, d, plan.eps, normed + m * d);
    const Share inner = share_of(f, thread, num_threads);
    for (std::size_t n = inner.first; n < inner.end; ++n) {
        float* ups = sums + rows * (n - inner.first);
        dot_row(layer.up, n, row_scales, normed, rows, ups, 1);
        dot_row(layer.gate, n, row_scales, normed, rows, shared.hidden.data() + n, f);
    }
    for (std::size_t m = 0; m < rows; ++m) {
        float* __restrict gates = shared.hidden.data() + m * f;
        for (std::size_t n = inner.first; n < inner.end; ++n)
            gates[n] *= sums[rows * (n - inner.first) + m] / (1.0f + exponential(-gates[n]));
    }
#pragma omp barrier
    for (std::size_t n = hidden.first; n < hidden.end; ++n) {
        dot_row(layer.down, n, row_scales, shared.hidden.data(), rows, sums, 1);
        for (std::size_t m = 0; m < rows; ++m) step.x[m * d + n] += sums[m];
    }
#pragma omp barrier
}

template <class Simd>
void decode(const DecoderPlan& plan, const DecoderStep& step) {
    DecoderBuffers shared(plan, step);
    std::size_t most_scales = 0;
    for (const DecoderLayer& layer : plan.layers)
        for (const PackedRows* weight : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate,
                                         &layer.up, &layer.down})
            most_scales = weight->scales.per_row > most_scales ? weight->scales.per_row
                                                               : most_scales;
#pragma omp parallel num_threads(plan.num_threads)
    {
        int thread = 0, num_threads = 1;
#ifdef _OPENMP
        thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
#endif
        ThreadBuffers own;
        own.normed.resize(step.num_rows * plan.hidden_size);
        own.row_scales.resize(most_scales);
        own.rows.resize(step.num_rows * (plan.intermediate_size / num_threads + 2));
        for (const DecoderLayer& layer : plan.layers)
            decode_layer<Simd>(plan, layer, step, shared, own, thread, num_threads);
        const Share last = share_of(step.num_rows, thread, num_threads);
        for (std::size_t m = last.first; m < last.end; ++m) {
            float* x = step.x + m * plan.hidden_size;
            rms_norm<Simd>(x, plan.norm, plan.hidden_size, plan.eps, x);
        }
    }
}

}  // namespace
}  // namespace bobot
