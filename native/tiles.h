// Products of 16-row groups with tiles of tokens. Included once for each instruction set, inside its namespace.
//
// Every format has the same shape: R groups (1 or 2) times T tokens are accumulated in registers over all columns; the
// order of the additions does not depend on R or T. Source of the block arithmetic: Q4_0, Q4_1 and Q8_0 of GGUF, with
// activations as int8 in blocks of 32 (scale = largest / 127).
#pragma once

// Into the second-level cache: the first has too few places for misses to cover the way to memory (measured on Zen 4,
// one core, short rows of w4: 13 GB/s without or into the first level, 24 GB/s so).
// A macro: GCC drops calls of a function that does nothing but prefetch.
#define AQUILA_PREFETCH(p) __builtin_prefetch(p, 0, 2)
#define AQUILA_PREFETCH_WRITE(p) __builtin_prefetch(p, 1, 2)
constexpr int64_t kPrefetch = 16384;  // bytes ahead

// How far ahead to prefetch in a run of `units` units of `bytes` bytes, of which the next one begins `step` bytes after
// this one: within the run, and over its end where the next one goes on. Short runs are many, and each would begin cold.
struct Ahead {
  int64_t turn, near, far;
  AQUILA_INLINE Ahead(int64_t units, int64_t bytes, int64_t step) {
    const int64_t distance = kPrefetch / bytes < units ? kPrefetch / bytes : units;
    turn = units - distance;
    near = distance * bytes;
    far = step - turn * bytes;
  }
  AQUILA_INLINE int64_t operator()(int64_t unit) const { return unit < turn ? near : far; }
};

template <int R, int T>
AQUILA_INLINE void clear(F (&sums)[R][T]) {
  repeat<R>([&](auto r) AQUILA_BODY { repeat<T>([&](auto t) AQUILA_BODY { sums[r][t] = set(0.0f); }); });
}

// The 16 values of a column.
template <Format format>
AQUILA_INLINE F load_column(const uint8_t* group, int64_t column) {
  if constexpr (format == Format::f32) return load(reinterpret_cast<const float*>(group) + column * kRows);
  else if constexpr (format == Format::f16) return load_f16(reinterpret_cast<const uint16_t*>(group) + column * kRows);
  else return load_bf16(reinterpret_cast<const uint16_t*>(group) + column * kRows);
}

template <Format format, int R, int T>
AQUILA_INLINE void float_tile(const uint8_t* const (&groups)[R], int64_t columns, int64_t step, const uint8_t* input,
                          F (&out)[R][T]) {
  constexpr int64_t kColumnBytes = format == Format::f32 ? 64 : 32;
  const float* x = reinterpret_cast<const float*>(input);
  clear(out);
  const Ahead ahead(columns, kColumnBytes, step);
  for (int64_t k = 0; k < columns; ++k, x += T) {
    F weights[R];
    const int64_t later = k * kColumnBytes + ahead(k);
    repeat<R>([&](auto r) AQUILA_BODY {
      AQUILA_PREFETCH(groups[r] + later);
      weights[r] = load_column<format>(groups[r], k);
    });
    repeat<T>([&](auto t) AQUILA_BODY {
      const F value = set(x[t]);
      repeat<R>([&](auto r) AQUILA_BODY { out[r][t] = fma(weights[r], value, out[r][t]); });
    });
  }
}

// Where the parts of a tile's block lie.
template <int T>
struct BlockInput {
  const int8_t* codes;   // [T][32]
  const float* scales;   // [T]
  const int32_t* zeros;  // [T], -8 * sum of codes
  const float* sums;     // [T], scale * sum of codes
  AQUILA_INLINE explicit BlockInput(const uint8_t* p)
      : codes(reinterpret_cast<const int8_t*>(p)),
        scales(reinterpret_cast<const float*>(p + T * kBlock)),
        zeros(reinterpret_cast<const int32_t*>(p + T * (kBlock + 4))),
        sums(reinterpret_cast<const float*>(p + T * (kBlock + 8))) {}
  static constexpr int64_t kBytes = T * (kBlock + 12);
};

