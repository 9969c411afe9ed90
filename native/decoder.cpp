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

// The part of `count` that belongs to a member.
std::pair<int64_t, int64_t> share(int64_t count, int member, int members) {
  return {count * member / members, count * (member + 1) / members};
}

}  // namespace

Decoder::Decoder(const Shape& shape, const Kernels* kernels, int threads)
    : shape_(shape), kernels_(kernels), team_(threads), layers_(shape.layers), counters_(shape.layers) {
  const int64_t q_size = static_cast<int64_t>(shape.heads) * shape.head_dim;
  const int64_t kv_size = static_cast<int64_t>(shape.kv_heads) * shape.head_dim;
  hidden_ld_ = round_up(shape.hidden, kBlock);
  key_at_ = round_up(q_size, kRows);
  value_at_ = key_at_ + round_up(kv_size, kRows);
  qkv_ld_ = value_at_ + round_up(kv_size, kRows);
  attention_ld_ = round_up(q_size, kBlock);
  mlp_ld_ = round_up(shape.intermediate, kBlock);
  activation_columns_ = std::max({hidden_ld_, attention_ld_, mlp_ld_});
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
  stream_ = std::make_unique<Stream>(path, std::move(jobs), slots, readers);
  pass_ = 0;
}

void Decoder::set_pages(int64_t num_pages, KvType type) {
  kv_ = {type, shape_.kv_heads, shape_.head_dim, static_cast<int>(round_up(shape_.head_dim, kRows))};
  num_pages_ = num_pages;
  layer_bytes_ = num_pages * kv_.page_bytes();
  pages_ = Pages(static_cast<size_t>(layer_bytes_ * shape_.layers));
}

int64_t Decoder::page_bytes() const { return kv_.page_bytes() * shape_.layers; }

int64_t Decoder::scratch_bytes() const {
  int64_t total = 0;
  for (const Pages* pages : {&hidden_, &qkv_, &queries_, &attention_, &mlp_, &activations_, &scratch_, &parts_})
    total += static_cast<int64_t>(pages->size());
  return total;
}

void Decoder::reserve(int64_t tokens, int64_t wanted) {
  const int64_t rows = std::max(tokens, wanted);
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
  for (auto& counter : counters_) counter.store(0, std::memory_order_relaxed);
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
  reserve(static_cast<int64_t>(tokens.size()), static_cast<int64_t>(wanted_.size()));
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
  embed(member);
  team_.barrier();
  if (failed_.load()) return;
  for (int index = 0; index < shape_.layers; ++index)
    if (!run_layer(member, index)) return;
  if (wanted_.empty() && head_.first_job < 0) return;
  const int64_t count = static_cast<int64_t>(wanted_.size());
  const Activations input = normed(member, count, last_norm_, in_blocks(head_.format), wanted_.data());
  const Part part{&head_, nullptr, Sink::store, logits_, shape_.vocab, nullptr, true};
  products(member, &part, 1, input);
}

bool Decoder::run_layer(int member, int index) {
  const Layer& layer = layers_[index];
  const auto& m = layer.matrices;
  const int64_t tokens = static_cast<int64_t>(tokens_->size());
  float* qkv = qkv_.floats();
  auto bias = [&](int slot) { return layer.biases[slot].empty() ? nullptr : layer.biases[slot].data(); };
  const Part projections[3] = {{&m[kQ], nullptr, Sink::store, qkv, qkv_ld_, bias(kQ), false},
                               {&m[kK], nullptr, Sink::store, qkv + key_at_, qkv_ld_, bias(kK), false},
                               {&m[kV], nullptr, Sink::store, qkv + value_at_, qkv_ld_, bias(kV), false}};
  const Part output{&m[kO], nullptr, Sink::add, hidden_.floats(), hidden_ld_, nullptr, false};
  const Part gated{&m[kUp], &m[kGate], Sink::swiglu, mlp_.floats(), mlp_ld_, nullptr, false};
  const Part down{&m[kDown], nullptr, Sink::add, hidden_.floats(), hidden_ld_, nullptr, false};

  if (member == 0 && (*interrupted_)()) stopped_.store(true);
  if (!products(member, projections, 3, normed(member, tokens, layer.attention_norm, in_blocks(m[kQ].format), nullptr)))
    return false;
  team_.barrier();
  if (stopped_.load()) return false;
  rotate_and_store(member, index);
  team_.barrier();
  attend(member, index);
  team_.barrier();
  if (!products(member, &output, 1, attention_output(member, in_blocks(m[kO].format)))) return false;
  team_.barrier();
  if (!products(member, &gated, 1, normed(member, tokens, layer.mlp_norm, in_blocks(m[kUp].format), nullptr))) return false;
  team_.barrier();
  const Activations wide = fill_activations(member, tokens, shape_.intermediate, in_blocks(m[kDown].format),
                                            [&](const Activations& to, int64_t token) {
                                              kernels_->put_row(to, token, mlp_.floats() + token * mlp_ld_, nullptr, 1.0f);
                                            });
  if (!products(member, &down, 1, wide)) return false;
  team_.barrier();
  return true;
}

