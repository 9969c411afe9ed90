// The whole step of a decoder on a CPU: token ids in, logits out.
//
// A step is a row of phases; a phase is a number of chunks. Every member of the team walks through the phases in order,
// takes chunks of each while there are any, and waits until all are done. Nobody waits for a member that has taken
// nothing: on a machine that is shared, one that has lost its processor holds up at most the chunk it was at.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "stream.h"
#include "team.h"
#include "types.h"

namespace aquila {

struct Shape {
  int64_t hidden, intermediate, vocab;
  int layers, heads, kv_heads, head_dim;
  float eps;
  bool interleaved;  // rotary pairs (2i, 2i + 1)
};

// A weight matrix: in memory at `data`, or in the file at `offset` (data null).
struct Matrix {
  Format format = Format::f32;
  int64_t rows = 0, columns = 0;
  const uint8_t* data = nullptr;
  int64_t offset = 0;
  int64_t first_job = -1, num_jobs = 0;  // in the stream; gate and up share the jobs of gate
  int64_t job_groups = 0;                // groups in each job but the last

  int64_t stride() const { return group_bytes(format, columns); }
  int64_t groups() const { return num_groups(rows); }
  int64_t bytes() const { return stride() * groups(); }
};

// The part of `count` that belongs to a member.
inline std::pair<int64_t, int64_t> share(int64_t count, int64_t member, int64_t members) {
  return {count * member / members, count * (member + 1) / members};
}

enum Slot : int { kQ, kK, kV, kO, kGate, kUp, kDown, kLayerSlots };

constexpr int kMaxParts = 3;  // matrices that read the same input

struct Layer {
  std::array<Matrix, kLayerSlots> matrices;
  std::vector<float> attention_norm, mlp_norm;  // padded to 32
  std::array<std::vector<float>, 3> biases;     // of q, k, v; padded to 16, or empty
};

// What an adapter adds to a matrix: y += scale * up (down x). Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
struct LowRank {
  Format format = Format::f32;   // without blocks
  int64_t rank = 0;              // 0: nothing
  const uint8_t* down = nullptr;  // [rank, columns]
  const uint8_t* up = nullptr;    // [rows, rank]
  float scale = 0.0f;
};

// One sequence of a step.
struct Span {
  int64_t first;  // row of its first token
  int64_t count;
  int64_t start;  // position of it
  const int32_t* pages;
  int64_t wanted;  // logits of the last so many tokens
  int adapter;     // 1, 2 ..., or 0 for none
};

class Decoder {
 public:
  Decoder(const Shape& shape, const Kernels* kernels, int threads);

  // Set up: all matrices and norms, then the stream (if any matrix has no data), then the pages.
  void set_matrix(int layer, int slot, const Matrix& matrix);  // layer -1: slot 0 embedding, slot 1 head
  void set_norm(int layer, int which, const float* weight);    // layer -1: the last norm
  void set_bias(int layer, int slot, const float* bias);
  void set_stream(const std::string& path, int64_t job_bytes, int slots, int readers);
  void set_pages(int64_t num_pages, KvType type);
  void set_low_rank(int adapter, int layer, int slot, const LowRank& low_rank);  // at any time between steps

  // cos, sin: [tokens, head_dim / 2]. logits: [wanted rows, vocab]. `interrupted` is asked now and then by member 0.
  // Throws std::runtime_error when weights cannot be read. False when interrupted: nothing of the step counts.
  bool step(const std::vector<int32_t>& tokens, const std::vector<Span>& spans, const float* cos, const float* sin,
            float* logits, const std::function<bool()>& interrupted);

  const Kernels* kernels() const { return kernels_; }
  int threads() const { return team_.size(); }
  const Stream* stream() const { return stream_.get(); }
  int64_t scratch_bytes() const;
  int64_t page_bytes() const;  // in all layers

 private:
  struct Part {  // of a phase of products that read the same input
    const Matrix* matrix;
    const Matrix* gate;
    Sink sink;
    float* out;
    int64_t ld;
    const float* bias;
    bool exact;
    const float* const* extra = nullptr;  // of adapters, see Product
    const float* const* gate_extra = nullptr;
  };
  // Puts row `row` of the step as token `token` among the activations.
  using PutRow = std::function<void(const Activations&, int64_t token, int64_t row)>;
  struct Tile {  // tokens of one adapter
    int adapter, count;
    int64_t place;  // in adapted_rows_
  };
  struct Item {  // of attention: some tokens of a span and heads that share a kv head; one chunk when split
    int span, head, heads;
    int64_t token, count, chunk;
  };

  struct alignas(64) Phase {
    std::atomic<int64_t> next{0};               // chunk to take
    alignas(64) std::atomic<int64_t> done{0};
  };
  struct Walk {  // of a member through the phases of a step
    int member;
    int64_t phase = 0;
  };

