// Every instruction set that this program was built with, and that runs here, against the portable kernels: the way to
// try one whose machine is not at hand, under an emulator (tools/agree.sh). Prints a line for each; 1 when one differs.
//
// Rounded inputs, pages and single rows must have the same bits. Sums may differ by 1e-5 of the largest value: the portable
// kernels do not join a product and its addition.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "types.h"

using namespace aquila;

namespace {

std::mt19937 generator(1);
int num_wrong = 0;
constexpr int kShown = 10;

float normal() { return std::normal_distribution<float>()(generator); }
int below(int n) { return static_cast<int>(generator() % static_cast<unsigned>(n)); }

// Memory that kernels may prefetch or read to a whole block behind, aligned to a cache line.
template <typename T>
struct Room {
  std::vector<T> items;
  T* data;
  explicit Room(int64_t count) : items(static_cast<size_t>(count) + 128 / sizeof(T)) {
    data = reinterpret_cast<T*>(round_up(reinterpret_cast<int64_t>(items.data()), 64));
  }
};

void compare(const std::string& what, const void* found, const void* expected, size_t bytes) {
  if (std::memcmp(found, expected, bytes) == 0) return;
  if (++num_wrong <= kShown) std::printf("differs: %s\n", what.c_str());
}

void compare_near(const std::string& what, const float* found, const float* expected, int64_t count) {
  float largest = 1e-30f, error = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::fmax(largest, std::fabs(expected[i]));
    const float apart = std::fabs(found[i] - expected[i]);
    error = std::isnan(apart) ? std::numeric_limits<float>::infinity() : std::fmax(error, apart);
  }
  if (error <= 1e-5f * largest) return;
  if (++num_wrong <= kShown) std::printf("differs: %s, by %g of %g\n", what.c_str(), error, largest);
}

uint16_t some_half() { return static_cast<uint16_t>(below(2) << 15 | (8 + below(6)) << 10 | below(1024)); }

void fill_weights(Format format, int64_t columns, uint8_t* group) {
  const int64_t bytes = group_bytes(format, columns), blocks = (columns + kBlock - 1) / kBlock;
  for (int64_t i = 0; i < bytes; ++i) group[i] = static_cast<uint8_t>(below(256));
  const int64_t halves = format == Format::w4m ? 2 * blocks : format >= Format::w4 ? blocks : 0;
  for (int64_t i = 0; i < halves * kRows; ++i) reinterpret_cast<uint16_t*>(group)[i] = some_half();
  for (int64_t i = 0; format < Format::w4 && i < columns * kRows; ++i) {
    if (format == Format::f32) reinterpret_cast<float*>(group)[i] = normal();
    else reinterpret_cast<uint16_t*>(group)[i] = format == Format::f16 ? some_half() : static_cast<uint16_t>(0x3f00 + below(512));
  }
}

struct Inputs {
  Room<float> rows;  // padded with zeros to 32
  Room<float> weight;
  int64_t tokens, columns, wide;
  Inputs(int64_t tokens_, int64_t columns_)
      : rows(tokens_ * round_up(columns_, kBlock)), weight(round_up(columns_, kBlock)), tokens(tokens_), columns(columns_),
        wide(round_up(columns_, kBlock)) {
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t k = 0; k < columns; ++k) rows.data[t * wide + k] = normal() * std::pow(10.0f, static_cast<float>(t % 7 - 3));
    for (int64_t k = 0; k < columns; ++k) weight.data[k] = 1.0f + 0.1f * normal();
  }
};

void put_rows(const Kernels& kernels, const Inputs& inputs, const Activations& to) {
  for (int64_t t = 0; t < inputs.tokens; ++t)
    kernels.put_row(to, t, inputs.rows.data + t * inputs.wide, t % 2 ? inputs.weight.data : nullptr, 0.5f);
}