void Decoder::embed(int member) {
  const int64_t stride = embedding_.stride();
  const auto [first, last] = share(static_cast<int64_t>(tokens_->size()), member, team_.size());
  std::vector<uint8_t> room(embedding_.data ? 0 : static_cast<size_t>(stride));
  for (int64_t token = first; token < last; ++token) {
    const int64_t id = (*tokens_)[token], group = id / kRows;
    const uint8_t* data = embedding_.data + group * stride;
    if (embedding_.data == nullptr) {
      const std::string problem = read_past_cache(stream_->path(), embedding_.offset + group * stride, stride, room.data());
      if (!problem.empty()) {
        if (!failed_.exchange(true)) problem_ = problem;
        return;
      }
      data = room.data();
    }
    kernels_->take_row(embedding_.format, data, shape_.hidden, static_cast<int>(id % kRows),
                       hidden_.floats() + token * hidden_ld_);
  }
}

Activations Decoder::activations(int member, int64_t tokens, int64_t columns, bool blocks) const {
  uint8_t* data = activations_.data();
  if (tokens == 1) data += member * activation_columns_ * static_cast<int64_t>(sizeof(float));
  return {data, tokens, columns, blocks};
}

// One token: every member fills a copy of its own, which saves a barrier. More: each fills some of them.
template <typename PutRow>
Activations Decoder::fill_activations(int member, int64_t tokens, int64_t columns, bool blocks, PutRow put) {
  const Activations to = activations(member, tokens, columns, blocks);
  if (tokens == 1) {
    put(to, 0);
    return to;
  }
  const auto [first, last] = share(tokens, member, team_.size());
  for (int64_t token = first; token < last; ++token) put(to, token);
  team_.barrier();
  return to;
}

Activations Decoder::normed(int member, int64_t tokens, const std::vector<float>& weight, bool blocks, const int64_t* rows) {
  return fill_activations(member, tokens, shape_.hidden, blocks, [&](const Activations& to, int64_t token) {
    const float* x = hidden_.floats() + (rows ? rows[token] : token) * hidden_ld_;
    const float factor = kernels_->norm_factor(x, shape_.hidden, shape_.eps);
    kernels_->put_row(to, token, x, weight.data(), factor);
  });
}

const Activations Decoder::attention_output(int member, bool blocks) {
  const int64_t columns = static_cast<int64_t>(shape_.heads) * shape_.head_dim;
  const int64_t tokens = static_cast<int64_t>(tokens_->size());
  std::vector<float> merged(split_ ? static_cast<size_t>(attention_ld_) : 0, 0.0f);
  return fill_activations(member, tokens, columns, blocks, [&](const Activations& to, int64_t token) {
    const float* row = attention_.floats() + token * attention_ld_;
    if (split_) {
      finish_split(token, merged.data());
      row = merged.data();
    }
    kernels_->put_row(to, token, row, nullptr, 1.0f);
  });
}

