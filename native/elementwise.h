// exp, silu, RMS norm, quantisation of activations, rotation, single rows. Included inside an instruction set's namespace.
#pragma once

// exp(x) to 2 units in the last place: 2^n * p(r), x = n ln 2 + r; 0 below -87.3 (so exp(-inf) = 0), NaN stays NaN.
// Coefficients: Cephes expf (Moshier).
static AQUILA_INLINE F exponential(F x) {
  const F bounded = min(set(88.0f), max(set(-88.0f), x));  // the second operand is what a NaN leaves: it survives
  const F n = round_even(mul(bounded, set(1.44269504088896341f)));
  F r = fma(n, set(-0.693359375f), bounded);
  r = fma(n, set(2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set(1.0f));
  const F value = mul(p, power_of_two(max(n, set(-126.0f))));
  return where_less(x, set(-87.3f), set(0.0f), value);
}

static AQUILA_INLINE F silu(F x) { return div(x, add(set(1.0f), exponential(sub(set(0.0f), x)))); }

// 1 / sqrt(mean(x^2) + eps). x is padded with zeros to 32.
static float norm_factor(const float* x, int64_t columns, float eps) {
  F even = set(0.0f), odd = set(0.0f);
  for (int64_t k = 0; k < columns; k += 2 * kRows) {
    const F a = load(x + k), b = load(x + k + kRows);
    even = fma(a, a, even);
    odd = fma(b, b, odd);
  }
  return 1.0f / __builtin_sqrtf(sum(add(even, odd)) / static_cast<float>(columns) + eps);
}

static AQUILA_INLINE F scaled(const float* x, const float* weight, F factor) {
  const F value = mul(load(x), factor);
  return weight ? mul(value, load(weight)) : value;
}

// x and weight are padded with zeros to 32.
static void put_row(const Activations& to, int64_t token, const float* x, const float* weight, float factor) {
  const int64_t index = token / to.tile();
  const int T = to.tile_tokens(index), t = static_cast<int>(token % to.tile());
  uint8_t* out = to.tile_data(index);
  const F by = set(factor);
  if (!to.blocks) {
    float* values = reinterpret_cast<float*>(out) + t;
    for (int64_t k = 0; k < to.columns; k += kRows) {
      float lanes[kRows];
      store(lanes, scaled(x + k, weight ? weight + k : nullptr, by));
      for (int64_t i = 0; i < kRows && k + i < to.columns; ++i) values[(k + i) * T] = lanes[i];
    }
    return;
  }
  for (int64_t k = 0; k < to.columns; k += kBlock, out += T * (kBlock + 12)) {
    const F a = scaled(x + k, weight ? weight + k : nullptr, by);
    const F b = scaled(x + k + kRows, weight ? weight + k + kRows : nullptr, by);
    const float peak = largest(max(absolute(a), absolute(b)));
    const bool broken = any_nan(a) || any_nan(b) || peak > 3.4e38f;
    int8_t* codes = reinterpret_cast<int8_t*>(out + t * kBlock);
    const F inverse = set(peak > 1e-30f && !broken ? 127.0f / peak : 0.0f);  // below that 127 / peak would overflow
    const F low = broken ? set(0.0f) : round_even(mul(a, inverse));
    const F high = broken ? set(0.0f) : round_even(mul(b, inverse));
    store_i8(codes, low);
    store_i8(codes + kRows, high);
    const float total = sum(add(low, high));  // exact: whole numbers, at most 32 x 127
    const float scale = broken ? __builtin_nanf("") : peak / 127.0f;  // a broken value must be seen in the logits
    reinterpret_cast<float*>(out + T * kBlock)[t] = scale;
    reinterpret_cast<int32_t*>(out + T * (kBlock + 4))[t] = -8 * static_cast<int32_t>(total);
    reinterpret_cast<float*>(out + T * (kBlock + 8))[t] = scale * total;
  }
}

// Source: Su et al. 2021, arXiv:2104.09864, eq. 34. `cos` and `sin` hold head_dim / 2 values.
static void rotate(const float* x, const float* cos, const float* sin, int head_dim, bool interleaved, float scale, float* out) {
  const int half = head_dim / 2, apart = interleaved ? 1 : half, step = interleaved ? 2 : 1;
  for (int i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    out[i * step] = (a * cos[i] - b * sin[i]) * scale;
    out[i * step + apart] = (b * cos[i] + a * sin[i]) * scale;
  }
}

static void take_row(Format format, const uint8_t* group, int64_t columns, int lane, float* out) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  float lanes[kRows];
  for (int64_t k = 0; k < columns; ++k) {
    const int64_t b = k / kBlock, c = k % kBlock;
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(group) + b * kRows;
    switch (format) {
      case Format::f32: out[k] = reinterpret_cast<const float*>(group)[k * kRows + lane]; continue;
      case Format::f16: store(lanes, load_f16(reinterpret_cast<const uint16_t*>(group) + k * kRows)); break;
      case Format::bf16: store(lanes, load_bf16(reinterpret_cast<const uint16_t*>(group) + k * kRows)); break;
      case Format::w8: {
        store(lanes, load_f16(scales));
        const uint8_t* codes = group + blocks * kRows * 2 + b * 512;
        out[k] = lanes[lane] * static_cast<float>(codes[c / 4 * 64 + lane * 4 + c % 4] - 128);
        continue;
      }
      case Format::w4:
      case Format::w4m: {
        const bool minima = format == Format::w4m;
        const uint8_t* codes = group + blocks * kRows * (minima ? 4 : 2) + b * 256;
        const uint8_t both = codes[c / 8 * 64 + lane * 4 + c % 4];
        const int code = c % 8 < 4 ? both & 15 : both >> 4;
        store(lanes, load_f16(scales));
        const float scale = lanes[lane];
        if (minima) store(lanes, load_f16(scales + blocks * kRows));
        out[k] = minima ? scale * static_cast<float>(code) + lanes[lane] : scale * static_cast<float>(code - 8);
        continue;
      }
    }
    out[k] = lanes[lane];
  }
}
