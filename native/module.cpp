// The Python face: arrays in, arrays out. Checks what Python could get wrong; the kernels trust their arguments.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "decoder.h"
#include "pack.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace aquila;

namespace {

template <typename T, int dims>
using Array = nb::ndarray<T, nb::ndim<dims>, nb::c_contig, nb::device::cpu>;

bool runs_here(const std::string& name) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  if (name == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return name == "portable" || name == "neon";
}

// Best first.
std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> found;
  for (const Kernels* kernels : {avx512_kernels(), avx2_kernels(), neon_kernels(), portable_kernels()})
    if (kernels != nullptr && runs_here(kernels->name)) found.push_back(kernels);
  return found;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Kernels* kernels : usable_kernels())
    if (name.empty() || name == kernels->name) return kernels;
  throw std::invalid_argument("no kernels for '" + name + "' on this processor");
}

Format parse_format(const std::string& name) {
  const char* names[] = {"f32", "f16", "bf16", "w4", "w4m", "w8"};
  for (int i = 0; i < 6; ++i)
    if (name == names[i]) return static_cast<Format>(i);
  throw std::invalid_argument("no weight format '" + name + "'");
}

KvType parse_kv(const std::string& name) {
  if (name == "f32") return KvType::f32;
  if (name == "f16") return KvType::f16;
  if (name == "i8") return KvType::i8;
  throw std::invalid_argument("no key-value type '" + name + "'");
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Whole pages of memory that numpy arrays look into.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : pages_(bytes) {}
  nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> array(nb::handle self) {
    return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(pages_.data(), {pages_.size()}, self);
  }
  size_t size() const { return pages_.size(); }

 private:
  Pages pages_;
};

class PyDecoder {
 public:
  PyDecoder(const Shape& shape, const std::string& kernels, int threads)
      : shape_(shape), decoder_(shape, find_kernels(kernels), threads) {}

  void set_matrix(int layer, int slot, const std::string& format, int64_t rows, int64_t columns,
                  Array<const uint8_t, 1> data) {
    check_shape(layer, slot, rows, columns);
    Matrix matrix{parse_format(format), rows, columns, data.data()};
    require(static_cast<int64_t>(data.size()) >= matrix.bytes(), "fewer bytes than the matrix has");
    decoder_.set_matrix(layer, slot, matrix);
  }
  void set_streamed(int layer, int slot, const std::string& format, int64_t rows, int64_t columns, int64_t offset) {
    check_shape(layer, slot, rows, columns);
    decoder_.set_matrix(layer, slot, Matrix{parse_format(format), rows, columns, nullptr, offset});
  }
  void set_norm(int layer, int which, Array<const float, 1> weight) {
    require(static_cast<int64_t>(weight.size()) == shape_.hidden, "a norm has hidden_size weights");
    decoder_.set_norm(layer, which, weight.data());
  }
  void set_bias(int layer, int slot, Array<const float, 1> bias) {
    require(slot >= kQ && slot <= kV && static_cast<int64_t>(bias.size()) == matrix_shape(slot).first,
            "a bias belongs to q, k or v and has the rows of its matrix");
    decoder_.set_bias(layer, slot, bias.data());
  }
  void set_stream(const std::string& path, int64_t job_bytes, int slots, int readers) {
    decoder_.set_stream(path, job_bytes, slots, readers);
  }
  void set_pages(int64_t count, const std::string& type) {
    num_pages_ = count;
    decoder_.set_pages(count, parse_kv(type));
  }

  void set_low_rank(int adapter, int layer, int slot, const std::string& format, int64_t rank,
                    Array<const uint8_t, 1> down, Array<const uint8_t, 1> up, float scale) {
    const Format kind = parse_format(format);
    require(adapter > 0 && adapter <= num_adapters_ + 1 && layer >= 0 && layer < shape_.layers && slot >= 0 &&
                slot < int{kLayerSlots} && rank > 0 && !in_blocks(kind),
            "adapters are numbered from 1 on, and belong to a matrix of a layer");
    const auto [rows, columns] = matrix_shape(slot);
    require(static_cast<int64_t>(down.size()) >= num_groups(rank) * group_bytes(kind, columns) &&
                static_cast<int64_t>(up.size()) >= num_groups(rows) * group_bytes(kind, rank),
            "fewer bytes than the matrices have");
    decoder_.set_low_rank(adapter, layer, slot, {kind, rank, down.data(), up.data(), scale});
    num_adapters_ = std::max(num_adapters_, adapter);
  }