// A member's part of all groups of the matrices. Matrices that are not in memory come piece by piece from the stream.
bool Decoder::products(int member, const Part* parts, int num_parts, const Activations& input) {
  int64_t total = 0;
  for (int i = 0; i < num_parts; ++i)
    if (parts[i].matrix->data) total += parts[i].matrix->groups();
  auto [first, last] = share(total, member, team_.size());
  for (int i = 0; i < num_parts; ++i) {
    const Part& part = parts[i];
    const Matrix& matrix = *part.matrix;
    if (matrix.data == nullptr) {
      if (!streamed_products(member, part, input)) return false;
      continue;
    }
    const int64_t begin = std::max<int64_t>(first, 0), end = std::min(last, matrix.groups());
    first -= matrix.groups();
    last -= matrix.groups();
    if (begin >= end || input.tokens == 0) continue;
    kernels_->matmul({matrix.format, matrix.data, part.gate ? part.gate->data : nullptr, matrix.columns, matrix.rows,
                      begin, end, input, part.sink, part.out, part.ld, part.bias, part.exact});
  }
  return true;
}

bool Decoder::streamed_products(int member, const Part& part, const Activations& input) {
  const Matrix& matrix = *part.matrix;
  const Matrix& leader = part.gate ? *part.gate : matrix;
  for (int64_t index = 0; index < leader.num_jobs; ++index) {
    const int64_t number = pass_ + leader.first_job + index;
    const uint8_t* data[2];
    if (!stream_->wait(number, data)) {
      failed_.store(true);
      return false;
    }
    const int64_t group = index * leader.job_groups;
    const int64_t count = std::min(leader.job_groups, leader.groups() - group);
    const auto [first, last] = share(count, member, team_.size());
    const int64_t before = group * matrix.stride();  // the kernel counts groups from the start of the matrix
    const uint8_t* weights = (part.gate ? data[1] : data[0]) - before;
    if (first < last && input.tokens > 0)
      kernels_->matmul({matrix.format, weights, part.gate ? data[0] - before : nullptr, matrix.columns, matrix.rows,
                        group + first, group + last, input, part.sink, part.out, part.ld, part.bias, part.exact});
    team_.barrier();
    if (member == 0) stream_->release(number);
  }
  return true;
}

void Decoder::rotate_and_store(int member, int layer) {
  const int group = shape_.heads / shape_.kv_heads, head_dim = shape_.head_dim, dim = kv_.dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const int64_t tokens = static_cast<int64_t>(tokens_->size());
  const auto [first, last] = share(tokens * shape_.kv_heads, member, team_.size());
  float key[4096], value[4096];
  std::memset(key, 0, sizeof(float) * dim);
  std::memset(value, 0, sizeof(float) * dim);
  for (int64_t item = first; item < last; ++item) {
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
    kernels_->rotate(row + key_at_ + head * head_dim, cos, sin, head_dim, shape_.interleaved, 1.0f, key);
    std::memcpy(value, row + value_at_ + head * head_dim, sizeof(float) * head_dim);
    uint8_t* page = pages_.data() + layer * layer_bytes_ + span.pages[position / kPage] * kv_.page_bytes();
    kernels_->put_kv(kv_, page + head * kv_.head_bytes(), static_cast<int>(position % kPage), key, value);
  }
}

AttentionItem Decoder::attention_item(const Item& item, int layer) const {
  const Span& span = (*spans_)[item.span];
  AttentionItem rows{};
  rows.layout = kv_;
  rows.layer = layer_pages(layer);
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

void Decoder::attend(int member, int layer) {
  float* scratch = scratch_.floats() + member * (kScratchFloats + 2 * kQueryRows * (kv_.dim + 2));
  for (;;) {
    const int64_t index = counters_[layer].fetch_add(1, std::memory_order_relaxed);
    if (index >= static_cast<int64_t>(items_.size())) return;
    const Item& item = items_[index];
    const AttentionItem rows = attention_item(item, layer);
    if (!split_) {
      attend_whole(item, rows, scratch);
      continue;
    }
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
  float sums[4096];
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
