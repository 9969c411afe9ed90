// A team of threads that stays: `run` has every member execute one function, `barrier` has them wait for each other.
//
// The caller is member 0. Members spin for a moment, since the steps of a small model follow each other by fractions of
// a millisecond; then they sleep, so that a shared machine is used well and an idle engine costs nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace aquila {

// Waiting for another member: a moment at a time, and after milliseconds the processor is given away in between.
class Pause {
 public:
  void again();

 private:
  int count_ = 0;
};

class Team {
 public:
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }
  // Calls `work(member)` on every member and returns when all are done. `work` must not throw.
  void run(const std::function<void(int)>& work);
  // All members must call it. Everything written before is seen by all after.
  void barrier();

 private:
  void member(int index);
  int64_t wait_for_work(int64_t seen);

  const int size_;
  const std::vector<int> processors_;  // one for each member, or none
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) std::atomic<int64_t> epoch_{0};     // counts runs; negative: stop
  alignas(64) std::atomic<int> arrived_{0};       // at the current barrier
  alignas(64) std::atomic<int64_t> generation_{0};  // of barriers passed
  std::mutex mutex_;
  std::condition_variable wake_;
  int sleeping_ = 0;                    // members without work
};

}  // namespace aquila
