// Cuts the attention of a step into tasks that threads take one by one, and owns the memory they
// need. One plan serves all layers of a step that have the same shape.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"

namespace bobot {

class AttentionSchedule {
public:
    // The spans' block_starts must stay where they are for as long as the plan is used.
    AttentionSchedule(const AttentionShape& shape, std::size_t block_size,
                      std::vector<AttentionSpan> spans, int num_threads);
    const AttentionPlan& plan() const { return plan_; }
    int num_threads() const { return num_threads_; }

private:
    struct Free {
        void operator()(void* memory) const;
    };
    void add_span(std::size_t span);
    void split(AttentionTask task, double cost_of_task);
    void allocate();

    AttentionPlan plan_;
    int num_threads_;
    double cost_per_task_ = 0;
    std::size_t partial_size_ = 0, next_task_ = 0;
    std::vector<AttentionSpan> spans_;
    std::vector<AttentionTask> tasks_;
    std::vector<std::size_t> partials_;  // where a task's sums lie; tasks in order
    std::vector<AttentionMerge> merges_;
    std::unique_ptr<float, Free> memory_;
};

}  // namespace bobot
