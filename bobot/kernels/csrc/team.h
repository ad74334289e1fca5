// Threads that share the work of a step: all of them pass the same phases, one after the other, and
// take the tasks of each phase as they become free.
#pragma once

#include <cstddef>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bobot {

// The part of [0, count) that is task `part` of `parts`, in whole units; the last unit may be
// shorter.
struct Share {
    std::size_t first, end;
    std::size_t size() const { return end - first; }
};

// How many tasks of a phase have been taken, of this phase and the next: 0 and 0 at first.
struct TaskCounters {
    std::size_t taken[2][8];  // each on a cache line of its own
};

namespace {

inline Share share_of(std::size_t count, std::size_t unit, std::size_t part, std::size_t parts) {
    const std::size_t units = (count + unit - 1) / unit;
    const std::size_t first = units * part / parts * unit, end = units * (part + 1) / parts * unit;
    return {first < count ? first : count, end < count ? end : count};
}

// One thread's view of the team; made inside a parallel region by every thread of it.
struct Team {
    int thread, num_threads;
    TaskCounters* counters;
    std::size_t phase = 0;

    // Calls task(0) to task(count - 1), each once by one of the threads, and returns when all are
    // done. Each thread begins with the task of its own number: where there are no more tasks than
    // threads, a thread computes the same part in every step and finds it in its cache.
    template <class Task>
    void run(std::size_t count, const Task& task) {
        std::size_t& taken = counters->taken[phase % 2][0];
        if (thread == 0) counters->taken[(phase + 1) % 2][0] = 0;  // nobody is there yet
        ++phase;
        const auto num = static_cast<std::size_t>(num_threads);
        for (std::size_t i = static_cast<std::size_t>(thread); i < count;) {
            task(i);
            if (count <= num) break;
#pragma omp atomic capture
            i = taken++;
            i += num;
        }
        wait();
    }

    // Until all threads are here.
    void wait() const {
#pragma omp barrier
    }
};

}  // namespace
}  // namespace bobot
