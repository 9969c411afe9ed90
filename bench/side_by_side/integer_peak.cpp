// Multiplications and additions of 8-bit integers a second that threads do in registers: no memory, no unpacking.
// Prints one line: operations a second of all threads together, and the instruction.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

constexpr int kSums = 12;  // independent: more than the cycles of an instruction x those begun in a cycle
constexpr long kRounds = 20'000'000;

// The sums pass through an empty assembly line so that the compiler neither joins nor drops rounds.
#if defined(__AVX512VNNI__)
constexpr const char* kName = "vpdpbusd zmm";
constexpr long kOperations = 128;
using Vector = __m512i;
Vector one() { return _mm512_set1_epi8(1); }
void add(Vector& sum, Vector x, Vector y) { sum = _mm512_dpbusd_epi32(sum, x, y); asm volatile("" : "+v"(sum)); }
#elif defined(__AVXVNNI__)
constexpr const char* kName = "vpdpbusd ymm";
constexpr long kOperations = 64;
using Vector = __m256i;
Vector one() { return _mm256_set1_epi8(1); }
void add(Vector& sum, Vector x, Vector y) { sum = _mm256_dpbusd_avx_epi32(sum, x, y); asm volatile("" : "+x"(sum)); }
#elif defined(__AVX2__)
constexpr const char* kName = "vpmaddubsw ymm";  // with the two instructions that widen its sums
constexpr long kOperations = 64;
using Vector = __m256i;
Vector one() { return _mm256_set1_epi8(1); }
void add(Vector& sum, Vector x, Vector y) {
  asm volatile("" : "+x"(x));  // a product of constants would be made once
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)));
  asm volatile("" : "+x"(sum));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr const char* kName = "sdot";
constexpr long kOperations = 32;
using Vector = int32x4_t;
Vector one() { return vreinterpretq_s32_s8(vdupq_n_s8(1)); }
void add(Vector& sum, Vector x, Vector y) {
  sum = vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y));
  asm volatile("" : "+w"(sum));
}
#else
#error "no 8-bit dot product known for this processor"
#endif

void work() {  // variables of their own: GCC 12 keeps an array in memory
  Vector a = one(), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a, x = a, y = a;
  asm volatile("" ::: "memory");
  for (long round = 0; round < kRounds; ++round) {
    add(a, x, y), add(b, x, y), add(c, x, y), add(d, x, y), add(e, x, y), add(f, x, y);
    add(g, x, y), add(h, x, y), add(i, x, y), add(j, x, y), add(k, x, y), add(l, x, y);
  }
}

}  // namespace

int main(int, char** arguments) {
  const int num_threads = std::atoi(arguments[1]);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%.0f %s\n", 1.0 * kRounds * kSums * kOperations * num_threads / seconds.count(), kName);
}
