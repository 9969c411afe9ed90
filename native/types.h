// What the kernels and the decoder share: weight formats, activations, the table of functions of an instruction set.
//
// A matrix `[rows, columns]` is cut into groups of 16 rows; a group is one run of bytes (see src/aquila/kernels/formats.py
// for the layout of each format). All kernels compute 16 rows at once and keep one accumulator a row and token, filled
// in the order of the columns. So a token's result has the same bits however many tokens are computed together.
#pragma once

#include <cstddef>
#include <cstdint>

// Never emitted as a function of its own: one compiled for AVX-512 could be linked in for all.
#define AQUILA_INLINE inline __attribute__((always_inline))

// Marks the body of `repeat`.
#define AQUILA_BODY __attribute__((always_inline))

namespace aquila {

template <int i>
struct Index {
  constexpr operator int() const { return i; }
};

// Calls body(Index<0>), body(Index<1>) ... The indices are constants from the start, so that arrays of sums become
// registers; GCC unrolls a loop too late for that and writes them to memory in every round.
template <int n, int i = 0, typename Body>
AQUILA_INLINE void repeat(const Body& body) {
  if constexpr (i < n) {
    body(Index<i>{});
    repeat<n, i + 1>(body);
  }
}

constexpr int kRows = 16;       // rows of a group
constexpr int kBlock = 32;      // columns that share a scale
constexpr int kPage = 16;       // positions of a page of keys and values
constexpr int kChunk = 128;     // positions that share a softmax before partial results are merged
constexpr int kMaxTile = 8;     // tokens that a kernel computes at once, at most
constexpr int kBlockTile = 6;   // of them for weights in blocks (registers: 2 x 6 int32 and 2 x 6 float sums)
constexpr int kFloatTile = 8;   // for float weights
constexpr int kMaxHeadDim = 4096;
constexpr int kQueryRows = 16;  // queries that one attention item computes

enum class Format : int { f32 = 0, f16 = 1, bf16 = 2, w4 = 3, w4m = 4, w8 = 5 };

AQUILA_INLINE bool in_blocks(Format format) { return format >= Format::w4; }

AQUILA_INLINE int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

AQUILA_INLINE int64_t num_groups(int64_t rows) { return (rows + kRows - 1) / kRows; }

AQUILA_INLINE int64_t group_bytes(Format format, int64_t columns) {
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  switch (format) {
    case Format::f32: return columns * kRows * 4;
    case Format::f16:
    case Format::bf16: return columns * kRows * 2;
    case Format::w4: return blocks * (2 * kRows + kRows * kBlock / 2);
    case Format::w4m: return blocks * (4 * kRows + kRows * kBlock / 2);
    case Format::w8: return blocks * (2 * kRows + kRows * kBlock);
  }
  return 0;
}

// The inputs of a matrix product, for `tokens` tokens in tiles of `tile` (the last tile may be smaller).
//
// Block formats: for each block of 32 columns `T x 32` int8 codes, then T scales (fp32), T zero points (int32, -8 times
// the sum of the codes) and T sums (fp32, scale times the sum of the codes), where T is the tokens of the tile.
// Float formats: for each column T values.
struct Activations {
  uint8_t* data;
  int64_t tokens;
  int64_t columns;
  bool blocks;

  AQUILA_INLINE int tile() const { return blocks ? kBlockTile : kFloatTile; }
  AQUILA_INLINE int64_t tiles() const { return (tokens + tile() - 1) / tile(); }
  AQUILA_INLINE int tile_tokens(int64_t index) const {
    const int64_t left = tokens - index * tile();
    return static_cast<int>(left < tile() ? left : tile());
  }
  AQUILA_INLINE int64_t token_bytes() const { return token_bytes(columns, blocks); }
  AQUILA_INLINE uint8_t* tile_data(int64_t index) const { return data + index * tile() * token_bytes(); }

