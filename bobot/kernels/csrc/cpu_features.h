// Which instruction sets the kernels may use on this machine: the processor has them and the
// operating system saves their registers. Found by feature flags, never by model number (virtual
// machines mask it).
#pragma once

namespace bobot {

struct CpuFeatures {
    bool avx2;        // AVX2, FMA and F16C together
    bool avx512vnni;  // AVX-512 F, BW, DQ, VL and VNNI, with all of the above
    bool avx512bf16;  // AVX512-BF16, with all of the above
    bool amx;         // AMX tiles, bfloat16 and int8, permitted to this process; with all above
};

// Asked once: in a virtual machine CPUID leaves the guest, which takes microseconds. On a machine
// with AMX the first call also asks Linux for the tile registers, for all threads started before or
// after.
const CpuFeatures& cpu_features();

}  // namespace bobot
