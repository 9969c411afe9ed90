#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace aquila {
namespace {

std::vector<float> padded(const float* values, int64_t count, int64_t unit) {
  std::vector<float> out(static_cast<size_t>(round_up(count, unit)), 0.0f);
  std::copy(values, values + count, out.begin());
  return out;
}

}  // namespace

Decoder::Decoder(const Shape& shape, const Kernels* kernels, int threads)
    : shape_(shape), kernels_(kernels), team_(threads), layers_(shape.layers), phases_(12 * shape.layers + 8) {
  const int64_t q_size = static_cast<int64_t>(shape.heads) * shape.head_dim;
  const int64_t kv_size = static_cast<int64_t>(shape.kv_heads) * shape.head_dim;
  hidden_ld_ = round_up(shape.hidden, kBlock);
  key_at_ = round_up(q_size, kRows);
  value_at_ = key_at_ + round_up(kv_size, kRows);
  qkv_ld_ = value_at_ + round_up(kv_size, kRows);
  attention_ld_ = round_up(q_size, kBlock);
  mlp_ld_ = round_up(shape.intermediate, kBlock);
  activation_columns_ = std::max({hidden_ld_, attention_ld_, mlp_ld_});
  added_ld_ = std::max({3 * key_at_, 2 * round_up(shape.intermediate, kRows), hidden_ld_});
}

void Decoder::set_matrix(int layer, int slot, const Matrix& matrix) {
  if (layer < 0) (slot == 0 ? embedding_ : head_) = matrix;
  else layers_.at(layer).matrices.at(slot) = matrix;
}

void Decoder::set_norm(int layer, int which, const float* weight) {
  std::vector<float> values = padded(weight, shape_.hidden, kBlock);
  if (layer < 0) last_norm_ = std::move(values);
  else (which == 0 ? layers_.at(layer).attention_norm : layers_.at(layer).mlp_norm) = std::move(values);
}

void Decoder::set_bias(int layer, int slot, const float* bias) {
  layers_.at(layer).biases.at(slot) = padded(bias, layers_.at(layer).matrices.at(slot).rows, kRows);
}

void Decoder::set_stream(const std::string& path, int64_t job_bytes, int slots, int readers) {
  std::vector<Job> jobs;
  auto add = [&](Matrix& matrix, const Matrix* partner) {
    if (matrix.data != nullptr) return;
    const int64_t stride = matrix.stride() + (partner ? partner->stride() : 0);
    matrix.first_job = static_cast<int64_t>(jobs.size());
    matrix.job_groups = std::max<int64_t>(1, job_bytes / stride);
    for (int64_t group = 0; group < matrix.groups(); group += matrix.job_groups) {
      const int64_t count = std::min(matrix.job_groups, matrix.groups() - group);
      Job job{{matrix.offset + group * matrix.stride(), 0}, {count * matrix.stride(), 0}};
      if (partner) {
        job.offsets[1] = partner->offset + group * partner->stride();
        job.bytes[1] = count * partner->stride();
      }
      jobs.push_back(job);
    }
    matrix.num_jobs = static_cast<int64_t>(jobs.size()) - matrix.first_job;
  };
  for (Layer& layer : layers_) {
    for (int slot : {kQ, kK, kV, kO}) add(layer.matrices[slot], nullptr);
    add(layer.matrices[kGate], &layer.matrices[kUp]);
    add(layer.matrices[kDown], nullptr);
  }
  add(head_, nullptr);
  phases_ = std::vector<Phase>(phases_.size() + jobs.size());
  stream_ = std::make_unique<Stream>(path, std::move(jobs), slots, readers);
  pass_ = 0;
}

void Decoder::set_pages(int64_t num_pages, KvType type) {
  kv_ = {type, shape_.kv_heads, shape_.head_dim, static_cast<int>(round_up(shape_.head_dim, kRows))};
  pages_ = Pages(static_cast<size_t>(num_pages * page_bytes()));
}

int64_t Decoder::page_bytes() const { return kv_.page_bytes() * shape_.layers; }

