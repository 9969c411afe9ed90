// Weights that do not fit: read from the file, ahead of the computation, into a ring of buffers.
//
// A decoder reads the same weights in the same order for every step. A page cache that holds less than all of them has
// always just dropped what comes next; here a fixed part stays in memory and only the rest passes through the ring. The
// list of jobs is cyclic and runs on across steps: the first pieces of the next step load while this one ends.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace aquila {

// A piece of the file that is multiplied at once: one range, or two of matrices that are used together.
struct Job {
  int64_t offsets[2];
  int64_t bytes[2];  // second 0: there is none
};

// Reads a range of a file into `out` past the page cache where the file system can. Says what went wrong, or nothing.
std::string read_past_cache(const std::string& path, int64_t offset, int64_t bytes, uint8_t* out);

class Stream {
 public:
  // Throws std::runtime_error when the file cannot be opened. `slots` is at least 2.
  Stream(const std::string& path, std::vector<Job> jobs, int slots, int readers);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Where the ranges of the job with this running number lie; waits for them. False when reading failed.
  // Every member of a team may call it for the same number.
  bool wait(int64_t number, const uint8_t* (&data)[2]);
  // The job with this number is used up; numbers are released in order.
  void release(int64_t number);
  // Reads a range of the file into `out`. What went wrong, or nothing. Any thread may call it.
  std::string read(int64_t offset, int64_t bytes, uint8_t* out) const;
  // Begins again with job 0, after a step that was broken off. No member may be waiting.
  void restart();

  int64_t num_jobs() const { return static_cast<int64_t>(jobs_.size()); }
  int64_t memory_bytes() const { return memory_bytes_; }
  int64_t bytes_read() const;
  bool direct() const { return direct_; }
  std::string error() const;

 private:
  void start();
  void stop();
  void reader();
  std::string fill(int64_t number);
  std::string changed() const;
  void fail(int64_t number, const std::string& message);

  const std::string path_;
  const std::vector<Job> jobs_;
  const int slots_;
  const int readers_;
  int descriptor_ = -1;       // of the file that was opened, whatever its name leads to later
  bool direct_ = true;
  int64_t file_bytes_ = 0;
  int64_t changed_ = 0;       // time of last change, as found at the opening
  int64_t slot_bytes_ = 0;    // of both ranges
  int64_t half_bytes_ = 0;
  int64_t memory_bytes_ = 0;
  uint8_t* memory_ = nullptr;

  mutable std::mutex mutex_;
  std::condition_variable filled_, freed_;
  std::vector<std::thread> threads_;
  std::vector<int64_t> stamps_;                 // of each slot: running number + 1 of what it holds
  std::vector<const uint8_t*> data_;            // [slot][2]
  int64_t next_ = 0;                            // running number of the next job to read
  int64_t consumed_ = 0;
  int64_t bytes_read_ = 0;
  bool stopping_ = false;
  int64_t failed_ = -1;                         // running number of the first job that could not be read
  std::string error_;
};

}  // namespace aquila