void check_products(const Kernels& kernels, const Kernels& portable) {
  const char* names[] = {"f32", "f16", "bf16", "w4", "w4m", "w8"};
  const char* sinks[] = {"store", "add", "swiglu"};
  for (int f = 0; f < 6; ++f) {
    const Format format = static_cast<Format>(f);
    for (const int64_t columns : {1, 31, 64, 257, 640})
      for (const int64_t rows : {5, 48})
        for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 19, 41}) {
          const int64_t groups = num_groups(rows), ld = groups * kRows;
          Room<uint8_t> weights(groups * group_bytes(format, columns)), gate(groups * group_bytes(format, columns));
          for (int64_t g = 0; g < groups; ++g) {
            fill_weights(format, columns, weights.data + g * group_bytes(format, columns));
            fill_weights(format, columns, gate.data + g * group_bytes(format, columns));
          }
          const Inputs inputs(tokens, columns);
          Room<uint8_t> put[2] = {Room<uint8_t>(tokens * inputs.wide * 4), Room<uint8_t>(tokens * inputs.wide * 4)};
          for (int s = 0; s < 3; ++s) {
            Room<float> out[2] = {Room<float>(tokens * ld), Room<float>(tokens * ld)};
            for (int which = 0; which < 2; ++which) {
              const Kernels& each = which ? portable : kernels;
              const Activations to{put[which].data, tokens, columns, in_blocks(format)};
              put_rows(each, inputs, to);
              for (int64_t i = 0; i < tokens * ld; ++i) out[which].data[i] = 1.0f;
              each.matmul({format, weights.data, gate.data, columns, rows, 0, groups, to, static_cast<Sink>(s), out[which].data,
                           ld, nullptr, false});
            }
            const std::string what = std::string(names[f]) + " " + sinks[s] + ", " + std::to_string(rows) + " x " +
                                     std::to_string(columns) + ", " + std::to_string(tokens) + " tokens";
            compare(what + ": inputs", put[0].data, put[1].data, static_cast<size_t>(Activations::token_bytes(columns, in_blocks(format)) * tokens));
            compare_near(what, out[0].data, out[1].data, tokens * ld);
          }
        }
    for (const int64_t columns : {1, 31, 64, 257}) {
      Room<uint8_t> group(group_bytes(format, columns));
      fill_weights(format, columns, group.data);
      for (int lane = 0; lane < kRows; ++lane) {
        std::vector<float> rows[2] = {std::vector<float>(static_cast<size_t>(columns)), std::vector<float>(static_cast<size_t>(columns))};
        kernels.take_row(format, group.data, columns, lane, rows[0].data());
        portable.take_row(format, group.data, columns, lane, rows[1].data());
        compare(std::string("a row of ") + names[f], rows[0].data(), rows[1].data(), sizeof(float) * static_cast<size_t>(columns));
      }
    }
  }
}

void check_extremes(const Kernels& kernels, const Kernels& portable) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  for (const float value : {0.0f, -0.0f, 1e-45f, 1e-30f, 63.5f, 3.4e38f, infinity, -infinity, nan}) {
    Inputs inputs(3, 64);
    inputs.rows.data[5] = value;
    for (int64_t k = 0; k < 64; ++k) inputs.rows.data[128 + k] = value;
    Room<uint8_t> put[2] = {Room<uint8_t>(3 * 64 * 4), Room<uint8_t>(3 * 64 * 4)};
    put_rows(kernels, inputs, {put[0].data, 3, 64, true});
    put_rows(portable, inputs, {put[1].data, 3, 64, true});
    for (int64_t block = 0; block < 2; ++block) {  // codes and zero points; scales may be NaN of either sign
      const int64_t at = block * 3 * (kBlock + 12);
      compare("codes of " + std::to_string(value), put[0].data + at, put[1].data + at, 3 * kBlock);
      for (int64_t i = 3 * kBlock; i < 3 * kBlock + 12; i += 4) {
        float scales[2];
        for (int w = 0; w < 2; ++w) std::memcpy(&scales[w], put[w].data + at + i, 4);
        if (!(scales[0] == scales[1] || (std::isnan(scales[0]) && std::isnan(scales[1])))) compare("a scale", &scales[0], &scales[1], 4);
      }
    }
  }
  for (const int64_t columns : {1, 32, 576}) {
    const Inputs inputs(1, columns);
    const float found = kernels.norm_factor(inputs.rows.data, columns, 1e-5f), expected = portable.norm_factor(inputs.rows.data, columns, 1e-5f);
    compare_near("the factor of a norm", &found, &expected, 1);
  }
}