int64_t Decoder::scratch_bytes() const {
  int64_t total = 0;
  for (const Pages* pages : {&hidden_, &qkv_, &queries_, &attention_, &mlp_, &activations_, &scratch_, &parts_, &narrow_,
                             &added_, &tile_inputs_})
    total += static_cast<int64_t>(pages->size());
  return total;
}

void Decoder::reserve(int64_t rows) {
  if (rows > max_tokens_) {
    max_tokens_ = rows;
    const size_t floats = sizeof(float) * static_cast<size_t>(rows);
    hidden_ = Pages(floats * hidden_ld_);
    qkv_ = Pages(floats * qkv_ld_);
    queries_ = Pages(floats * shape_.heads * kv_.dim);
    attention_ = Pages(floats * attention_ld_);
    mlp_ = Pages(floats * mlp_ld_);
    const int64_t copies = std::max<int64_t>(rows, team_.size());  // a token alone is copied by every member
    activations_ = Pages(sizeof(float) * static_cast<size_t>(copies * activation_columns_));
  }
  if (scratch_.size() == 0) {
    const int64_t floats = kScratchFloats + 2 * kQueryRows * (kv_.dim + 2);
    scratch_ = Pages(sizeof(float) * static_cast<size_t>(floats) * team_.size());
  }
}

// Attention is cut by chunks of positions only when there are too few heads and sequences to keep the team busy.
void Decoder::plan_attention() {
  items_.clear();
  int64_t most = 0;
  split_ = static_cast<int64_t>(spans_->size()) * shape_.kv_heads < 8 * team_.size();
  for (const Span& span : *spans_) {
    split_ = split_ && span.count == 1;
    most = std::max(most, span.start + span.count);
  }
  max_chunks_ = (most + kChunk - 1) / kChunk;
  split_ = split_ && max_chunks_ > 1;
  const int group = shape_.heads / shape_.kv_heads;
  for (int index = 0; index < static_cast<int>(spans_->size()); ++index) {
    const Span& span = (*spans_)[index];
    for (int head = 0; head < shape_.heads; head += std::min(kQueryRows, group - head % group)) {
      const int heads = std::min(kQueryRows, group - head % group);  // that share a kv head
      if (split_) {
        for (int64_t chunk = 0; chunk * kChunk < span.start + 1; ++chunk) items_.push_back({index, head, heads, 0, 1, chunk});
        continue;
      }
      const int64_t per_item = kQueryRows / heads;
      for (int64_t token = 0; token < span.count; token += per_item)
        items_.push_back({index, head, heads, token, std::min(per_item, span.count - token), -1});
    }
  }
  if (split_) {
    const size_t rows = spans_->size() * shape_.heads * max_chunks_;
    if (parts_.size() < rows * (kv_.dim + 2) * sizeof(float)) parts_ = Pages(rows * (kv_.dim + 2) * sizeof(float));
  }
  for (Phase& phase : phases_) {
    phase.next.store(0, std::memory_order_relaxed);
    phase.done.store(0, std::memory_order_relaxed);
  }
}

bool Decoder::step(const std::vector<int32_t>& tokens, const std::vector<Span>& spans, const float* cos,
                   const float* sin, float* logits, const std::function<bool()>& interrupted) {
  tokens_ = &tokens;
  spans_ = &spans;
  cos_ = cos;
  sin_ = sin;
  logits_ = logits;
  interrupted_ = &interrupted;
  wanted_.clear();
  token_spans_.clear();
  for (int index = 0; index < static_cast<int>(spans.size()); ++index) {
    const Span& span = spans[index];
    token_spans_.insert(token_spans_.end(), span.count, index);
    for (int64_t i = span.count - span.wanted; i < span.count; ++i) wanted_.push_back(span.first + i);
  }
  reserve(static_cast<int64_t>(tokens.size()));
  plan_adapters();
  plan_attention();
  stopped_.store(false);
  failed_.store(false);
  problem_.clear();
  team_.run([this](int member) { work(member); });
  if (stream_) {
    if (stopped_.load() || failed_.load()) {
      const std::string reason = problem_.empty() ? stream_->error() : problem_;
      stream_->restart();
      pass_ = 0;
      if (failed_.load()) throw std::runtime_error(reason);
    } else {
      pass_ += stream_->num_jobs();
    }
  }
  return !stopped_.load();
}