  static AQUILA_INLINE int64_t token_bytes(int64_t columns, bool blocks) {
    return blocks ? (columns + kBlock - 1) / kBlock * (kBlock + 12) : columns * 4;
  }
};

enum class Sink : int { store, add, swiglu };

// Rows `[first, last)` (in groups) of a product. `weights` points at group 0; `gate` is the second matrix of swiglu.
struct Product {
  Format format;
  const uint8_t* weights;
  const uint8_t* gate;  // swiglu: out = silu(gate x) * (weights x)
  int64_t columns;
  int64_t rows;  // rows that exist: lanes past them are not written when `exact`
  int64_t first, last;
  Activations input;
  Sink sink;
  float* out;         // [tokens, ld], row r of the matrix at out[token * ld + r]
  int64_t ld;
  const float* bias;  // padded to groups, or null
  bool exact;         // out has no room for padding rows
  // For each token a row of values that are added to its product before anything else is done with it, or null.
  const float* const* extra = nullptr;
  const float* const* gate_extra = nullptr;  // likewise of the product with `gate`
};

enum class KvType : int { f32 = 0, f16 = 1, i8 = 2 };

// Keys and values: pages of 16 positions. In a page, one layer after the other, so that the system's huge pages fill as a
// text grows (a layer after the other would touch one of 2 MiB for each layer at the first token); for each kv head: keys `[dim][16]`, values `[16][dim]`,
// and for i8 16 scales of keys and 16 of values. `dim` is head_dim rounded up to 16.
struct KvLayout {
  KvType type;
  int kv_heads;
  int head_dim;
  int dim;

  AQUILA_INLINE int64_t item() const { return type == KvType::f32 ? 4 : type == KvType::f16 ? 2 : 1; }
  AQUILA_INLINE int64_t codes_bytes() const { return static_cast<int64_t>(dim) * kPage * item(); }
  AQUILA_INLINE int64_t head_bytes() const { return 2 * codes_bytes() + (type == KvType::i8 ? 2 * kPage * 4 : 0); }
  AQUILA_INLINE int64_t page_bytes() const { return kv_heads * head_bytes(); }
};

// Queries that look at one sequence through one kv head. Row i is a query head of a token, of `dim` floats at
// `queries[i]`, already rotated and scaled; it sees positions `0 .. visible[i] - 1`; visible does not fall with i.
struct AttentionItem {
  KvLayout layout;
  const uint8_t* layer;     // its part of page 0
  int64_t page_stride;      // bytes from a page to the next
  const int32_t* pages;     // page table of the sequence
  int kv_head;
  int num_rows;             // at most kQueryRows
  const float* queries[kQueryRows];
  int64_t visible[kQueryRows];
};

// Softmax over some positions, not yet divided: the largest score, the sum of exp(score - largest), the weighted values.
struct Partial {
  float peak;
  float total;
};

struct Kernels {
  const char* name;
  void (*matmul)(const Product&);
  // One token into its place among the activations: x * factor * weight (weight may be null).
  void (*put_row)(const Activations&, int64_t token, const float* x, const float* weight, float factor);
  float (*norm_factor)(const float* x, int64_t columns, float eps);
  // One chunk of an item: partials and weighted values `[row][dim]` of rows that see any of it; others are left alone.
  void (*attend_chunk)(const AttentionItem&, int64_t chunk, float* scratch, Partial* partials, float* values);
  // (state, sum) <- merged with (part, values), all of one row.
  void (*merge)(Partial* state, float* sum, const Partial* part, const float* values, int dim);
  // Rotates and scales one head: pairs (i, i + head_dim / 2), or (2i, 2i + 1) when interleaved.
  void (*rotate)(const float* x, const float* cos, const float* sin, int head_dim, bool interleaved, float scale, float* out);
  // Keys and values of one head and position into their page.
  void (*put_kv)(const KvLayout&, uint8_t* head, int slot, const float* key, const float* value);
  // One row of a matrix as floats (columns of them).
  void (*take_row)(Format, const uint8_t* group, int64_t columns, int lane, float* out);
};

constexpr int kScratchFloats = kQueryRows * kChunk;  // of attend_chunk

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

}  // namespace aquila
