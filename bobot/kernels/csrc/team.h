// Threads that share the work of a step: all of them pass the same phases, one after the other, and
// take the tasks of each phase as they become free.
#pragma once

#include <sched.h>

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

// Where threads wait for each other, zeros at first; each number on a cache line of its own.
struct Barrier {
    std::size_t arrived[8], round[8];
};

// How many tasks of a phase have been taken, of this phase and the next: 0 and 0 at first.
struct TaskCounters {
    std::size_t taken[2][8];  // each on a cache line of its own
    Barrier barrier;
};

namespace {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns when all threads have called it. OpenMP's barrier would do, but GCC's library lets threads
// sleep after a thousand looks where the process has more of them than there are cores, those of
// idle teams included (a model loaded in one thread and run in another), and to be woken takes
// longer than most phases of a step.
inline void wait_for_all(Barrier& barrier, int num_threads) {
    constexpr std::size_t kLooks = 1 << 12;  // before others may have the core
    const std::size_t round = __atomic_load_n(barrier.round, __ATOMIC_RELAXED);
    const std::size_t arrived = __atomic_add_fetch(barrier.arrived, 1, __ATOMIC_ACQ_REL);
    if (arrived == static_cast<std::size_t>(num_threads)) {
        __atomic_store_n(barrier.arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(barrier.round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (std::size_t i = 1; __atomic_load_n(barrier.round, __ATOMIC_ACQUIRE) == round; ++i) {
        pause();
        if (i % kLooks == 0) sched_yield();
    }
}

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
    void wait() const { wait_for_all(counters->barrier, num_threads); }
};

}  // namespace
}  // namespace bobot