void Decoder::work(int member) {
  Walk walk{member};
  if (!embed(walk)) return;
  for (int index = 0; index < shape_.layers; ++index)
    if (!run_layer(walk, index)) return;
  if (wanted_.empty() && head_.first_job < 0) return;
  const Part part{&head_, nullptr, Sink::store, logits_, shape_.vocab, nullptr, true};
  multiply(walk, &part, 1, static_cast<int64_t>(wanted_.size()), shape_.hidden, in_blocks(head_.format),
           [this](const Activations& to, int64_t token, int64_t row) { put_normed(to, token, wanted_[row], last_norm_); });
}

bool Decoder::run_layer(Walk& walk, int index) {
  const Layer& layer = layers_[index];
  const auto& m = layer.matrices;
  const int64_t tokens = static_cast<int64_t>(tokens_->size());
  float* qkv = qkv_.floats();
  auto bias = [&](int slot) { return layer.biases[slot].empty() ? nullptr : layer.biases[slot].data(); };
  const Part projections[3] = {{&m[kQ], nullptr, Sink::store, qkv, qkv_ld_, bias(kQ), false, extra(0)},
                               {&m[kK], nullptr, Sink::store, qkv + key_at_, qkv_ld_, bias(kK), false, extra(1)},
                               {&m[kV], nullptr, Sink::store, qkv + value_at_, qkv_ld_, bias(kV), false, extra(2)}};
  const Part output{&m[kO], nullptr, Sink::add, hidden_.floats(), hidden_ld_, nullptr, false, extra(0)};
  const Part gated{&m[kUp], &m[kGate], Sink::swiglu, mlp_.floats(), mlp_ld_, nullptr, false, extra(1), extra(0)};
  const Part down{&m[kDown], nullptr, Sink::add, hidden_.floats(), hidden_ld_, nullptr, false, extra(0)};
  const int64_t attention_size = static_cast<int64_t>(shape_.heads) * shape_.head_dim;
  std::vector<float> merged(split_ ? static_cast<size_t>(attention_ld_) : 0, 0.0f);
  auto put_first = [&](const Activations& to, int64_t token, int64_t row) {
    put_normed(to, token, row, layer.attention_norm);
  };
  auto put_merged = [&](const Activations& to, int64_t token, int64_t row) { put_attention(to, token, row, merged.data()); };
  auto put_second = [&](const Activations& to, int64_t token, int64_t row) { put_normed(to, token, row, layer.mlp_norm); };
  auto put_gated = [&](const Activations& to, int64_t token, int64_t row) {
    kernels_->put_row(to, token, mlp_.floats() + row * mlp_ld_, nullptr, 1.0f);
  };
  auto adapted = [&](int slot, int num_parts, const auto& put) {
    return tiles_.empty() || adapt(walk, index, slot, num_parts, put);
  };

  if (walk.member == 0 && (*interrupted_)()) stopped_.store(true);
  return adapted(kQ, 3, put_first) &&
         multiply(walk, projections, 3, tokens, shape_.hidden, in_blocks(m[kQ].format), put_first) &&
         rotate_and_store(walk, index) && attend(walk, index) && adapted(kO, 1, put_merged) &&
         multiply(walk, &output, 1, tokens, attention_size, in_blocks(m[kO].format), put_merged) &&
         adapted(kGate, 2, put_second) &&
         multiply(walk, &gated, 1, tokens, shape_.hidden, in_blocks(m[kUp].format), put_second) &&
         adapted(kDown, 1, put_gated) &&
         multiply(walk, &down, 1, tokens, shape_.intermediate, in_blocks(m[kDown].format), put_gated);
}

// Enough that a member which comes late finds something left, few enough that taking them costs nothing.
int64_t Decoder::chunks_of(int64_t pairs) const {
  const int64_t members = team_.size();
  return members == 1 ? 1 : std::max<int64_t>(1, std::min(pairs / 2, pairs >= 64 * members ? 6 * members : 2 * members));
}

