// Sixteen lanes in one register: AVX-512 F, BW, VL, DQ with VNNI.
#pragma once

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct Bytes {  // 4 bytes a lane
  __m512i v;
};

static AQUILA_INLINE F load(const float* p) { return {_mm512_loadu_ps(p)}; }
static AQUILA_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
static AQUILA_INLINE F set(float a) { return {_mm512_set1_ps(a)}; }
static AQUILA_INLINE F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
static AQUILA_INLINE F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
static AQUILA_INLINE F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
static AQUILA_INLINE F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
static AQUILA_INLINE F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static AQUILA_INLINE F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
static AQUILA_INLINE F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
static AQUILA_INLINE F absolute(F a) { return {_mm512_abs_ps(a.v)}; }
static AQUILA_INLINE F round_even(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// where a < b (false for NaN): x, else y
static AQUILA_INLINE F where_less(F a, F b, F x, F y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
static AQUILA_INLINE bool any_nan(F a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q) != 0; }
static AQUILA_INLINE F first_lanes(F a, int n, F rest) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1), rest.v, a.v)};
}
// 2^n for whole n in -126 .. 127
static AQUILA_INLINE F power_of_two(F n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
static AQUILA_INLINE float sum(F a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  q = _mm_add_ss(q, _mm_movehdup_ps(q));
  return _mm_cvtss_f32(q);
}
static AQUILA_INLINE float largest(F a) { return _mm512_reduce_max_ps(a.v); }

static AQUILA_INLINE F load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static AQUILA_INLINE F load_bf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
static AQUILA_INLINE void store_f16(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static AQUILA_INLINE F load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// Rounded to int8; a is within -127 .. 127
static AQUILA_INLINE void store_i8(int8_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

static AQUILA_INLINE I set_int(int32_t a) { return {_mm512_set1_epi32(a)}; }
static AQUILA_INLINE F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }

static AQUILA_INLINE Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
static AQUILA_INLINE void store_bytes(uint8_t* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
static AQUILA_INLINE Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(0x0f))}; }
static AQUILA_INLINE Bytes high_nibbles(Bytes a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(0x0f))};
}
struct Codes {  // 4 signed codes, the same in every lane
  __m512i v;
};
static AQUILA_INLINE Codes four_codes(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return {_mm512_set1_epi32(word)};
}
// sum + the four products of a lane, unsigned weights times signed codes
static AQUILA_INLINE I dot(I sum, Bytes weights, Codes codes) { return {_mm512_dpbusd_epi32(sum.v, weights.v, codes.v)}; }

// Sums of a block of nibbles; other instruction sets keep them in 16 bits.
using NibbleSum = I;
static AQUILA_INLINE NibbleSum start_nibbles(int32_t zero) { return set_int(zero); }
static AQUILA_INLINE NibbleSum dot_nibbles(NibbleSum sum, Bytes nibbles, Codes codes) { return dot(sum, nibbles, codes); }
static AQUILA_INLINE I finish_nibbles(NibbleSum sum, int32_t) { return sum; }
