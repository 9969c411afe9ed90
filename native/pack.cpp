#include "pack.h"

#include <cstring>

namespace aquila {
namespace {

// Sixteen bytes of GGUF nibbles (column j low, column 16 + j high) into four vectors of one row's lane.
void pack_nibbles(const uint8_t* from, int lane, uint8_t* codes) {
  uint8_t columns[kBlock];
  for (int j = 0; j < 16; ++j) {
    columns[j] = from[j] & 15;
    columns[16 + j] = from[j] >> 4;
  }
  for (int v = 0; v < 4; ++v)
    for (int j = 0; j < 4; ++j)
      codes[v * 64 + lane * 4 + j] = static_cast<uint8_t>(columns[8 * v + j] | columns[8 * v + 4 + j] << 4);
}

void pack_bytes(const uint8_t* from, int lane, uint8_t* codes) {
  for (int v = 0; v < 8; ++v)
    for (int j = 0; j < 4; ++j) codes[v * 64 + lane * 4 + j] = from[4 * v + j] ^ 0x80;
}

}  // namespace

int64_t gguf_block_bytes(Format format) { return format == Format::w4 ? 18 : format == Format::w4m ? 20 : 34; }

void pack_blocks(Format format, const uint8_t* blocks, int64_t rows, int64_t count, uint8_t* out) {
  const int64_t bytes = gguf_block_bytes(format), stride = group_bytes(format, count * kBlock);
  const int scales_bytes = format == Format::w4m ? 4 : 2, code_bytes = format == Format::w8 ? 512 : 256;
  for (int64_t group = 0; group < num_groups(rows); ++group, out += stride) {
    uint8_t* codes = out + count * kRows * scales_bytes;
    std::memset(out, 0, static_cast<size_t>(count * kRows * scales_bytes));
    std::memset(codes, format == Format::w8 ? 0x80 : 0, static_cast<size_t>(count * code_bytes));
    for (int lane = 0; lane < kRows && group * kRows + lane < rows; ++lane) {
      const uint8_t* from = blocks + (group * kRows + lane) * count * bytes;
      for (int64_t b = 0; b < count; ++b, from += bytes) {
        std::memcpy(out + (b * kRows + lane) * 2, from, 2);
        if (format == Format::w4m) std::memcpy(out + ((count + b) * kRows + lane) * 2, from + 2, 2);
        if (format == Format::w8) pack_bytes(from + 2, lane, codes + b * code_bytes);
        else pack_nibbles(from + scales_bytes, lane, codes + b * code_bytes);
      }
    }
  }
}

void interleave(const uint8_t* rows, int64_t count, int64_t columns, int item, uint8_t* out) {
  for (int64_t group = 0; group < num_groups(count); ++group, out += columns * kRows * item) {
    for (int lane = 0; lane < kRows; ++lane) {
      const int64_t row = group * kRows + lane;
      const uint8_t* from = rows + row * columns * item;
      for (int64_t k = 0; k < columns; ++k) {
        uint8_t* to = out + (k * kRows + lane) * item;
        if (row >= count) std::memset(to, 0, static_cast<size_t>(item));
        else if (item == 4) std::memcpy(to, from + k * 4, 4);
        else std::memcpy(to, from + k * 2, 2);
      }
    }
  }
}

}  // namespace aquila