bool Decoder::embed(Walk& walk) {
  const int64_t stride = embedding_.stride(), tokens = static_cast<int64_t>(tokens_->size());
  const int64_t chunks = std::min<int64_t>(tokens, 2 * team_.size());
  std::vector<uint8_t> room(embedding_.data ? 0 : static_cast<size_t>(stride));
  return phase(walk, chunks, [&](int64_t chunk) {
    const auto [first, last] = share(tokens, chunk, chunks);
    for (int64_t token = first; token < last; ++token) {
      const int64_t id = (*tokens_)[token], group = id / kRows;
      const uint8_t* data = embedding_.data + group * stride;
      if (embedding_.data == nullptr) {
        const std::string problem = stream_->read(embedding_.offset + group * stride, stride, room.data());
        if (!problem.empty()) {
          if (!failed_.exchange(true)) problem_ = problem;
          return false;
        }
        data = room.data();
      }
      float* row = hidden_.floats() + token * hidden_ld_;
      kernels_->take_row(embedding_.format, data, shape_.hidden, static_cast<int>(id % kRows), row);
      std::fill(row + shape_.hidden, row + hidden_ld_, 0.0f);  // products of an earlier step may have left a NaN there
    }
    return true;
  });
}

void Decoder::put_normed(const Activations& to, int64_t token, int64_t row, const std::vector<float>& weight) const {
  const float* x = hidden_.floats() + row * hidden_ld_;
  kernels_->put_row(to, token, x, weight.data(), kernels_->norm_factor(x, shape_.hidden, shape_.eps));
}

void Decoder::put_attention(const Activations& to, int64_t token, int64_t row, float* merged) const {
  if (split_) finish_split(row, merged);
  kernels_->put_row(to, token, split_ ? merged : attention_.floats() + row * attention_ld_, nullptr, 1.0f);
}

template <typename Put>
bool Decoder::multiply(Walk& walk, const Part* parts, int num_parts, int64_t tokens, int64_t columns, bool blocks, Put put) {
  const int64_t own = tokens == 1 ? walk.member * activation_columns_ * static_cast<int64_t>(sizeof(float)) : 0;
  const Activations input{activations_.data() + own, tokens, columns, blocks};
  bool prepared = tokens != 1;  // a token alone is prepared by every member that takes a chunk, which saves a phase
  if (tokens > 1) {
    const int64_t chunks = std::min<int64_t>(tokens, 4 * team_.size());
    const bool good = phase(walk, chunks, [&](int64_t chunk) {
      const auto [first, last] = share(tokens, chunk, chunks);
      for (int64_t token = first; token < last; ++token) put(input, token, token);
      return true;
    });
    if (!good) return false;
  }
  auto prepare = [&] {
    if (!prepared) put(input, 0, 0);
    prepared = true;
  };
  int64_t pairs = 0;
  for (int i = 0; i < num_parts; ++i) {
    if (parts[i].matrix->data == nullptr && !streamed(walk, parts[i], input, prepare)) return false;
    if (parts[i].matrix->data != nullptr) pairs += (parts[i].matrix->groups() + 1) / 2;
  }
  if (pairs == 0 || tokens == 0) return true;
  const int64_t chunks = chunks_of(pairs);
  return phase(walk, chunks, [&](int64_t chunk) {
    prepare();
    auto [first, last] = share(pairs, chunk, chunks);
    for (int i = 0; i < num_parts; ++i) {
      const Part& part = parts[i];
      const Matrix& matrix = *part.matrix;
      if (matrix.data == nullptr) continue;
      const int64_t here = (matrix.groups() + 1) / 2;
      const int64_t begin = 2 * std::max<int64_t>(first, 0), end = std::min(2 * std::min(last, here), matrix.groups());
      first -= here;
      last -= here;
      if (begin >= end) continue;
      kernels_->matmul({matrix.format, matrix.data, part.gate ? part.gate->data : nullptr, matrix.columns, matrix.rows,
                        begin, end, input, part.sink, part.out, part.ld, part.bias, part.exact, part.extra,
                        part.gate_extra});
    }
    return true;
  });
}

