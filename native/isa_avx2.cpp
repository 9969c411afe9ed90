// The kernels for AVX2, FMA and F16C. The build compiles this file with the flags of that instruction set.
#include "types.h"

#if defined(__AVX2__)
#define AQUILA_SIMD_AVX2
#define AQUILA_ISA avx2
#include "isa.h"
#else
namespace aquila {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace aquila
#endif
