// Attention over a paged cache: plain data without any library, so that code of every instruction
// set may include it. Planned in attention_plan.cpp, computed in attention_loops.h, checked in
// bind_attention.cpp. What it computes is attention_reference in bobot/ops/attention.py.
//
// A group is the query heads that share one key head. For one key head of one span (a sequence's
// queries in this step), row r is query r / group and head r % group of the group.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

enum class Number { float32, bfloat16, float16 };

// Item (i, head, j) is data[i * row_stride + head * head_stride + j], strides counted in numbers.
template <class Bytes>
struct HeadArray {
    Bytes* data;
    Number number;
    std::ptrdiff_t row_stride, head_stride;
};

struct AttentionShape {
    std::size_t num_heads, num_kv_heads, head_dim, v_head_dim;
    std::size_t window;  // a query sees that many keys at most, itself included; 0: all
};

// Position p of the sequence lies in slot block_starts[p / block_size] + p % block_size.
struct AttentionSpan {
    std::size_t first_query;  // its first row of q and out
    std::size_t num_queries, first_position;
    const std::int64_t* block_starts;
};

// Some rows of some key heads of a span over some keys. What it adds up for a row of a head lies
// side by side with the other rows of that head.
struct AttentionTask {
    std::size_t span, first_head, num_heads, first_row, num_rows, first_key, end_key;
    bool is_streamed;  // few rows: keys and values are read in place, once
    float* partial;    // its sums, where several tasks share the keys of these rows; else null
};

// Consecutive tasks that differ in their keys alone.
struct AttentionMerge {
    std::size_t first_task, num_tasks;
};

struct AttentionPlan {
    AttentionShape shape;
    std::size_t block_size, num_tasks, num_merges, scratch_per_thread;
    const AttentionSpan* spans;
    const AttentionTask* tasks;
    const AttentionMerge* merges;
    float* scratch;          // scratch_per_thread floats for each thread, on a 64-byte boundary
    std::size_t* next_task;  // 0 before and after a run
};

struct AttentionInput {
    HeadArray<const void> q, keys, values;
    HeadArray<void> out;
    float scale, softcap;        // no softcap: 0
    const float* sinks;          // (num_heads) or null
    const std::uint8_t* hidden;  // (slots) or null
};

// Keys that are computed together, and the most rows of a task: what belongs to one task stays in
// the second-level cache. Rows and columns are padded to kAttentionPad floats, and behind the last
// row of queries there is room for kAttentionPad - 1 more.
constexpr std::size_t kTileKeys = 64, kMaxTaskRows = 240, kMaxStreamedRows = 8, kAttentionPad = 16;
constexpr std::size_t kFewRows = 32;  // of a head: a task then reads slots with all their heads
constexpr std::size_t kMaxWeighedRows = 32;  // whose scores become weights together

inline constexpr std::size_t padded(std::size_t count) {
    return (count + kAttentionPad - 1) / kAttentionPad * kAttentionPad;
}

// Floats that the running sums of a task take: sums (rows, v_head_dim), largest and total (rows).
inline constexpr std::size_t sums_size(std::size_t num_rows, std::size_t v_head_dim) {
    return num_rows * padded(v_head_dim) + 2 * padded(num_rows);
}

}  // namespace bobot