  // spans: rows of (first, count, start, wanted, where its pages begin, adapter). False when a signal came.
  void step(Array<const int32_t, 1> tokens, Array<const int64_t, 2> spans, Array<const int32_t, 1> pages,
            Array<const float, 2> cos, Array<const float, 2> sin, Array<float, 2> logits) {
    const int64_t count = static_cast<int64_t>(tokens.size());
    require(count > 0 && spans.shape(1) == 6, "a step has tokens, and spans of six numbers");
    require(static_cast<int64_t>(cos.shape(0)) == count && static_cast<int64_t>(sin.shape(0)) == count &&
                static_cast<int64_t>(cos.shape(1)) == shape_.head_dim / 2 && sin.shape(1) == cos.shape(1),
            "rotation tables are [tokens, head_dim / 2]");
    std::vector<int32_t> ids(tokens.data(), tokens.data() + count);
    for (int32_t id : ids) require(id >= 0 && id < shape_.vocab, "a token id is outside the vocabulary");
    std::vector<Span> parsed;
    int64_t next = 0, wanted = 0;
    for (size_t i = 0; i < spans.shape(0); ++i) {
      const int64_t* row = spans.data() + 6 * i;
      const int64_t needed = (row[2] + row[1] + kPage - 1) / kPage;
      require(row[0] == next && row[1] > 0 && row[2] >= 0 && row[3] >= 0 && row[3] <= row[1], "spans follow each other");
      require(row[4] >= 0 && row[4] + needed <= static_cast<int64_t>(pages.size()), "a page table is too short");
      for (int64_t p = 0; p < needed; ++p)
        require(pages.data()[row[4] + p] >= 0 && pages.data()[row[4] + p] < num_pages_, "no such page");
      require(row[5] >= 0 && row[5] <= num_adapters_, "no such adapter");
      parsed.push_back({row[0], row[1], row[2], pages.data() + row[4], row[3], static_cast<int>(row[5])});
      next += row[1];
      wanted += row[3];
    }
    require(next == count, "spans cover all tokens");
    require(static_cast<int64_t>(logits.shape(0)) == wanted && static_cast<int64_t>(logits.shape(1)) == shape_.vocab,
            "logits are [wanted, vocab]");
    auto asked = std::chrono::steady_clock::now();
    auto interrupted = [&asked] {
      const auto now = std::chrono::steady_clock::now();
      if (now - asked < std::chrono::milliseconds(100)) return false;
      asked = now;
      nb::gil_scoped_acquire hold;
      return PyErr_CheckSignals() != 0;
    };
    bool finished;
    {
      nb::gil_scoped_release release;
      finished = decoder_.step(ids, parsed, cos.data(), sin.data(), logits.data(), interrupted);
    }
    if (!finished) throw nb::python_error();
  }

  std::string kernels() const { return decoder_.kernels()->name; }
  int threads() const { return decoder_.threads(); }
  int64_t scratch_bytes() const { return decoder_.scratch_bytes(); }
  int64_t page_bytes() const { return decoder_.page_bytes(); }
  int64_t stream_bytes() const { return decoder_.stream() ? decoder_.stream()->memory_bytes() : 0; }
  int64_t bytes_read() const { return decoder_.stream() ? decoder_.stream()->bytes_read() : 0; }
  bool direct() const { return decoder_.stream() != nullptr && decoder_.stream()->direct(); }

 private:
  // Rows and columns of a layer's matrix.
  std::pair<int64_t, int64_t> matrix_shape(int slot) const {
    const int64_t q_size = int64_t{shape_.heads} * shape_.head_dim, kv_size = int64_t{shape_.kv_heads} * shape_.head_dim;
    switch (slot) {
      case kQ: return {q_size, shape_.hidden};
      case kK:
      case kV: return {kv_size, shape_.hidden};
      case kO: return {shape_.hidden, q_size};
      case kDown: return {shape_.hidden, shape_.intermediate};
      default: return {shape_.intermediate, shape_.hidden};
    }
  }
  void check_shape(int layer, int slot, int64_t rows, int64_t columns) const {
    const bool outside = layer == -1;  // embedding and head
    const bool known = layer >= -1 && layer < shape_.layers && slot >= 0 && slot < (outside ? 2 : int{kLayerSlots});
    const std::pair<int64_t, int64_t> shape{rows, columns};
    require(known && shape == (outside ? std::pair{shape_.vocab, shape_.hidden} : matrix_shape(slot)),
            "this is no matrix of the model");
  }

  Shape shape_;
  Decoder decoder_;
  int64_t num_pages_ = 0;
  int num_adapters_ = 0;
};

// For tests and benches: x [tokens, columns] times a packed matrix, on one thread.
void product(const std::string& kernels, const std::string& format, Array<const uint8_t, 1> packed, int64_t rows,
             Array<const float, 2> x, Array<float, 2> out, int repeats) {
  const Kernels* table = find_kernels(kernels);
  const int64_t tokens = x.shape(0), columns = x.shape(1), wide = round_up(columns, kBlock);
  const Format kind = parse_format(format);
  require(static_cast<int64_t>(packed.size()) >= num_groups(rows) * group_bytes(kind, columns), "fewer bytes than the matrix has");
  require(static_cast<int64_t>(out.shape(0)) == tokens && static_cast<int64_t>(out.shape(1)) == rows, "out is [tokens, rows]");
  nb::gil_scoped_release release;
  Pages room(static_cast<size_t>(tokens * wide * 4)), row(static_cast<size_t>(wide * 4));
  const Activations input{room.data(), tokens, columns, in_blocks(kind)};
  for (int64_t token = 0; token < tokens; ++token) {
    std::memcpy(row.data(), x.data() + token * columns, static_cast<size_t>(columns) * 4);
    table->put_row(input, token, row.floats(), nullptr, 1.0f);
  }
  for (int i = 0; i < repeats; ++i)
    table->matmul({kind, packed.data(), nullptr, columns, rows, 0, num_groups(rows), input, Sink::store, out.data(), rows, nullptr, true});
}

