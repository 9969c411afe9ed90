// The kernels for AVX-512 with VNNI. The build compiles this file with the flags of that instruction set.
#include "types.h"

#if defined(__AVX512VNNI__)
#define AQUILA_SIMD_AVX512
#define AQUILA_ISA avx512
#include "isa.h"
#else
namespace aquila {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace aquila
#endif
