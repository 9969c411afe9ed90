// Products of many tokens with weights in blocks. The codes of two groups are unpacked once, some blocks at a time, into a
// panel that stays in the first-level cache while all tiles of tokens pass by; the sums wait in memory from one panel to
// the next. Sums grow in the order of the columns as everywhere, so they have the bits that a token alone gets.
// Source of the scheme: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication", section 4.
#pragma once

constexpr int64_t kPanelBlocks = 16;   // 20 KiB of panel, beside 4 KiB of a tile's input
constexpr int64_t kPanelTiles = 43;    // tiles whose sums are kept: 33 KiB
constexpr int64_t kLeastPanelTiles = 3;

struct alignas(64) PanelBlock {
  float scales[2][kRows];
  float minima[2][kRows];      // of w4m
  uint8_t codes[8][2][4 * kRows];  // four columns at a time
};

struct alignas(64) TileSums {
  float of[2][kBlockTile][kRows];
};

template <Format format>
static AQUILA_INLINE const uint8_t* block_codes(const uint8_t* group, int64_t blocks, int64_t block) {
  return group + blocks * kRows * (format == Format::w4m ? 4 : 2) + block * kRows * (format == Format::w8 ? 32 : 16);
}

template <Format format>
static AQUILA_INLINE void unpack_block(const uint8_t* const (&groups)[2], int64_t blocks, int64_t block, PanelBlock& to) {
  repeat<2>([&](auto r) AQUILA_BODY {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(groups[r]) + block * kRows;
    store(to.scales[r], load_f16(scales));
    if constexpr (format == Format::w4m) store(to.minima[r], load_f16(scales + blocks * kRows));
    const uint8_t* codes = block_codes<format>(groups[r], blocks, block);
    if constexpr (format == Format::w8) {
      repeat<8>([&](auto v) AQUILA_BODY { store_bytes(to.codes[v][r], load_bytes(codes + v * 64)); });
    } else {
      repeat<4>([&](auto v) AQUILA_BODY {
        const Bytes both = load_bytes(codes + v * 64);
        store_bytes(to.codes[2 * v][r], low_nibbles(both));
        store_bytes(to.codes[2 * v + 1][r], high_nibbles(both));
      });
    }
  });
}

// sums (0 before the `first` panel) += the panel's `count` blocks times a tile's codes from `input` on.
template <Format format>
__attribute__((noinline)) static void panel_tile(const PanelBlock* panel, int64_t count, const uint8_t* input, bool first,
                                                TileSums& sums) {
  constexpr int T = kBlockTile;
  constexpr bool bytes = format == Format::w8, minima = format == Format::w4m;
  F out[2][T];
  if (first) clear(out);
  else repeat<2>([&](auto r) AQUILA_BODY { repeat<T>([&](auto t) AQUILA_BODY { out[r][t] = load(sums.of[r][t]); }); });
  for (const PanelBlock* block = panel; block < panel + count; ++block, input += BlockInput<T>::kBytes) {
    const BlockInput<T> in(input);
    using Sum = std::conditional_t<bytes, I, NibbleSum>;
    Sum whole[2][T];
    repeat<T>([&](auto t) AQUILA_BODY {
      if constexpr (bytes) whole[0][t] = whole[1][t] = set_int(in.zeros[t] * 16);  // codes are stored + 128
      else whole[0][t] = whole[1][t] = start_nibbles(minima ? 0 : in.zeros[t]);
    });
    repeat<8>([&](auto v) AQUILA_BODY {
      const Bytes first = load_bytes(block->codes[v][0]), second = load_bytes(block->codes[v][1]);
      repeat<T>([&](auto t) AQUILA_BODY {
        const Codes codes = four_codes(in.codes + t * kBlock + v * 4);
        if constexpr (bytes) {
          whole[0][t] = dot(whole[0][t], first, codes);
          whole[1][t] = dot(whole[1][t], second, codes);
        } else {
          whole[0][t] = dot_nibbles(whole[0][t], first, codes);
          whole[1][t] = dot_nibbles(whole[1][t], second, codes);
        }
      });
    });
    repeat<2>([&](auto r) AQUILA_BODY {
      const F scales = load(block->scales[r]);
      repeat<T>([&](auto t) AQUILA_BODY {
        F total;
        if constexpr (bytes) total = to_float(whole[r][t]);
        else total = to_float(finish_nibbles(whole[r][t], minima ? 0 : in.zeros[t]));
        out[r][t] = fma(total, mul(scales, set(in.scales[t])), out[r][t]);
        if constexpr (minima) out[r][t] = fma(load(block->minima[r]), set(in.sums[t]), out[r][t]);
      });
    });
  }
  repeat<2>([&](auto r) AQUILA_BODY { repeat<T>([&](auto t) AQUILA_BODY { store(sums.of[r][t], out[r][t]); }); });
}

