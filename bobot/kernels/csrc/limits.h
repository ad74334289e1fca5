// What this machine can do at most: bytes read from memory, and multiply-adds of each instruction
// set, from registers. The figures of a model are compared with these. Plain data, so that code of
// every instruction set may include it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

// Numbers to multiply. Random and never zero: with zeros a processor draws less power and runs
// faster.
struct LoopData {
    alignas(64) float floats[1024];           // of both signs, from 0.5 to 2
    alignas(64) std::uint16_t bfloats[2048];  // the same
    alignas(64) std::uint8_t bytes[4096];
};

// One kind of multiply-add, as many at once as the processor takes.
struct OperationLoop {
    const char* name;   // instruction set and type of what is multiplied
    double operations;  // of one round in one thread; a multiply-add is two
    // A number that depends on every product, so that none is left out.
    float (*run)(std::size_t num_rounds, const LoopData& data);
};

extern const OperationLoop kPortableFloat32, kAvx2Float32, kAvx2Int16, kAvx512Float32, kAvx512Bf16,
    kAvx512VnniInt16, kAvx512VnniInt8, kAmxBf16, kAmxInt8;

// Reads a buffer and gives a number that depends on all of it; `ahead`: bytes, 0 leaves prefetching
// to the processor.
using ReadLoop = std::uint64_t (*)(const std::uint8_t* from, std::size_t num_bytes,
                                   std::size_t ahead);

// In order, and at four places in turn.
struct ReadLoops {
    ReadLoop in_order, interleaved;
};

extern const ReadLoops kPortableReads, kAvx2Reads, kAvx512Reads;

struct UsableLoops {
    const OperationLoop* loops[9];
    std::size_t count;
};

// Those that this machine can run, the latest instruction set first.
UsableLoops usable_loops();

// Operations per second of all threads together: the best of some 40 tries of a few ms.
double operations_per_s(const OperationLoop& loop, int num_threads);

// Bytes read per second by all threads together, each reading its share of one buffer in order: the
// best of several ways to read ahead. num_bytes: so many that no cache holds them.
double read_bytes_per_s(std::size_t num_bytes, int num_threads);

}  // namespace bobot
