// A product: its tiles in the order that keeps weights near. Included after tiles.h and panel.h.
#pragma once

// As many groups as stay in the second-level cache while all tiles of tokens pass by.
constexpr int64_t kPanelBytes = 256 << 10;

template <Format format>
static void product(const Product& p) {
  const int64_t stride = group_bytes(format, p.columns), tiles = p.input.tiles();
  const bool gated = p.sink == Sink::swiglu;
  const int64_t step = gated ? 1 : 2;
  int64_t first_tile = 0;
  if constexpr (format >= Format::w4) first_tile = panel_product<format>(p);  // pairs of groups are done up to here
  int64_t panel = tiles == 1 ? p.last - p.first : kPanelBytes / stride / (gated ? 2 : 1) / step * step;
  if (panel < step) panel = step;
  for (int64_t start = p.first; start < p.last; start += panel) {
    const int64_t stop = start + panel < p.last ? start + panel : p.last;
    int64_t odd = stop - (stop - start) % step;  // a last group that has no partner
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int64_t group = start; tile >= first_tile && group < odd; group += step) product_groups<format, 2>(p, group, tile);
      if (odd < stop) product_groups<format, 1>(p, odd, tile);
    }
  }
}

static void matmul(const Product& p) {
  switch (p.format) {
    case Format::f32: return product<Format::f32>(p);
    case Format::f16: return product<Format::f16>(p);
    case Format::bf16: return product<Format::bf16>(p);
    case Format::w4: return product<Format::w4>(p);
    case Format::w4m: return product<Format::w4m>(p);
    case Format::w8: return product<Format::w8>(p);
  }
}
