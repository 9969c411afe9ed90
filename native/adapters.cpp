// Low-rank adapters in a step: each sequence has one or none, and pays for its own alone.
//
// Before a product, tokens with an adapter are gathered adapter by adapter into tiles, and `up (down x)` of each tile is
// laid beside the step, in fp32 of the unrounded inputs. The product's sink adds it, so that silu sees it too.
#include <algorithm>

#include "decoder.h"

namespace aquila {

void Decoder::set_low_rank(int adapter, int layer, int slot, const LowRank& low_rank) {
  if (adapters_.empty()) phases_ = std::vector<Phase>(phases_.size() + 8 * layers_.size());
  if (adapter > static_cast<int>(adapters_.size()))
    adapters_.resize(adapter, std::vector<std::array<LowRank, kLayerSlots>>(layers_.size()));
  adapters_[adapter - 1].at(layer).at(slot) = low_rank;
  narrow_ld_ = std::max(narrow_ld_, round_up(low_rank.rank, kBlock));
}

void Decoder::plan_adapters() {
  adapted_rows_.clear();
  tiles_.clear();
  for (int adapter = 0; adapter < static_cast<int>(adapters_.size()); ++adapter) {
    int64_t place = static_cast<int64_t>(adapted_rows_.size());
    for (const Span& span : *spans_)
      for (int64_t i = 0; span.adapter == adapter + 1 && i < span.count; ++i) adapted_rows_.push_back(span.first + i);
    for (const int64_t end = static_cast<int64_t>(adapted_rows_.size()); place < end; place += kFloatTile)
      tiles_.push_back({adapter, static_cast<int>(std::min<int64_t>(kFloatTile, end - place)), place});
  }
  if (tiles_.empty()) return;
  extra_.assign(kMaxParts * tokens_->size(), nullptr);
  auto grow = [](Pages& pages, int64_t floats) {
    if (pages.size() < sizeof(float) * static_cast<size_t>(floats)) pages = Pages(sizeof(float) * static_cast<size_t>(floats));
  };
  const int64_t rows = static_cast<int64_t>(adapted_rows_.size());
  grow(narrow_, rows * kMaxParts * narrow_ld_);
  grow(added_, rows * added_ld_);
  grow(tile_inputs_, team_.size() * tile_floats());
}

int64_t Decoder::tile_floats() const { return kFloatTile * std::max(activation_columns_, narrow_ld_); }

bool Decoder::adapt(Walk& walk, int layer, int slot, int num_parts, const PutRow& put) {
  uint8_t* room = reinterpret_cast<uint8_t*>(tile_inputs_.floats() + walk.member * tile_floats());
  const int64_t units = static_cast<int64_t>(tiles_.size()) * num_parts;
  const int64_t part_columns = round_up(layers_[layer].matrices[slot].rows, kRows);  // the first part is the widest
  auto narrow = [&](int64_t place, int part) { return narrow_.floats() + (place * kMaxParts + part) * narrow_ld_; };
  auto added = [&](int64_t place, int part) { return added_.floats() + place * added_ld_ + part * part_columns; };

  const bool good = phase(walk, units, [&](int64_t unit) {
    const Tile& tile = tiles_[unit / num_parts];
    const int part = static_cast<int>(unit % num_parts);
    const LowRank& weights = low_rank(tile, layer, slot + part);
    const int64_t columns = layers_[layer].matrices[slot + part].columns;
    const Activations input{room, tile.count, columns, false};
    for (int token = 0; token < tile.count; ++token) {
      const int64_t place = tile.place + token, row = adapted_rows_[place];
      extra(part)[row] = weights.rank == 0 ? nullptr : added(place, part);
      if (weights.rank != 0) put(input, token, row);
    }
    if (weights.rank == 0) return true;
    kernels_->matmul({weights.format, weights.down, nullptr, columns, weights.rank, 0, num_groups(weights.rank), input,
                      Sink::store, narrow(tile.place, part), kMaxParts * narrow_ld_, nullptr, false});
    return true;
  });
  if (!good) return false;
  const int64_t splits = (2 * team_.size() + units - 1) / units;
  return phase(walk, units * splits, [&](int64_t chunk) {
    const int64_t unit = chunk / splits;
    const Tile& tile = tiles_[unit / num_parts];
    const int part = static_cast<int>(unit % num_parts);
    const LowRank& weights = low_rank(tile, layer, slot + part);
    if (weights.rank == 0) return true;
    const Activations input{room, tile.count, weights.rank, false};
    for (int token = 0; token < tile.count; ++token)
      kernels_->put_row(input, token, narrow(tile.place + token, part), nullptr, weights.scale);
    const int64_t rows = layers_[layer].matrices[slot + part].rows;
    const auto [first, last] = share(num_groups(rows), chunk % splits, splits);
    kernels_->matmul({weights.format, weights.up, nullptr, weights.rank, rows, first, last, input, Sink::store,
                      added(tile.place, part), added_ld_, nullptr, false});
    return true;
  });
}

}  // namespace aquila
