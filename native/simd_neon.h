// Sixteen lanes in four registers: NEON with the dot-product instructions (ARMv8.2).
#pragma once

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};
struct Bytes {
  uint8x16_t v[4];
};
struct Codes {
  int8x16_t v;
};

#define AQUILA_QUARTERS for (int i = 0; i < 4; ++i)

static AQUILA_INLINE F load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
static AQUILA_INLINE void store(float* p, F a) { AQUILA_QUARTERS vst1q_f32(p + 4 * i, a.v[i]); }
static AQUILA_INLINE F set(float a) {
  const float32x4_t x = vdupq_n_f32(a);
  return {{x, x, x, x}};
}
#define AQUILA_BINARY(name, instruction)                 \
  static AQUILA_INLINE F name(F a, F b) {                \
    AQUILA_QUARTERS a.v[i] = instruction(a.v[i], b.v[i]); \
    return a;                                            \
  }
AQUILA_BINARY(add, vaddq_f32)
AQUILA_BINARY(sub, vsubq_f32)
AQUILA_BINARY(mul, vmulq_f32)
AQUILA_BINARY(div, vdivq_f32)
#undef AQUILA_BINARY
// As on x86, the second operand where they cannot be compared
static AQUILA_INLINE F max(F a, F b) {
  AQUILA_QUARTERS a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
  return a;
}
static AQUILA_INLINE F min(F a, F b) {
  AQUILA_QUARTERS a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
  return a;
}
static AQUILA_INLINE F fma(F a, F b, F c) {
  AQUILA_QUARTERS c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
static AQUILA_INLINE F absolute(F a) {
  AQUILA_QUARTERS a.v[i] = vabsq_f32(a.v[i]);
  return a;
}
static AQUILA_INLINE F round_even(F a) {
  AQUILA_QUARTERS a.v[i] = vrndnq_f32(a.v[i]);
  return a;
}
static AQUILA_INLINE F where_less(F a, F b, F x, F y) {
  AQUILA_QUARTERS y.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), x.v[i], y.v[i]);
  return y;
}
static AQUILA_INLINE bool any_nan(F a) {
  uint32x4_t fine = vceqq_f32(a.v[0], a.v[0]);
  for (int i = 1; i < 4; ++i) fine = vandq_u32(fine, vceqq_f32(a.v[i], a.v[i]));
  return vminvq_u32(fine) == 0;
}
static AQUILA_INLINE F first_lanes(F a, int n, F rest) {
  const uint32_t places[4] = {0, 1, 2, 3};
  const int32x4_t place = vreinterpretq_s32_u32(vld1q_u32(places));
  AQUILA_QUARTERS a.v[i] = vbslq_f32(vcltq_s32(place, vdupq_n_s32(n - 4 * i)), a.v[i], rest.v[i]);
  return a;
}
static AQUILA_INLINE F power_of_two(F n) {
  AQUILA_QUARTERS n.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23));
  return n;
}
static AQUILA_INLINE float sum(F a) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3])));
}
static AQUILA_INLINE float largest(F a) {
  const F x = a;
  float lanes[16], top;
  store(lanes, x);
  top = lanes[0];
  for (int i = 1; i < 16; ++i) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

static AQUILA_INLINE F load_f16(const uint16_t* p) {
  F r;
  AQUILA_QUARTERS r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}
static AQUILA_INLINE F load_bf16(const uint16_t* p) {
  F r;
  AQUILA_QUARTERS r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return r;
}
static AQUILA_INLINE void store_f16(uint16_t* p, F a) {
  AQUILA_QUARTERS vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
static AQUILA_INLINE F load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
static AQUILA_INLINE void store_i8(int8_t* p, F a) {
  const int16x8_t low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v[0])), vqmovn_s32(vcvtnq_s32_f32(a.v[1])));
  const int16x8_t high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v[2])), vqmovn_s32(vcvtnq_s32_f32(a.v[3])));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

static AQUILA_INLINE I set_int(int32_t a) {
  const int32x4_t x = vdupq_n_s32(a);
  return {{x, x, x, x}};
}
static AQUILA_INLINE F to_float(I a) {
  F r;
  AQUILA_QUARTERS r.v[i] = vcvtq_f32_s32(a.v[i]);
  return r;
}

static AQUILA_INLINE Bytes load_bytes(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
static AQUILA_INLINE void store_bytes(uint8_t* p, Bytes a) {
  for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, a.v[i]);
}
static AQUILA_INLINE Bytes low_nibbles(Bytes a) {
  AQUILA_QUARTERS a.v[i] = vandq_u8(a.v[i], vdupq_n_u8(15));
  return a;
}
static AQUILA_INLINE Bytes high_nibbles(Bytes a) {
  AQUILA_QUARTERS a.v[i] = vshrq_n_u8(a.v[i], 4);
  return a;
}
static AQUILA_INLINE Codes four_codes(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(word))};
}
// Unsigned weights are w - 128 + 128: signed products, and 128 times the codes put back.
static AQUILA_INLINE I dot(I sum, Bytes weights, Codes codes) {
  const int8x16_t minus = vdupq_n_s8(-128);
  AQUILA_QUARTERS {
    const int8x16_t shifted = vreinterpretq_s8_u8(veorq_u8(weights.v[i], vdupq_n_u8(0x80)));
    sum.v[i] = vdotq_s32(sum.v[i], shifted, codes.v);
    sum.v[i] = vsubq_s32(sum.v[i], vdotq_s32(vdupq_n_s32(0), minus, codes.v));
  }
  return sum;
}

using NibbleSum = I;
static AQUILA_INLINE NibbleSum start_nibbles(int32_t zero) { return set_int(zero); }
static AQUILA_INLINE NibbleSum dot_nibbles(NibbleSum sum, Bytes nibbles, Codes codes) {
  AQUILA_QUARTERS sum.v[i] = vdotq_s32(sum.v[i], vreinterpretq_s8_u8(nibbles.v[i]), codes.v);
  return sum;
}
static AQUILA_INLINE I finish_nibbles(NibbleSum sum, int32_t) { return sum; }