  void reserve(int64_t rows);
  void plan_attention();
  void work(int member);
  bool run_layer(Walk& walk, int index);
  bool embed(Walk& walk);
  // One phase: work(chunk) for the chunks that this member gets, false when it cannot be done; finish() by the member
  // that does the last one. False when the step ends here.
  template <typename Work, typename Finish>
  bool phase(Walk& walk, int64_t chunks, Work work, Finish finish);
  template <typename Work>
  bool phase(Walk& walk, int64_t chunks, Work work) {
    return phase(walk, chunks, work, [] {});
  }
  // A product whose input rows are `put` among the activations first: by each member for itself when there is one.
  template <typename Put>
  bool multiply(Walk& walk, const Part* parts, int num_parts, int64_t tokens, int64_t columns, bool blocks, Put put);
  void plan_adapters();
  // What adapters add to `num_parts` matrices from `slot` on that read the same input, into `extra(part)`.
  bool adapt(Walk& walk, int layer, int slot, int num_parts, const PutRow& put);
  const LowRank& low_rank(const Tile& tile, int layer, int slot) const { return adapters_[tile.adapter][layer][slot]; }
  int64_t tile_floats() const;
  const float** extra(int part) { return tiles_.empty() ? nullptr : extra_.data() + part * tokens_->size(); }
  bool streamed(Walk& walk, const Part& part, const Activations& input, const std::function<void()>& prepare);
  int64_t chunks_of(int64_t pairs) const;
  bool rotate_and_store(Walk& walk, int layer);
  void rotate_item(int layer, int64_t item);
  bool attend(Walk& walk, int layer);
  void attend_split(const Item& item, const AttentionItem& rows, float* scratch);
  void attend_whole(const Item& item, const AttentionItem& rows, float* scratch);
  AttentionItem attention_item(const Item& item, int layer) const;
  void finish_split(int64_t token, float* row) const;
  void put_normed(const Activations& to, int64_t token, int64_t row, const std::vector<float>& weight) const;
  void put_attention(const Activations& to, int64_t token, int64_t row, float* merged) const;
  const uint8_t* layer_pages(int layer) const { return pages_.data() + layer * kv_.page_bytes(); }

  const Shape shape_;
  const Kernels* kernels_;
  Team team_;
  std::vector<Layer> layers_;
  Matrix embedding_, head_;
  std::vector<float> last_norm_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::vector<std::array<LowRank, kLayerSlots>>> adapters_;  // [adapter - 1][layer][slot]
  int64_t narrow_ld_ = 0, added_ld_;
  KvLayout kv_{};
  Pages pages_;

  // Scratch, sized by the largest step so far.
  int64_t max_tokens_ = 0;
  Pages narrow_, added_, tile_inputs_;  // of adapters: down x, up (down x) and the inputs of a tile, one a member
  int64_t hidden_ld_, qkv_ld_, key_at_, value_at_, attention_ld_, mlp_ld_, activation_columns_;
  Pages hidden_, qkv_, queries_, attention_, mlp_, activations_, scratch_, parts_;

  // The step in progress.
  const std::vector<int32_t>* tokens_ = nullptr;
  const std::vector<Span>* spans_ = nullptr;
  const float* cos_ = nullptr;
  const float* sin_ = nullptr;
  float* logits_ = nullptr;
  const std::function<bool()>* interrupted_ = nullptr;
  std::vector<int64_t> wanted_;    // rows whose logits are wanted
  std::vector<int> token_spans_;   // span of each row
  std::vector<Item> items_;
  std::vector<int64_t> adapted_rows_;  // rows of tokens with an adapter, adapter by adapter
  std::vector<Tile> tiles_;            // of them
  std::vector<const float*> extra_;    // [parts][tokens]
  bool split_ = false;
  int64_t max_chunks_ = 0;         // of a split step
  std::vector<Phase> phases_;
  std::atomic<bool> stopped_{false}, failed_{false};  // interrupted; weights cannot be read
  std::string problem_;            // why an embedding row could not be read
  int64_t pass_ = 0;               // running number of the first job of this step
};

template <typename Work, typename Finish>
bool Decoder::phase(Walk& walk, int64_t chunks, Work work, Finish finish) {
  Phase& phase = phases_[walk.phase++];
  for (;;) {
    const int64_t chunk = phase.next.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= chunks) break;
    if (!work(chunk)) {
      failed_.store(true);
      return false;
    }
    if (phase.done.fetch_add(1, std::memory_order_acq_rel) == chunks - 1) finish();
  }
  for (Pause pause; phase.done.load(std::memory_order_acquire) < chunks; pause.again())
    if (failed_.load(std::memory_order_relaxed) || stopped_.load(std::memory_order_relaxed)) return false;
  return !failed_.load(std::memory_order_relaxed) && !stopped_.load(std::memory_order_relaxed);
}

}  // namespace aquila
