// The kernels for NEON with the dot-product instructions (ARMv8.2).
#include "types.h"

#if defined(__ARM_FEATURE_DOTPROD)
#define AQUILA_SIMD_NEON
#define AQUILA_ISA neon
#include "isa.h"
#else
namespace aquila {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace aquila
#endif