void read_file(const std::string& path, int64_t offset, Array<uint8_t, 1> out) {
  std::string problem;
  {
    nb::gil_scoped_release release;
    problem = read_past_cache(path, offset, static_cast<int64_t>(out.size()), out.data());
  }
  if (!problem.empty()) throw std::runtime_error(problem);
}

void pack_blocks_array(const std::string& format, Array<const uint8_t, 2> blocks, Array<uint8_t, 1> out) {
  const Format kind = parse_format(format);
  require(in_blocks(kind), "only formats in blocks are packed from blocks");
  const int64_t count = blocks.shape(1) / gguf_block_bytes(kind);
  require(blocks.shape(1) == static_cast<size_t>(count * gguf_block_bytes(kind)), "rows are not whole blocks");
  require(static_cast<int64_t>(out.size()) == num_groups(blocks.shape(0)) * group_bytes(kind, count * kBlock), "out has another size");
  nb::gil_scoped_release release;
  pack_blocks(kind, blocks.data(), blocks.shape(0), count, out.data());
}

void interleave_array(Array<const uint8_t, 3> rows, Array<uint8_t, 1> out) {
  require(out.size() == static_cast<size_t>(num_groups(rows.shape(0)) * kRows) * rows.shape(1) * rows.shape(2), "out has another size");
  require(rows.shape(2) == 2 || rows.shape(2) == 4, "items have 2 or 4 bytes");
  nb::gil_scoped_release release;
  interleave(rows.data(), rows.shape(0), rows.shape(1), static_cast<int>(rows.shape(2)), out.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native CPU kernels and the decoder step. Use it through aquila.kernels.native.";
  m.def("usable_kernels", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->name);
    return names;
  });
  m.def("allocated_bytes", &allocated_bytes);
  m.def("product", &product, "kernels"_a, "format"_a, "packed"_a, "rows"_a, "x"_a, "out"_a, "repeats"_a = 1);
  m.def("pack_blocks", &pack_blocks_array, "format"_a, "blocks"_a, "out"_a);
  m.def("read_file", &read_file, "path"_a, "offset"_a, "out"_a);
  m.def("interleave", &interleave_array, "rows"_a, "out"_a);
  nb::class_<Buffer>(m, "Buffer")
      .def(nb::init<size_t>())
      .def("array", [](nb::handle self) { return nb::cast<Buffer&>(self).array(self); })
      .def_prop_ro("size", &Buffer::size);
  nb::class_<PyDecoder>(m, "Decoder")
      .def("__init__",
           [](PyDecoder* self, int64_t hidden, int64_t intermediate, int64_t vocab, int layers, int heads, int kv_heads,
              int head_dim, float eps, bool interleaved, const std::string& kernels, int threads) {
             require(head_dim <= kMaxHeadDim && heads % kv_heads == 0, "head_dim is at most 4096, heads a multiple of kv_heads");
             new (self) PyDecoder({hidden, intermediate, vocab, layers, heads, kv_heads, head_dim, eps, interleaved}, kernels, threads);
           },
           nb::kw_only(), "hidden"_a, "intermediate"_a, "vocab"_a, "layers"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
           "eps"_a, "interleaved"_a, "kernels"_a, "threads"_a)
      .def("set_matrix", &PyDecoder::set_matrix, nb::keep_alive<1, 7>())
      .def("set_streamed", &PyDecoder::set_streamed)
      .def("set_norm", &PyDecoder::set_norm)
      .def("set_bias", &PyDecoder::set_bias)
      .def("set_stream", &PyDecoder::set_stream)
      .def("set_pages", &PyDecoder::set_pages)
      .def("set_low_rank", &PyDecoder::set_low_rank, nb::keep_alive<1, 7>(), nb::keep_alive<1, 8>())
      .def("step", &PyDecoder::step)
      .def_prop_ro("kernels", &PyDecoder::kernels)
      .def_prop_ro("threads", &PyDecoder::threads)
      .def_prop_ro("scratch_bytes", &PyDecoder::scratch_bytes)
      .def_prop_ro("page_bytes", &PyDecoder::page_bytes)
      .def_prop_ro("stream_bytes", &PyDecoder::stream_bytes)
      .def_prop_ro("bytes_read", &PyDecoder::bytes_read)
      .def_prop_ro("direct", &PyDecoder::direct);
}
