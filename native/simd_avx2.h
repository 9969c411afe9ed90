// Sixteen lanes in two registers: AVX2, FMA and F16C.
#pragma once

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct Bytes {
  __m256i a, b;
};
struct Codes {
  __m256i v;
};

static AQUILA_INLINE F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static AQUILA_INLINE void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static AQUILA_INLINE F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static AQUILA_INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static AQUILA_INLINE F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static AQUILA_INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static AQUILA_INLINE F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static AQUILA_INLINE F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static AQUILA_INLINE F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static AQUILA_INLINE F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static AQUILA_INLINE F absolute(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
static AQUILA_INLINE F round_even(F x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static AQUILA_INLINE F where_less(F a, F b, F x, F y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}
static AQUILA_INLINE bool any_nan(F x) {
  const __m256 found = _mm256_or_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
  return _mm256_movemask_ps(found) != 0;
}
static AQUILA_INLINE F first_lanes(F x, int n, F rest) {
  const __m256i count = _mm256_set1_epi32(n);
  const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
  return {_mm256_blendv_ps(rest.a, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, low))),
          _mm256_blendv_ps(rest.b, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, high)))};
}
static AQUILA_INLINE __m256 power_of_two(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
static AQUILA_INLINE F power_of_two(F n) { return {power_of_two(n.a), power_of_two(n.b)}; }
static AQUILA_INLINE float sum(F x) {
  const __m256 h = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  q = _mm_add_ss(q, _mm_movehdup_ps(q));
  return _mm_cvtss_f32(q);
}
static AQUILA_INLINE float largest(F x) {
  const __m256 h = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  q = _mm_max_ss(q, _mm_movehdup_ps(q));
  return _mm_cvtss_f32(q);
}

static AQUILA_INLINE const __m128i* half_words(const uint16_t* p) { return reinterpret_cast<const __m128i*>(p); }
static AQUILA_INLINE F load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(half_words(p))), _mm256_cvtph_ps(_mm_loadu_si128(half_words(p) + 1))};
}
static AQUILA_INLINE __m256 widen_bf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
static AQUILA_INLINE F load_bf16(const uint16_t* p) {
  return {widen_bf16(_mm_loadu_si128(half_words(p))), widen_bf16(_mm_loadu_si128(half_words(p) + 1))};
}
static AQUILA_INLINE void store_f16(uint16_t* p, F x) {
  __m128i* out = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(out, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(out + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static AQUILA_INLINE F load_i8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
static AQUILA_INLINE void store_i8(int8_t* p, F x) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

static AQUILA_INLINE I set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static AQUILA_INLINE F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

static AQUILA_INLINE Bytes load_bytes(const uint8_t* p) {
  const __m256i* in = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(in), _mm256_loadu_si256(in + 1)};
}
static AQUILA_INLINE void store_bytes(uint8_t* p, Bytes a) {
  __m256i* out = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(out, a.a);
  _mm256_storeu_si256(out + 1, a.b);
}
static AQUILA_INLINE Bytes low_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(0x0f);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
static AQUILA_INLINE Bytes high_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(0x0f);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), mask)};
}
static AQUILA_INLINE Codes four_codes(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return {_mm256_set1_epi32(word)};
}

// Full bytes times codes: vpmaddubsw would saturate, so even and odd bytes are widened to 16 bits first.
static AQUILA_INLINE __m256i dot(__m256i sum, __m256i weights, __m256i even_codes, __m256i odd_codes) {
  const __m256i even = _mm256_and_si256(weights, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(weights, 8);
  const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even, even_codes), _mm256_madd_epi16(odd, odd_codes));
  return _mm256_add_epi32(sum, products);
}
static AQUILA_INLINE I dot(I sum, Bytes weights, Codes codes) {
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(codes.v, 8), 8), odd = _mm256_srai_epi16(codes.v, 8);
  return {dot(sum.a, weights.a, even, odd), dot(sum.b, weights.b, even, odd)};
}

// Nibbles times codes fit 16 bits for a whole block: 16 products of at most 15 * 127 a lane, 30480 in all.
struct NibbleSum {
  __m256i a, b;
};
static AQUILA_INLINE NibbleSum start_nibbles(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static AQUILA_INLINE NibbleSum dot_nibbles(NibbleSum sum, Bytes nibbles, Codes codes) {
  return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(nibbles.a, codes.v)),
          _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(nibbles.b, codes.v))};
}
static AQUILA_INLINE I finish_nibbles(NibbleSum sum, int32_t zero) {
  const __m256i ones = _mm256_set1_epi16(1), start = _mm256_set1_epi32(zero);
  return {_mm256_add_epi32(start, _mm256_madd_epi16(sum.a, ones)),
          _mm256_add_epi32(start, _mm256_madd_epi16(sum.b, ones))};
}
