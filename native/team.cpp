#include "team.h"

#include <chrono>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace aquila {
namespace {

constexpr int kSpins = 4000;                                 // about 50 microseconds
constexpr auto kYieldTime = std::chrono::milliseconds(2);    // between two steps of a fast decode, with room

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int size) : size_(size < 1 ? 1 : size) {
  threads_.reserve(size_ - 1);
  for (int index = 1; index < size_; ++index) threads_.emplace_back([this, index] { member(index); });
}

Team::~Team() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    epoch_.store(-1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(int)>& work) {
  work_ = &work;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    epoch_.fetch_add(1, std::memory_order_acq_rel);
    if (sleeping_) wake_.notify_all();
  }
  work(0);
  barrier();  // nobody is still in `work` when it goes out of scope
}

void Team::barrier() {
  if (size_ == 1) return;
  const int64_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int spin = 0; generation_.load(std::memory_order_acquire) == generation; ++spin) {
    if (spin < kSpins) pause();
    else std::this_thread::yield();
  }
}

void Team::member(int index) {
  for (int64_t seen = 0;;) {
    const int64_t epoch = wait_for_work(seen);
    if (epoch < 0) return;
    seen = epoch;
    (*work_)(index);
    barrier();
  }
}

int64_t Team::wait_for_work(int64_t seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    const int64_t epoch = epoch_.load(std::memory_order_acquire);
    if (epoch != seen) return epoch;
    pause();
  }
  const auto until = std::chrono::steady_clock::now() + kYieldTime;
  while (std::chrono::steady_clock::now() < until) {
    const int64_t epoch = epoch_.load(std::memory_order_acquire);
    if (epoch != seen) return epoch;
    std::this_thread::yield();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleeping_;
  wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
  --sleeping_;
  return epoch_.load(std::memory_order_acquire);
}

}  // namespace aquila
