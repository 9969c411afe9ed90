#include "team.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace aquila {
namespace {

// A member that sleeps on a machine that is shared waits for a whole slice of someone else's time when it is
// wanted again. So it spins for longer than a slice, which
// takes nothing but its own share.
constexpr int kPauseSpins = 400000;  // about 5 milliseconds
constexpr int kWorkSpins = 20000;      // about 250 microseconds, more than what lies between two steps of a fast decode

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__linux__)
cpu_set_t only(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return set;
}
#endif

// A team that takes every processor of the process has one for each member. Left to the scheduler, two members land on
// one whenever something else runs for a moment, and then every barrier waits for its spinning partner.
std::vector<int> own_processors(int size) {
  std::vector<int> found;
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) == size)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &allowed)) found.push_back(cpu);
#else
  static_cast<void>(size);
#endif
  return found;
}

// The caller stays on its processor for one run and gets its freedom back: its other work is none of our business.
class Pinned {
 public:
  explicit Pinned(const std::vector<int>& processors) {
#if defined(__linux__)
    if (processors.size() < 2 || sched_getaffinity(0, sizeof(before_), &before_) != 0) return;
    const cpu_set_t set = only(processors[0]);
    pinned_ = sched_setaffinity(0, sizeof(set), &set) == 0;
#else
    static_cast<void>(processors);
#endif
  }
  ~Pinned() {
#if defined(__linux__)
    if (pinned_) sched_setaffinity(0, sizeof(before_), &before_);
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t before_;
  bool pinned_ = false;
#endif
};

}  // namespace

void Pause::again() {
  if (++count_ < kPauseSpins) pause();
  else std::this_thread::yield();
}

Team::Team(int size) : size_(size < 1 ? 1 : size), processors_(own_processors(size_)) {
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
  const Pinned pinned(processors_);
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
  for (Pause pause; generation_.load(std::memory_order_acquire) == generation;) pause.again();
}

void Team::member(int index) {
#if defined(__linux__)
  if (!processors_.empty()) {
    const cpu_set_t set = only(processors_[index]);
    sched_setaffinity(0, sizeof(set), &set);
  }
#endif
  for (int64_t seen = 0;;) {
    const int64_t epoch = wait_for_work(seen);
    if (epoch < 0) return;
    seen = epoch;
    (*work_)(index);
    barrier();
  }
}

int64_t Team::wait_for_work(int64_t seen) {
  for (int spin = 0; spin < kWorkSpins; ++spin) {
    const int64_t epoch = epoch_.load(std::memory_order_acquire);
    if (epoch != seen) return epoch;
    pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleeping_;
  wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
  --sleeping_;
  return epoch_.load(std::memory_order_acquire);
}

}  // namespace aquila