// The codes that the next panel is made of, a part of them while each tile is computed.
struct Coming {
  const uint8_t* codes[2];
  int64_t bytes, tiles;
  AQUILA_INLINE void operator()(int64_t tile) const {
    for (int64_t at = bytes * tile / tiles & -64; at < bytes * (tile + 1) / tiles; at += 64)
      repeat<2>([&](auto r) AQUILA_BODY { AQUILA_PREFETCH(codes[r] + at); });
  }
};

// Two groups, `tiles` whole tiles from `first_tile` on.
template <Format format>
static void panel_pair(const Product& p, int64_t group, int64_t first_tile, int64_t tiles) {
  const int64_t stride = group_bytes(format, p.columns), blocks = (p.columns + kBlock - 1) / kBlock;
  const bool gated = p.sink == Sink::swiglu;
  const uint8_t* start = (gated ? p.gate : p.weights) + group * stride;
  const uint8_t* const groups[2] = {start, gated ? p.weights + group * stride : start + stride};
  const int64_t step = gated ? stride : 2 * stride, code_bytes = kRows * (format == Format::w8 ? 32 : 16);
  PanelBlock panel[kPanelBlocks];
  TileSums sums[kPanelTiles];
  for (int64_t block = 0; block < blocks; block += kPanelBlocks) {
    const int64_t count = blocks - block < kPanelBlocks ? blocks - block : kPanelBlocks;
    for (int64_t b = 0; b < count; ++b) unpack_block<format>(groups, blocks, block + b, panel[b]);
    const bool last = block + count == blocks;
    Coming coming{{}, code_bytes * kPanelBlocks, tiles};
    repeat<2>([&](auto r) AQUILA_BODY {
      coming.codes[r] = last ? block_codes<format>(groups[r] + step, blocks, 0) : block_codes<format>(groups[r], blocks, block + count);
    });
    for (int64_t tile = 0; tile < tiles; ++tile) {
      coming(tile);
      if (last) {
        for (int64_t t = 0; t < kBlockTile; ++t)
          AQUILA_PREFETCH_WRITE(p.out + ((first_tile + tile) * kBlockTile + t) * p.ld + group * kRows);
      }
      panel_tile<format>(panel, count, p.input.tile_data(first_tile + tile) + block * BlockInput<kBlockTile>::kBytes,
                         block == 0, sums[tile]);
    }
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int64_t t = 0; t < kBlockTile; ++t) {
      const int64_t token = (first_tile + tile) * kBlockTile + t;
      const F first = load(sums[tile].of[0][t]), second = load(sums[tile].of[1][t]);
      if (gated) {
        put_gated(p, token, group, first, second);
      } else {
        put(p, token, group, first);
        put(p, token, group + 1, second);
      }
    }
  }
}

// All pairs of groups times the whole tiles -> the number of those tiles; 0 when they are too few to be worth a panel.
template <Format format>
static int64_t panel_product(const Product& p) {
  const int64_t whole = p.input.tokens / kBlockTile, step = p.sink == Sink::swiglu ? 1 : 2;
  if (whole < kLeastPanelTiles) return 0;
  for (int64_t tile = 0; tile < whole; tile += kPanelTiles) {
    const int64_t tiles = whole - tile < kPanelTiles ? whole - tile : kPanelTiles;
    for (int64_t group = p.first; group + step <= p.last; group += step) panel_pair<format>(p, group, tile, tiles);
  }
  return whole;
}
