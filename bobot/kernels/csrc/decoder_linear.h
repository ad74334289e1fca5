// How a team of threads computes one linear layer of a step: its inputs block by block, its outputs
// column by column.
#pragma once

#include "decoder_adapters.h"

namespace bobot {
namespace {

// Bytes of the weights behind one output.
inline std::size_t bytes_of_output(const Weight& weight) {
    const Tiles& tiles = weight.tiles;
    if (!tiles.data) return weight.rows.row_bytes;
    return tiles.num_tiles * code_bytes(tiles.format->codes) / kPanel;
}

// Into how many tasks the columns of a layer are cut, in whole units: one for each thread where few
// rows wait for the memory; where many rows compute, so many that the weights of a task,
// `column_bytes` for each column, stay in the cache while the rows pass, and several for a thread.
inline std::size_t num_column_tasks(const DecoderStep& step, std::size_t columns, std::size_t unit,
                                    std::size_t column_bytes) {
    const auto threads = static_cast<std::size_t>(step.num_threads);
    const std::size_t units = (columns + unit - 1) / unit;
    if (step.num_rows <= kFewRows) return threads < units ? threads : units;
    std::size_t fitting = kCachedWeights / column_bytes / (2 * unit) * (2 * unit);
    fitting = fitting < 2 * unit ? 2 * unit : fitting > kMostColumns ? kMostColumns : fitting;
    const std::size_t tasks = (columns + fitting - 1) / fitting;
    return tasks > 4 * threads ? tasks : 4 * threads < units ? 4 * threads : units;
}

inline void add_bias(const float* bias, std::size_t rows, const Share& share, float* out,
                     std::size_t stride) {
    if (!bias) return;
    for (std::size_t m = 0; m < rows; ++m)
        for (std::size_t n = 0; n < share.size(); ++n) out[m * stride + n] += bias[share.first + n];
}

// The product of a linear layer, with its bias and what adapters add.
template <class Simd>
void product(const DecoderStep& step, const DecoderLinear& linear, const Inputs& x,
             std::size_t first, std::size_t count, const Share& share, float* out,
             std::size_t out_stride, const SharedBuffers& shared, const ThreadBuffers& own) {
    product<Simd>(linear.weight, x, first, count, share, out, out_stride, own.row_scales);
    add_bias(linear.bias, count, share, out, out_stride);
    add_changes<Simd>(step, linear, shared, first, count, share, out, out_stride);
}

// Calls each(first, count) for runs of kChunkRows rows.
template <class Each>
void for_chunks(std::size_t num_rows, const Each& each) {
    for (std::size_t first = 0; first < num_rows; first += kChunkRows)
        each(first, num_rows - first < kChunkRows ? num_rows - first : kChunkRows);
}

// The inputs of a layer that weights read as `rows` or as tiles, whose contents are still to be
// made with fill_block.
template <class Simd>
Inputs shared_inputs(const Readers& readers, const SharedBuffers& shared, float* rows,
                     std::size_t num_rows, std::size_t num_columns) {
    Inputs inputs{num_rows, num_columns, rows, {}};
    if (readers.has_tiles) inputs.lay_out_tiles<Simd>(readers, shared.tiled);
    return inputs;
}

// x_RD becomes its norm, in blocks of rows.
template <class Simd>
Inputs normalize(const DecoderPlan& plan, const DecoderStep& step, const float* weight,
                 const Readers& readers, const SharedBuffers& shared, Team& team) {
    const std::size_t d = plan.hidden_size, rows = step.num_rows;
    const Inputs normed =
        shared_inputs<Simd>(readers, shared, shared.normed_RD, rows, d);
    const std::size_t size = block_rows<Simd>(rows, readers.type);
    team.run((rows + size - 1) / size, [&](std::size_t b) {
        for (std::size_t m = b * size; m < (b + 1) * size && m < rows; ++m)
            rms_norm<Simd>(shared.x_RD + m * d, weight, d, plan.eps, shared.normed_RD + m * d);
        if (readers.has_tiles) fill_activations<Simd>(shared.normed_RD, normed.tiled, b, b + 1);
    });
    return normed;
}

// Some rows of the step, each with a weight; null for both: all rows as they are.
struct Rows {
    const std::size_t* numbers;
    const float* weights;
};

// sum_RD += linear(inputs), for a share of the outputs: matrix `index` of a stack.
template <class Simd>
void add_linear(const DecoderPlan& plan, const DecoderStep& step, const DecoderLinear& linear,
                std::size_t index, const Inputs& inputs, const Rows& rows, const Share& share,
                float* sum_RD, const SharedBuffers& shared, const ThreadBuffers& own) {
    const std::size_t d = plan.hidden_size, width = share.size();
    const Weight weight = matrix_of(linear.weight, index);
    const float* bias = linear.bias ? linear.bias + index * d : nullptr;
    for_chunks(inputs.num_rows, [&](std::size_t first, std::size_t count) {
        product<Simd>(weight, inputs, first, count, share, own.sums, width, own.row_scales);
        add_bias(bias, count, share, own.sums, width);
        add_changes<Simd>(step, linear, shared, first, count, share, own.sums, width);
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t m = rows.numbers ? rows.numbers[first + i] : first + i;
            const float factor = rows.weights ? rows.weights[first + i] : 1.0f;
            float* sum = sum_RD + m * d + share.first;
            const float* sums = own.sums + i * width;
            for (std::size_t n = 0; n < width; ++n) sum[n] += factor * sums[n];
        }
    });
}

// Where a branch of a layer adds up: right in x, or apart where a norm comes before.
inline float* sum_of_branch(const SharedBuffers& shared, const float* norm_after) {
    return norm_after ? shared.branch_RD : shared.x_RD;
}

// x_RD += the norm of a branch that was added up apart, whose place becomes zeros again.
template <class Simd>
void add_branch(const DecoderPlan& plan, const DecoderStep& step, const float* norm_after,
                const SharedBuffers& shared, Team& team) {
    if (!norm_after) return;
    const std::size_t d = plan.hidden_size;
    team.run(step.num_rows, [&](std::size_t m) {
        float *x = shared.x_RD + m * d, *branch = shared.branch_RD + m * d;
        rms_norm<Simd>(branch, norm_after, d, plan.eps, branch);
        for (std::size_t i = 0; i < d; ++i) x[i] += branch[i];
        std::memset(branch, 0, sizeof(float) * d);
    });
}

}  // namespace
}  // namespace bobot
