// Attention over pages of keys and values. Included inside an instruction set's namespace.
//
// Positions are cut into chunks of 128. Each chunk gives a softmax of its own, and chunks are merged in order, so a
// query's result has the same bits whether its chunks are computed by one thread or by many, and whatever other
// queries are computed beside it. Source of merging: Milakov and Gimelshein 2018, arXiv:1805.02867, section 3.
#pragma once

template <KvType type>
static inline F load_kv(const uint8_t* p) {
  if constexpr (type == KvType::f32) return load(reinterpret_cast<const float*>(p));
  else if constexpr (type == KvType::f16) return load_f16(reinterpret_cast<const uint16_t*>(p));
  else return load_i8(reinterpret_cast<const int8_t*>(p));
}

template <KvType type>
constexpr int64_t kItem = type == KvType::f32 ? 4 : type == KvType::f16 ? 2 : 1;

constexpr int kQuad = 4;  // rows computed together: keys and values are read once for them

// Scores of N rows against the 16 positions of a page. Four sums a row, by dimension mod 4.
template <KvType type, int N>
AQUILA_INLINE void score_page(const uint8_t* keys, const float* const* queries, int dim, F (&scores)[N]) {
  F sums[N][4];
  repeat<N>([&](auto n) AQUILA_BODY { repeat<4>([&](auto i) AQUILA_BODY { sums[n][i] = set(0.0f); }); });
  for (int d = 0; d < dim; d += 4) {
    repeat<4>([&](auto i) AQUILA_BODY {
      const F key = load_kv<type>(keys + (d + i) * kPage * kItem<type>);
      repeat<N>([&](auto n) AQUILA_BODY { sums[n][i] = fma(key, set(queries[n][d + i]), sums[n][i]); });
    });
  }
  repeat<N>([&](auto n) AQUILA_BODY { scores[n] = add(add(sums[n][0], sums[n][1]), add(sums[n][2], sums[n][3])); });
}

// values[n][0 .. 16 V) += sum over the page's positions of weight * value, for 16 V dimensions from `values` on.
template <KvType type, int N, int V>
AQUILA_INLINE void weigh_page(const uint8_t* values, int dim, const float* const* weights, int count, F (&sums)[N][V]) {
  for (int slot = 0; slot < count; ++slot) {
    F value[V];
    repeat<V>([&](auto v) AQUILA_BODY {
      value[v] = load_kv<type>(values + (static_cast<int64_t>(slot) * dim + v * kRows) * kItem<type>);
    });
    repeat<N>([&](auto n) AQUILA_BODY {
      const F weight = set(weights[n][slot]);
      repeat<V>([&](auto v) AQUILA_BODY { sums[n][v] = fma(value[v], weight, sums[n][v]); });
    });
  }
}

struct ChunkPages {
  const uint8_t* heads[kChunk / kPage];  // of the kv head in each page
  int count;
  int positions;  // that any row sees
};

template <KvType type, int N, int V>
AQUILA_INLINE void weigh_chunk(const ChunkPages& pages, const KvLayout& kv, int d, const float* const* weights, float* const* out) {
  F sums[N][V];
  repeat<N>([&](auto n) AQUILA_BODY { repeat<V>([&](auto v) AQUILA_BODY { sums[n][v] = set(0.0f); }); });
  for (int page = 0; page < pages.count; ++page) {
    const float* at[N];
    repeat<N>([&](auto n) AQUILA_BODY { at[n] = weights[n] + page * kPage; });
    const int left = pages.positions - page * kPage;
    const uint8_t* values = pages.heads[page] + kv.codes_bytes() + static_cast<int64_t>(d) * kItem<type>;
    weigh_page<type, N, V>(values, kv.dim, at, left < kPage ? left : kPage, sums);
  }
  repeat<N>([&](auto n) AQUILA_BODY {
    repeat<V>([&](auto v) AQUILA_BODY { store(out[n] + d + v * kRows, sums[n][v]); });
  });
}

// N rows from `first` on: scores, softmax, weighted values.
template <KvType type, int N>
static void attend_rows(const AttentionItem& item, const ChunkPages& pages, int64_t start, int first, float* scratch,
                        Partial* partials, float* values) {
  const KvLayout& kv = item.layout;
  const float* queries[N];
  const float* weights[N];
  float* out[N];
  for (int n = 0; n < N; ++n) {
    queries[n] = item.queries[first + n];
    weights[n] = scratch + (first + n) * kChunk;
    out[n] = values + static_cast<int64_t>(first + n) * kv.dim;
  }
  F peaks[N], totals[N];
  for (int n = 0; n < N; ++n) {
    peaks[n] = set(-__builtin_inff());
    totals[n] = set(0.0f);
  }
  for (int page = 0; page < pages.count; ++page) {
    F scores[N];
    score_page<type, N>(pages.heads[page], queries, kv.dim, scores);
    for (int n = 0; n < N; ++n) {
      const int64_t seen = item.visible[first + n] - start - page * kPage;
      if (type == KvType::i8) {
        const float* scales = reinterpret_cast<const float*>(pages.heads[page] + 2 * kv.codes_bytes());
        scores[n] = mul(scores[n], load(scales));
      }
      const F masked = first_lanes(scores[n], static_cast<int>(seen < 0 ? 0 : seen < kPage ? seen : kPage), set(-__builtin_inff()));
      peaks[n] = max(peaks[n], masked);
      store(scratch + (first + n) * kChunk + page * kPage, masked);
    }
  }
  for (int n = 0; n < N; ++n) {
    if (item.visible[first + n] <= start) continue;
    float* row = scratch + (first + n) * kChunk;
    const float peak = largest(peaks[n]);
    for (int page = 0; page < pages.count; ++page) {
      F share = exponential(sub(load(row + page * kPage), set(peak)));
      totals[n] = add(totals[n], share);
      if (type == KvType::i8) {
        const float* scales = reinterpret_cast<const float*>(pages.heads[page] + 2 * kv.codes_bytes()) + kPage;
        share = mul(share, first_lanes(load(scales), pages.positions - page * kPage, set(0.0f)));
      }
      store(row + page * kPage, share);
    }
    partials[first + n] = {peak, sum(totals[n])};
  }
  int d = 0;
  for (; d + 4 * kRows <= kv.dim; d += 4 * kRows) weigh_chunk<type, N, 4>(pages, kv, d, weights, out);
  for (; d < kv.dim; d += kRows) weigh_chunk<type, N, 1>(pages, kv, d, weights, out);
}