// Whole sums of a block, times its scales, onto the tile.
template <int R, int T>
AQUILA_INLINE void add_block(F (&out)[R][T], const I (&sums)[R][T], const uint8_t* const (&groups)[R], int64_t block,
                             const BlockInput<T>& in) {
  repeat<R>([&](auto r) AQUILA_BODY {
    const F scales = load_f16(reinterpret_cast<const uint16_t*>(groups[r]) + block * kRows);
    repeat<T>([&](auto t) AQUILA_BODY {
      out[r][t] = fma(to_float(sums[r][t]), mul(scales, set(in.scales[t])), out[r][t]);
    });
  });
}

template <bool minima, int R, int T>
AQUILA_INLINE void nibble_tile(const uint8_t* const (&groups)[R], int64_t columns, int64_t step, const uint8_t* input,
                          F (&out)[R][T]) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  const int64_t heads = blocks * kRows * 2;  // bytes of the scales, and of the minima
  clear(out);
  const Ahead ahead(blocks, 256, step);
  for (int64_t b = 0; b < blocks; ++b, input += BlockInput<T>::kBytes) {
    const BlockInput<T> in(input);
    const int64_t later = ahead(b);
    repeat<R>([&](auto r) AQUILA_BODY { AQUILA_PREFETCH(groups[r] + step + b * kRows * 2); });
    NibbleSum sums[R][T];
    repeat<R>([&](auto r) AQUILA_BODY {
      repeat<T>([&](auto t) AQUILA_BODY { sums[r][t] = start_nibbles(minima ? 0 : in.zeros[t]); });
    });
    repeat<4>([&](auto v) AQUILA_BODY {
      Bytes low[R], high[R];
      repeat<R>([&](auto r) AQUILA_BODY {
        const uint8_t* p = groups[r] + heads * (minima ? 2 : 1) + b * 256 + v * 64;
        AQUILA_PREFETCH(p + later);
        const Bytes both = load_bytes(p);
        low[r] = low_nibbles(both);
        high[r] = high_nibbles(both);
      });
      repeat<T>([&](auto t) AQUILA_BODY {
        const Codes codes = four_codes(in.codes + t * kBlock + v * 8);
        repeat<R>([&](auto r) AQUILA_BODY { sums[r][t] = dot_nibbles(sums[r][t], low[r], codes); });
      });
      repeat<T>([&](auto t) AQUILA_BODY {
        const Codes codes = four_codes(in.codes + t * kBlock + v * 8 + 4);
        repeat<R>([&](auto r) AQUILA_BODY { sums[r][t] = dot_nibbles(sums[r][t], high[r], codes); });
      });
    });
    I whole[R][T];
    repeat<R>([&](auto r) AQUILA_BODY {
      repeat<T>([&](auto t) AQUILA_BODY { whole[r][t] = finish_nibbles(sums[r][t], minima ? 0 : in.zeros[t]); });
    });
    add_block<R, T>(out, whole, groups, b, in);
    if constexpr (minima) {
      repeat<R>([&](auto r) AQUILA_BODY {
        const F least = load_f16(reinterpret_cast<const uint16_t*>(groups[r] + heads) + b * kRows);
        repeat<T>([&](auto t) AQUILA_BODY { out[r][t] = fma(least, set(in.sums[t]), out[r][t]); });
      });
    }
  }
}

template <int R, int T>
AQUILA_INLINE void byte_tile(const uint8_t* const (&groups)[R], int64_t columns, int64_t step, const uint8_t* input,
                          F (&out)[R][T]) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  clear(out);
  const Ahead ahead(blocks, 512, step);
  for (int64_t b = 0; b < blocks; ++b, input += BlockInput<T>::kBytes) {
    const BlockInput<T> in(input);
    const int64_t later = ahead(b);
    repeat<R>([&](auto r) AQUILA_BODY { AQUILA_PREFETCH(groups[r] + step + b * kRows * 2); });
    I sums[R][T];
    repeat<R>([&](auto r) AQUILA_BODY {
      repeat<T>([&](auto t) AQUILA_BODY { sums[r][t] = set_int(in.zeros[t] * 16); });  // codes are stored + 128
    });
    repeat<8>([&](auto v) AQUILA_BODY {
      Bytes weights[R];
      repeat<R>([&](auto r) AQUILA_BODY {
        const uint8_t* p = groups[r] + blocks * kRows * 2 + b * 512 + v * 64;
        AQUILA_PREFETCH(p + later);
        weights[r] = load_bytes(p);
      });
      repeat<T>([&](auto t) AQUILA_BODY {
        const Codes codes = four_codes(in.codes + t * kBlock + v * 4);
        repeat<R>([&](auto r) AQUILA_BODY { sums[r][t] = dot(sums[r][t], weights[r], codes); });
      });
    });
    add_block<R, T>(out, sums, groups, b, in);
  }
}