void check_attention(const Kernels& kernels, const Kernels& portable) {
  const char* names[] = {"f32", "f16", "i8"};
  for (int type = 0; type < 3; ++type)
    for (const int head_dim : {8, 40, 64, 128})
      for (const int positions : {1, 17, 128, 150})
        for (const int num_rows : {1, 3, 4, 7, 16}) {
          const int dim = static_cast<int>(round_up(head_dim, kRows)), num_pages = (positions + kPage - 1) / kPage;
          const KvLayout layout{static_cast<KvType>(type), 1, head_dim, dim};
          Room<uint8_t> pages[2] = {Room<uint8_t>(num_pages * layout.page_bytes()), Room<uint8_t>(num_pages * layout.page_bytes())};
          Room<float> queries(num_rows * dim);
          for (int i = 0; i < num_rows; ++i)
            for (int d = 0; d < head_dim; ++d) queries.data[i * dim + d] = normal() / std::sqrt(static_cast<float>(head_dim));
          for (int position = 0; position < positions; ++position) {
            Room<float> key(dim), value(dim);
            for (int d = 0; d < head_dim; ++d) key.data[d] = normal(), value.data[d] = normal();
            for (int which = 0; which < 2; ++which)
              (which ? portable : kernels)
                  .put_kv(layout, pages[which].data + position / kPage * layout.page_bytes(), position % kPage, key.data, value.data);
          }
          const std::string what = std::string("attention, ") + names[type] + ", " + std::to_string(head_dim) + " wide, " +
                                   std::to_string(positions) + " positions, " + std::to_string(num_rows) + " rows";
          compare(what + ": pages", pages[0].data, pages[1].data, static_cast<size_t>(num_pages * layout.page_bytes()));
          std::vector<int32_t> table(static_cast<size_t>(num_pages));
          for (int i = 0; i < num_pages; ++i) table[static_cast<size_t>(i)] = i;
          std::vector<float> sums[2];
          for (int which = 0; which < 2; ++which) {
            const Kernels& each = which ? portable : kernels;
            AttentionItem item{};
            item.layout = layout;
            item.layer = pages[which].data;
            item.page_stride = layout.page_bytes();
            item.pages = table.data();
            item.num_rows = num_rows;
            for (int i = 0; i < num_rows; ++i) {
              item.queries[i] = queries.data + i * dim;
              item.visible[i] = std::max(1, positions - num_rows + 1 + i);
            }
            Room<float> scratch(kScratchFloats), values(num_rows * dim), total(num_rows * dim);
            Partial partials[kQueryRows], states[kQueryRows];
            for (int64_t chunk = 0; chunk * kChunk < item.visible[num_rows - 1]; ++chunk) {
              each.attend_chunk(item, chunk, scratch.data, partials, values.data);
              for (int i = 0; i < num_rows; ++i) {
                if (item.visible[i] <= chunk * kChunk) continue;
                if (chunk == 0) {
                  states[i] = partials[i];
                  std::memcpy(total.data + i * dim, values.data + i * dim, sizeof(float) * static_cast<size_t>(dim));
                } else {
                  each.merge(&states[i], total.data + i * dim, &partials[i], values.data + i * dim, dim);
                }
              }
            }
            for (int i = 0; i < num_rows * dim; ++i) sums[which].push_back(total.data[i] / states[i / dim].total);
          }
          compare_near(what, sums[0].data(), sums[1].data(), num_rows * dim);
        }
}

void check_rotation(const Kernels& kernels, const Kernels& portable) {
  for (const int head_dim : {2, 8, 64, 128})
    for (const bool interleaved : {false, true}) {
      const auto size = static_cast<size_t>(head_dim);
      std::vector<float> x(size), cos(size / 2), sin(size / 2), out[2] = {std::vector<float>(size), std::vector<float>(size)};
      for (float& each : x) each = normal();
      for (size_t i = 0; i < size / 2; ++i) cos[i] = std::cos(static_cast<float>(i)), sin[i] = std::sin(static_cast<float>(i));
      kernels.rotate(x.data(), cos.data(), sin.data(), head_dim, interleaved, 0.125f, out[0].data());
      portable.rotate(x.data(), cos.data(), sin.data(), head_dim, interleaved, 0.125f, out[1].data());
      compare_near("a rotation", out[0].data(), out[1].data(), head_dim);
    }
}

bool runs_here([[maybe_unused]] const std::string& name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name == "avx512") return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

}  // namespace

int main() {
  int num_checked = 0, all_wrong = 0;
  for (const Kernels* kernels : {avx512_kernels(), avx2_kernels(), neon_kernels()}) {
    if (kernels == nullptr || !runs_here(kernels->name)) continue;
    num_wrong = 0;
    generator.seed(1);
    check_products(*kernels, *portable_kernels());
    check_extremes(*kernels, *portable_kernels());
    check_attention(*kernels, *portable_kernels());
    check_rotation(*kernels, *portable_kernels());
    std::printf("%s: %d of its results differ from the portable kernels'\n", kernels->name, num_wrong);
    all_wrong += num_wrong;
    ++num_checked;
  }
  if (num_checked == 0) std::printf("no instruction set beside the portable one was built and runs here\n");
  return num_checked == 0 || all_wrong > 0;
}