// A matrix that is not in memory comes piece by piece from the ring. Each piece is a phase; who does its last chunk
// gives its place in the ring back.
bool Decoder::streamed(Walk& walk, const Part& part, const Activations& input, const std::function<void()>& prepare) {
  const Matrix& matrix = *part.matrix;
  const Matrix& leader = part.gate ? *part.gate : matrix;
  for (int64_t index = 0; index < leader.num_jobs; ++index) {
    const int64_t number = pass_ + leader.first_job + index;
    const int64_t group = index * leader.job_groups;
    const int64_t count = std::min(leader.job_groups, leader.groups() - group);
    const int64_t pairs = (count + 1) / 2, chunks = chunks_of(pairs);
    auto multiply_piece = [&](int64_t chunk) {
      const uint8_t* data[2];
      if (!stream_->wait(number, data)) return false;
      const auto [first, last] = share(pairs, chunk, chunks);
      const int64_t before = group * matrix.stride();  // the kernel counts groups from the start of the matrix
      const uint8_t* weights = (part.gate ? data[1] : data[0]) - before;
      if (input.tokens > 0) {
        prepare();
        kernels_->matmul({matrix.format, weights, part.gate ? data[0] - before : nullptr, matrix.columns, matrix.rows,
                          group + 2 * first, std::min(group + 2 * last, group + count), input, part.sink, part.out, part.ld,
                          part.bias, part.exact, part.extra, part.gate_extra});
      }
      return true;
    };
    if (!phase(walk, chunks, multiply_piece, [&] { stream_->release(number); })) return false;
  }
  return true;
}

bool Decoder::rotate_and_store(Walk& walk, int layer) {
  const int64_t items = static_cast<int64_t>(tokens_->size()) * shape_.kv_heads;
  const int64_t chunks = std::min<int64_t>(items, 2 * team_.size());
  return phase(walk, chunks, [&](int64_t chunk) {
    const auto [first, last] = share(items, chunk, chunks);
    for (int64_t item = first; item < last; ++item) rotate_item(layer, item);
    return true;
  });
}

// A token's key and value of one kv head into its page, and the queries that belong to it.
void Decoder::rotate_item(int layer, int64_t item) {
  const int group = shape_.heads / shape_.kv_heads, head_dim = shape_.head_dim, dim = kv_.dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const int64_t token = item / shape_.kv_heads;
  const int head = static_cast<int>(item % shape_.kv_heads);
  const Span& span = (*spans_)[token_spans_[token]];
  const int64_t position = span.start + token - span.first;
  const float* row = qkv_.floats() + token * qkv_ld_;
  const float* cos = cos_ + token * (head_dim / 2);
  const float* sin = sin_ + token * (head_dim / 2);
  for (int i = 0; i < group; ++i) {
    const int64_t query = head * group + i;
    kernels_->rotate(row + query * head_dim, cos, sin, head_dim, shape_.interleaved, scale,
                     queries_.floats() + (token * shape_.heads + query) * dim);
  }
  float key[kMaxHeadDim], value[kMaxHeadDim];
  std::memset(key + head_dim, 0, sizeof(float) * (dim - head_dim));
  std::memset(value + head_dim, 0, sizeof(float) * (dim - head_dim));
  kernels_->rotate(row + key_at_ + head * head_dim, cos, sin, head_dim, shape_.interleaved, 1.0f, key);
  std::memcpy(value, row + value_at_ + head * head_dim, sizeof(float) * head_dim);
  uint8_t* page = pages_.data() + span.pages[position / kPage] * page_bytes() + layer * kv_.page_bytes();
  kernels_->put_kv(kv_, page + head * kv_.head_bytes(), static_cast<int>(position % kPage), key, value);
}

