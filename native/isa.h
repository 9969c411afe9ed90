// One instruction set: its lanes, the kernels on them, and their table. AQUILA_ISA names it.
//
// Everything lies in a namespace of its own and is static: the linker must never take a function that was compiled with
// AVX-512 for one that an older processor runs.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>
#if defined(AQUILA_SIMD_AVX512) || defined(AQUILA_SIMD_AVX2)
#include <immintrin.h>
#elif defined(AQUILA_SIMD_NEON)
#include <arm_neon.h>
#endif

#define AQUILA_JOIN_(a, b) a##b
#define AQUILA_JOIN(a, b) AQUILA_JOIN_(a, b)
#define AQUILA_TEXT_(a) #a
#define AQUILA_TEXT(a) AQUILA_TEXT_(a)

namespace aquila {
namespace AQUILA_JOIN(isa_, AQUILA_ISA) {
namespace {

#if defined(AQUILA_SIMD_AVX512)
#include "simd_avx512.h"
#elif defined(AQUILA_SIMD_AVX2)
#include "simd_avx2.h"
#elif defined(AQUILA_SIMD_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

#include "elementwise.h"
#include "tiles.h"
#include "panel.h"
#include "matmul.h"
#include "attention.h"

const Kernels kTable = {AQUILA_TEXT(AQUILA_ISA), matmul, put_row, norm_factor, attend_chunk, merge, rotate, put_kv, take_row};

}  // namespace
}  // namespace AQUILA_JOIN(isa_, AQUILA_ISA)

const Kernels* AQUILA_JOIN(AQUILA_ISA, _kernels)() { return &AQUILA_JOIN(isa_, AQUILA_ISA)::kTable; }

}  // namespace aquila