template <KvType type>
static void attend_typed(const AttentionItem& item, int64_t chunk, float* scratch, Partial* partials, float* values) {
  const int64_t start = chunk * kChunk, end = item.visible[item.num_rows - 1];
  ChunkPages pages;
  pages.positions = static_cast<int>(end - start < kChunk ? end - start : kChunk);
  pages.count = (pages.positions + kPage - 1) / kPage;
  for (int page = 0; page < pages.count; ++page)
    pages.heads[page] = item.layer + item.pages[start / kPage + page] * item.page_stride +
                        item.kv_head * item.layout.head_bytes();
  int row = 0;
  for (; row + kQuad <= item.num_rows; row += kQuad)
    attend_rows<type, kQuad>(item, pages, start, row, scratch, partials, values);
  switch (item.num_rows - row) {
    case 3: return attend_rows<type, 3>(item, pages, start, row, scratch, partials, values);
    case 2: return attend_rows<type, 2>(item, pages, start, row, scratch, partials, values);
    case 1: return attend_rows<type, 1>(item, pages, start, row, scratch, partials, values);
    default: return;
  }
}

static void attend_chunk(const AttentionItem& item, int64_t chunk, float* scratch, Partial* partials, float* values) {
  switch (item.layout.type) {
    case KvType::f32: return attend_typed<KvType::f32>(item, chunk, scratch, partials, values);
    case KvType::f16: return attend_typed<KvType::f16>(item, chunk, scratch, partials, values);
    case KvType::i8: return attend_typed<KvType::i8>(item, chunk, scratch, partials, values);
  }
}

static void merge(Partial* state, float* total, const Partial* part, const float* values, int dim) {
  const float peak = state->peak > part->peak ? state->peak : part->peak;
  float shares[kRows];
  store(shares, exponential(first_lanes(set(state->peak - peak), 1, set(part->peak - peak))));
  const F old_share = set(shares[0]), new_share = set(shares[1]);
  state->total = shares[0] * state->total + shares[1] * part->total;
  state->peak = peak;
  for (int d = 0; d < dim; d += kRows)
    store(total + d, fma(load(values + d), new_share, mul(load(total + d), old_share)));
}

static inline float quantise_head(const float* x, int dim, int8_t* codes) {
  F peak = set(0.0f);
  for (int d = 0; d < dim; d += kRows) peak = max(absolute(load(x + d)), peak);
  const float top = largest(peak);
  const F inverse = set(top > 1e-30f ? 127.0f / top : 0.0f);
  for (int d = 0; d < dim; d += kRows) store_i8(codes + d, mul(load(x + d), inverse));
  return top / 127.0f;
}

// key and value are padded with zeros to dim.
static void put_kv(const KvLayout& kv, uint8_t* head, int slot, const float* key, const float* value) {
  uint8_t* values = head + kv.codes_bytes();
  if (kv.type == KvType::f32) {
    for (int d = 0; d < kv.dim; ++d) reinterpret_cast<float*>(head)[d * kPage + slot] = key[d];
    for (int d = 0; d < kv.dim; ++d) reinterpret_cast<float*>(values)[slot * kv.dim + d] = value[d];
  } else if (kv.type == KvType::f16) {
    for (int d = 0; d < kv.dim; d += kRows) {
      uint16_t lanes[kRows];
      store_f16(lanes, load(key + d));
      for (int i = 0; i < kRows; ++i) reinterpret_cast<uint16_t*>(head)[(d + i) * kPage + slot] = lanes[i];
      store_f16(reinterpret_cast<uint16_t*>(values) + slot * kv.dim + d, load(value + d));
    }
  } else {
    float* scales = reinterpret_cast<float*>(head + 2 * kv.codes_bytes());
    int8_t codes[kMaxHeadDim];
    scales[slot] = quantise_head(key, kv.dim, codes);
    for (int d = 0; d < kv.dim; ++d) reinterpret_cast<int8_t*>(head)[d * kPage + slot] = codes[d];
    scales[kPage + slot] = quantise_head(value, kv.dim, reinterpret_cast<int8_t*>(values) + slot * kv.dim);
  }
}