AttentionItem Decoder::attention_item(const Item& item, int layer) const {
  const Span& span = (*spans_)[item.span];
  AttentionItem rows{};
  rows.layout = kv_;
  rows.layer = layer_pages(layer);
  rows.page_stride = page_bytes();
  rows.pages = span.pages;
  rows.kv_head = item.head / (shape_.heads / shape_.kv_heads);
  for (int64_t token = item.token; token < item.token + item.count; ++token) {
    for (int64_t head = item.head; head < item.head + item.heads; ++head) {
      rows.queries[rows.num_rows] = queries_.floats() + ((span.first + token) * shape_.heads + head) * kv_.dim;
      rows.visible[rows.num_rows++] = span.start + token + 1;
    }
  }
  return rows;
}

bool Decoder::attend(Walk& walk, int layer) {
  float* scratch = scratch_.floats() + walk.member * (kScratchFloats + 2 * kQueryRows * (kv_.dim + 2));
  return phase(walk, static_cast<int64_t>(items_.size()), [&](int64_t index) {
    const Item& item = items_[index];
    const AttentionItem rows = attention_item(item, layer);
    if (split_) attend_split(item, rows, scratch);
    else attend_whole(item, rows, scratch);
    return true;
  });
}

void Decoder::attend_split(const Item& item, const AttentionItem& rows, float* scratch) {
  Partial partials[kQueryRows];
  float* values = scratch + kScratchFloats;
  kernels_->attend_chunk(rows, item.chunk, scratch, partials, values);
  for (int i = 0; i < item.heads; ++i) {
    const int64_t head = item.head + i;
    float* part = parts_.floats() + ((item.span * shape_.heads + head) * max_chunks_ + item.chunk) * (kv_.dim + 2);
    std::memcpy(part, &partials[i], sizeof(Partial));
    std::memcpy(part + 2, values + i * kv_.dim, sizeof(float) * kv_.dim);
  }
}

void Decoder::attend_whole(const Item& item, const AttentionItem& rows, float* scratch) {
  const Span& span = (*spans_)[item.span];
  const int dim = kv_.dim;
  Partial partials[kQueryRows], states[kQueryRows];
  float* values = scratch + kScratchFloats;
  float* sums = values + kQueryRows * dim;
  const int64_t end = rows.visible[rows.num_rows - 1];
  for (int64_t chunk = 0; chunk * kChunk < end; ++chunk) {
    kernels_->attend_chunk(rows, chunk, scratch, partials, values);
    for (int i = 0; i < rows.num_rows; ++i) {
      if (rows.visible[i] <= chunk * kChunk) continue;
      if (chunk == 0) {
        states[i] = partials[i];
        std::memcpy(sums + i * dim, values + i * dim, sizeof(float) * dim);
      } else {
        kernels_->merge(&states[i], sums + i * dim, &partials[i], values + i * dim, dim);
      }
    }
  }
  for (int i = 0; i < rows.num_rows; ++i) {
    const int64_t token = span.first + item.token + i / item.heads, head = item.head + i % item.heads;
    float* out = attention_.floats() + token * attention_ld_ + head * shape_.head_dim;
    for (int d = 0; d < shape_.head_dim; ++d) out[d] = sums[i * dim + d] / states[i].total;
  }
}

void Decoder::finish_split(int64_t token, float* row) const {
  const int span_index = token_spans_[token];
  const int64_t chunks = ((*spans_)[span_index].start + kChunk) / kChunk;
  float sums[kMaxHeadDim];
  for (int head = 0; head < shape_.heads; ++head) {
    const float* part = parts_.floats() + (static_cast<int64_t>(span_index) * shape_.heads + head) * max_chunks_ * (kv_.dim + 2);
    Partial state;
    std::memcpy(&state, part, sizeof(Partial));
    std::memcpy(sums, part + 2, sizeof(float) * kv_.dim);
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      part += kv_.dim + 2;
      Partial next;
      std::memcpy(&next, part, sizeof(Partial));
      kernels_->merge(&state, sums, &next, part + 2, kv_.dim);
    }
    for (int d = 0; d < shape_.head_dim; ++d) row[head * shape_.head_dim + d] = sums[d] / state.total;
  }
}

}  // namespace aquila
