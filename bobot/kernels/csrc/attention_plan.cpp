#include "attention_plan.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace bobot {
namespace {

constexpr std::size_t kNoPartial = static_cast<std::size_t>(-1);
constexpr std::size_t kRowFloats = 144 * 1024;  // queries and sums of a task: 576 KiB
constexpr std::size_t kTasksPerThread = 4;     // threads end at about the same time

std::size_t group_of(const AttentionShape& shape) { return shape.num_heads / shape.num_kv_heads; }

bool is_streamed(const AttentionShape& shape, const AttentionSpan& span) {
    return span.num_queries * group_of(shape) <= kMaxStreamedRows &&
           shape.head_dim % kAttentionPad == 0 && shape.v_head_dim % kAttentionPad == 0;
}

// Rows of a task of tiles: whole queries where they fit.
std::size_t rows_per_task(const AttentionShape& shape) {
    const std::size_t fit = kRowFloats / (padded(shape.head_dim) + padded(shape.v_head_dim));
    const std::size_t most = std::clamp<std::size_t>(fit, 8, kMaxTaskRows);
    const std::size_t group = group_of(shape);
    return group <= most ? most / group * group : most;
}

// Reading keys costs more than computing with them when rows are few.
double cost(const AttentionTask& task) {
    const double rows = static_cast<double>(std::max<std::size_t>(task.num_rows, 16));
    return rows * static_cast<double>(task.num_heads * (task.end_key - task.first_key));
}

std::size_t scratch_of(const AttentionShape& shape, const AttentionTask& task) {
    const std::size_t rows = task.num_rows * task.num_heads, h = padded(shape.head_dim);
    const std::size_t size = (rows + kAttentionPad - 1) * h + sums_size(rows, shape.v_head_dim) +
                             4 * kAttentionPad;
    if (task.is_streamed) return size + rows * (kTileKeys + 1);
    return size + kTileKeys * (h + padded(shape.v_head_dim) + kMaxWeighedRows);
}

}  // namespace

void AttentionSchedule::Free::operator()(void* memory) const { std::free(memory); }

AttentionSchedule::AttentionSchedule(const AttentionShape& shape, std::size_t block_size,
                                     std::vector<AttentionSpan> spans, int num_threads)
    : num_threads_(num_threads), spans_(std::move(spans)) {
    plan_ = {};
    plan_.shape = shape;
    plan_.block_size = block_size;
    for (std::size_t s = 0; s < spans_.size(); ++s) add_span(s);
    double total = 0;
    for (const AttentionTask& task : tasks_) total += cost(task);
    const std::vector<AttentionTask> whole = std::move(tasks_);
    tasks_.clear();
    for (const AttentionTask& task : whole)
        split(task, total / static_cast<double>(num_threads * kTasksPerThread));
    allocate();
}

// Tasks over all keys that their rows see, the long ones of a head first.
void AttentionSchedule::add_span(std::size_t number) {
    const AttentionShape& shape = plan_.shape;
    const AttentionSpan& span = spans_[number];
    const std::size_t group = group_of(shape), rows = span.num_queries * group;
    const bool streamed = is_streamed(shape, span);
    const std::size_t heads = rows <= kFewRows ? shape.num_kv_heads : 1;
    const std::size_t most = streamed ? rows : rows_per_task(shape);
    for (std::size_t head = 0; head < shape.num_kv_heads; head += heads)
        for (std::size_t block = (rows + most - 1) / most; block-- > 0;) {
            AttentionTask task{};
            task.span = number;
            task.first_head = head;
            task.num_heads = heads;
            task.first_row = block * most;
            task.num_rows = std::min(most, rows - task.first_row);
            const std::size_t first = span.first_position + task.first_row / group;
            if (shape.window && first + 1 > shape.window) task.first_key = first + 1 - shape.window;
            task.end_key =
                span.first_position + (task.first_row + task.num_rows - 1) / group + 1;
            task.is_streamed = streamed;
            tasks_.push_back(task);
        }
}

// In parts of whole tiles where a task is a large share of the work.
void AttentionSchedule::split(AttentionTask task, double cost_of_task) {
    const std::size_t keys = task.end_key - task.first_key;
    const std::size_t fewest = task.is_streamed ? kTileKeys : 4 * kTileKeys;
    std::size_t parts = static_cast<std::size_t>(cost(task) / cost_of_task + 0.5);
    parts = num_threads_ == 1 ? 1 : std::min(parts, keys / fewest);
    if (parts <= 1) {
        partials_.push_back(kNoPartial);
        tasks_.push_back(task);
        return;
    }
    const std::size_t tiles = (keys + kTileKeys - 1) / kTileKeys, end = task.end_key;
    const std::size_t first = task.first_key;
    merges_.push_back({tasks_.size(), parts});
    for (std::size_t part = 0; part < parts; ++part) {
        task.first_key = first + tiles * part / parts * kTileKeys;
        task.end_key = std::min(end, first + tiles * (part + 1) / parts * kTileKeys);
        partials_.push_back(partial_size_);
        partial_size_ +=
            padded(sums_size(task.num_rows * task.num_heads, plan_.shape.v_head_dim));
        tasks_.push_back(task);
    }
}

void AttentionSchedule::allocate() {
    std::size_t scratch = 0;
    for (const AttentionTask& task : tasks_)
        scratch = std::max(scratch, padded(scratch_of(plan_.shape, task)));
    const std::size_t all = partial_size_ + scratch * static_cast<std::size_t>(num_threads_);
    memory_.reset(static_cast<float*>(std::aligned_alloc(64, std::max<std::size_t>(64, 4 * all))));
    if (!memory_) throw std::bad_alloc();
    for (std::size_t i = 0; i < tasks_.size(); ++i)
        tasks_[i].partial = partials_[i] == kNoPartial ? nullptr : memory_.get() + partials_[i];
    plan_.num_tasks = tasks_.size();
    plan_.num_merges = merges_.size();
    plan_.scratch_per_thread = scratch;
    plan_.spans = spans_.data();
    plan_.tasks = tasks_.data();
    plan_.merges = merges_.data();
    plan_.scratch = memory_.get() + partial_size_;
    plan_.next_task = &next_task_;
}

}  // namespace bobot
