// Sixteen lanes as plain arrays: for every compiler and processor, and the check of the others.
#pragma once

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct Bytes {
  uint8_t v[64];
};

#define AQUILA_LANES for (int i = 0; i < 16; ++i)

static AQUILA_INLINE F load(const float* p) {
  F r;
  AQUILA_LANES r.v[i] = p[i];
  return r;
}
static AQUILA_INLINE void store(float* p, F a) { AQUILA_LANES p[i] = a.v[i]; }
static AQUILA_INLINE F set(float a) {
  F r;
  AQUILA_LANES r.v[i] = a;
  return r;
}
#define AQUILA_BINARY(name, expression)  \
  static AQUILA_INLINE F name(F a, F b) {       \
    F r;                                 \
    AQUILA_LANES r.v[i] = (expression);  \
    return r;                            \
  }
AQUILA_BINARY(add, a.v[i] + b.v[i])
AQUILA_BINARY(sub, a.v[i] - b.v[i])
AQUILA_BINARY(mul, a.v[i] * b.v[i])
AQUILA_BINARY(div, a.v[i] / b.v[i])
AQUILA_BINARY(max, a.v[i] > b.v[i] ? a.v[i] : b.v[i])
AQUILA_BINARY(min, a.v[i] < b.v[i] ? a.v[i] : b.v[i])
#undef AQUILA_BINARY
static AQUILA_INLINE F fma(F a, F b, F c) {
  F r;
  AQUILA_LANES r.v[i] = a.v[i] * b.v[i] + c.v[i];
  return r;
}
static AQUILA_INLINE F absolute(F a) {
  AQUILA_LANES a.v[i] = std::fabs(a.v[i]);
  return a;
}
static AQUILA_INLINE F round_even(F a) {
  AQUILA_LANES a.v[i] = std::nearbyint(a.v[i]);
  return a;
}
static AQUILA_INLINE F where_less(F a, F b, F x, F y) {
  AQUILA_LANES y.v[i] = a.v[i] < b.v[i] ? x.v[i] : y.v[i];
  return y;
}
static AQUILA_INLINE bool any_nan(F a) {
  bool found = false;
  AQUILA_LANES found |= a.v[i] != a.v[i];
  return found;
}
static AQUILA_INLINE F first_lanes(F a, int n, F rest) {
  AQUILA_LANES a.v[i] = i < n ? a.v[i] : rest.v[i];
  return a;
}
static AQUILA_INLINE F power_of_two(F n) {
  AQUILA_LANES {
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
    std::memcpy(&n.v[i], &bits, 4);
  }
  return n;
}
static AQUILA_INLINE float sum(F a) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
  return a.v[0];
}
static AQUILA_INLINE float largest(F a) {
  float r = a.v[0];
  AQUILA_LANES r = a.v[i] > r ? a.v[i] : r;
  return r;
}

static AQUILA_INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | mantissa << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &small, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
// Round to nearest, ties to even
static AQUILA_INLINE uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;  // rounds past 65504
  if (size < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &size, 4);
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 16777216.0f));
  }
  const uint32_t rounded = size + 0xfff + (size >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}
static AQUILA_INLINE F load_f16(const uint16_t* p) {
  F r;
  AQUILA_LANES r.v[i] = half_to_float(p[i]);
  return r;
}
static AQUILA_INLINE F load_bf16(const uint16_t* p) {
  F r;
  AQUILA_LANES {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
static AQUILA_INLINE void store_f16(uint16_t* p, F a) { AQUILA_LANES p[i] = float_to_half(a.v[i]); }
static AQUILA_INLINE F load_i8(const int8_t* p) {
  F r;
  AQUILA_LANES r.v[i] = p[i];
  return r;
}
static AQUILA_INLINE int8_t clamp_i8(float a) { return static_cast<int8_t>(a != a ? 0 : a > 127 ? 127 : a < -128 ? -128 : a); }
static AQUILA_INLINE void store_i8(int8_t* p, F a) { AQUILA_LANES p[i] = clamp_i8(std::nearbyint(a.v[i])); }

static AQUILA_INLINE I set_int(int32_t a) {
  I r;
  AQUILA_LANES r.v[i] = a;
  return r;
}
static AQUILA_INLINE F to_float(I a) {
  F r;
  AQUILA_LANES r.v[i] = static_cast<float>(a.v[i]);
  return r;
}

static AQUILA_INLINE Bytes load_bytes(const uint8_t* p) {
  Bytes r;
  std::memcpy(r.v, p, 64);
  return r;
}
static AQUILA_INLINE void store_bytes(uint8_t* p, Bytes a) { std::memcpy(p, a.v, 64); }
static AQUILA_INLINE Bytes low_nibbles(Bytes a) {
  for (int i = 0; i < 64; ++i) a.v[i] &= 15;
  return a;
}
static AQUILA_INLINE Bytes high_nibbles(Bytes a) {
  for (int i = 0; i < 64; ++i) a.v[i] >>= 4;
  return a;
}
struct Codes {
  int8_t v[4];
};
static AQUILA_INLINE Codes four_codes(const int8_t* p) {
  Codes r;
  std::memcpy(r.v, p, 4);
  return r;
}
static AQUILA_INLINE I dot(I sum, Bytes weights, Codes codes) {
  AQUILA_LANES {
    int32_t s = 0;
    for (int j = 0; j < 4; ++j) s += weights.v[4 * i + j] * codes.v[j];
    sum.v[i] += s;
  }
  return sum;
}

using NibbleSum = I;
static AQUILA_INLINE NibbleSum start_nibbles(int32_t zero) { return set_int(zero); }
static AQUILA_INLINE NibbleSum dot_nibbles(NibbleSum sum, Bytes nibbles, Codes codes) { return dot(sum, nibbles, codes); }
static AQUILA_INLINE I finish_nibbles(NibbleSum sum, int32_t) { return sum; }
