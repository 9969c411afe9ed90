// From rows as files hold them to groups of 16 rows. The layouts are described in src/aquila/kernels/formats.py.
#pragma once

#include <cstdint>

#include "types.h"

namespace aquila {

int64_t gguf_block_bytes(Format format);
// `blocks` is [rows, count * gguf_block_bytes], GGUF's Q4_0, Q4_1 or Q8_0; nothing is lost.
void pack_blocks(Format format, const uint8_t* blocks, int64_t rows, int64_t count, uint8_t* out);
// Rows [rows, columns] of items of 2 or 4 bytes; rows that are missing in the last group become zeros.
void interleave(const uint8_t* rows, int64_t count, int64_t columns, int item, uint8_t* out);

}  // namespace aquila