template <Format format, int R, int T>
AQUILA_INLINE void compute(const uint8_t* const (&groups)[R], int64_t columns, int64_t step, const uint8_t* input,
                          F (&out)[R][T]) {
  if constexpr (format == Format::w4) nibble_tile<false, R, T>(groups, columns, step, input, out);
  else if constexpr (format == Format::w4m) nibble_tile<true, R, T>(groups, columns, step, input, out);
  else if constexpr (format == Format::w8) byte_tile<R, T>(groups, columns, step, input, out);
  else float_tile<format, R, T>(groups, columns, step, input, out);
}

static AQUILA_INLINE F with_extra(const float* const* extra, int64_t token, int64_t group, F value) {
  return extra && extra[token] ? add(value, load(extra[token] + group * kRows)) : value;
}

// Not inlined: a tile calls it 2 T times.
__attribute__((noinline)) static void put(const Product& p, int64_t token, int64_t group, F value) {
  if (p.bias) value = add(value, load(p.bias + group * kRows));
  value = with_extra(p.extra, token, group, value);
  float* out = p.out + token * p.ld + group * kRows;
  if (p.sink == Sink::add) value = add(value, load(out));
  if (!p.exact || (group + 1) * kRows <= p.rows) {
    store(out, value);
    return;
  }
  float lanes[kRows];
  store(lanes, value);
  for (int64_t r = 0; group * kRows + r < p.rows; ++r) out[r] = lanes[r];
}

__attribute__((noinline)) static void put_gated(const Product& p, int64_t token, int64_t group, F gate, F value) {
  gate = with_extra(p.gate_extra, token, group, gate);
  value = with_extra(p.extra, token, group, value);
  store(p.out + token * p.ld + group * kRows, mul(silu(gate), value));
}

template <Format format, int R, int T>
__attribute__((noinline)) static void product_tile(const Product& p, int64_t group, int64_t tile_index) {
  const int64_t stride = group_bytes(format, p.columns);
  const uint8_t* input = p.input.tile_data(tile_index);
  const int64_t token = tile_index * p.input.tile();
  if constexpr (R == 2) {
    const bool gated = p.sink == Sink::swiglu;
    const uint8_t* first = (gated ? p.gate : p.weights) + group * stride;
    const uint8_t* const groups[2] = {first, gated ? p.weights + group * stride : first + stride};
    F sums[2][T];
    compute<format, 2, T>(groups, p.columns, gated ? stride : 2 * stride, input, sums);
    repeat<T>([&](auto t) AQUILA_BODY {
      if (gated) {
        put_gated(p, token + t, group, sums[0][t], sums[1][t]);
      } else {
        put(p, token + t, group, sums[0][t]);
        put(p, token + t, group + 1, sums[1][t]);
      }
    });
  } else {
    const uint8_t* const groups[1] = {p.weights + group * stride};
    F sums[1][T];
    compute<format, 1, T>(groups, p.columns, stride, input, sums);
    repeat<T>([&](auto t) AQUILA_BODY { put(p, token + t, group, sums[0][t]); });
  }
}

template <Format format, int R>
static void product_groups(const Product& p, int64_t group, int64_t tile_index) {
  switch (p.input.tile_tokens(tile_index)) {
    case 1: return product_tile<format, R, 1>(p, group, tile_index);
    case 2: return product_tile<format, R, 2>(p, group, tile_index);
    case 3: return product_tile<format, R, 3>(p, group, tile_index);
    case 4: return product_tile<format, R, 4>(p, group, tile_index);
    case 5: return product_tile<format, R, 5>(p, group, tile_index);
    case 6: return product_tile<format, R, 6>(p, group, tile_index);
    case 7:
      if constexpr (format < Format::w4) return product_tile<format, R, 7>(p, group, tile_index);
      return;
    case 8:
      if constexpr (format < Format::w4) return product_tile<format, R, 8>(p, group, tile_index);
      return;
    default: return;
  }
}
