// Attention with running sums (arXiv:2205.14135) over a `Simd` type (packed_loops.h): scores exist
// for one tile of keys at a time, everything is summed in float32. Two ways, chosen in
// attention_plan.cpp: keys and values packed for many rows (attention_tiles.h; beside a cache of
// bfloat16 multiplied by a matrix unit where there is one, attention_unit.h), or read in place for
// few rows (attention_streams.h).
#pragma once

#include "attention_streams.h"
#include "attention_unit.h"
#include "team.h"

namespace bobot {
namespace {

template <class Simd, Number kNumber, bool kPairs = false>
void add_up(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task,
            float* scratch) {
    (task.is_streamed ? attend_streams<Simd, kNumber, kPairs>
                      : attend_tiles<Simd, kNumber, VectorProducts<Simd, kPairs>>)(plan, in, task,
                                                                                  scratch);
}

using AddUp = void (*)(const AttentionPlan&, const AttentionInput&, const AttentionTask&, float*);

template <class Simd>
AddUp add_up_of(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task) {
    using Vectors = typename UnitOf<Simd>::Vectors;
    if constexpr (UnitOf<Simd>::kExists)
        if (in.keys.number == Number::bfloat16 && !task.is_streamed)
            return attend_tiles<Vectors, Number::bfloat16,
                                UnitProducts<Vectors, typename UnitOf<Simd>::Unit>>;
    if constexpr (Vectors::has_dot_pairs)
        if (has_pairs<Vectors>(plan, in, task)) return add_up<Vectors, Number::bfloat16, true>;
    switch (in.keys.number) {
        case Number::float32: return add_up<Vectors, Number::float32>;
        case Number::bfloat16: return add_up<Vectors, Number::bfloat16>;
        case Number::float16: break;
    }
    return add_up<Vectors, Number::float16>;
}

template <class Simd>
void run_task(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task,
              float* scratch) {
    AttentionTask own = task;
    if (!own.partial) {
        own.partial = scratch;
        scratch += sums_size(task.num_rows * task.num_heads, plan.shape.v_head_dim);
    }
    add_up_of<Simd>(plan, in, task)(plan, in, own, scratch);
    if (task.partial) return;
    for (std::size_t i = 0; i < task.num_rows * task.num_heads; ++i)
        write_row<typename UnitOf<Simd>::Vectors>(plan, in, &own, 1, i);
}

// All of a step's attention for one layer. Called by every thread of a parallel region, which
// meets the barrier before it calls again and before it reads what others have written.
template <class Simd>
void attend_rows(const AttentionPlan& plan, const AttentionInput& in, int thread, int num_threads,
                 Barrier& barrier) {
    float* scratch = plan.scratch + plan.scratch_per_thread * thread;
    for (;;) {
        std::size_t task;
#pragma omp atomic capture
        task = (*plan.next_task)++;
        if (task >= plan.num_tasks) break;
        run_task<Simd>(plan, in, plan.tasks[task], scratch);
    }
    wait_for_all(barrier, num_threads);
    if (thread == 0) *plan.next_task = 0;
    for (std::size_t m = 0; m < plan.num_merges; ++m) {
        const AttentionMerge& merge = plan.merges[m];
        const AttentionTask* parts = plan.tasks + merge.first_task;
        const std::size_t num_rows = parts->num_rows * parts->num_heads;
        const std::size_t end = num_rows * (thread + 1) / num_threads;
        for (std::size_t i = num_rows * thread / num_threads; i < end; ++i)
            write_row<typename UnitOf<Simd>::Vectors>(plan, in, parts, merge.num_tasks, i);
    }
}

}  // namespace
}  // namespace bobot
