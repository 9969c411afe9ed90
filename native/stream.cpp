#include "stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "memory.h"

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

namespace aquila {
namespace {

constexpr int64_t kAlign = 4096;

int64_t align_up(int64_t value) { return (value + kAlign - 1) / kAlign * kAlign; }

int64_t change_time(const struct stat& entry) {
#if defined(__APPLE__)
  return entry.st_mtimespec.tv_sec * 1000000000LL + entry.st_mtimespec.tv_nsec;
#else
  return entry.st_mtim.tv_sec * 1000000000LL + entry.st_mtim.tv_nsec;
#endif
}

// Opens for reading past the page cache, or, where the file system has no such thing (tmpfs, some network file
// systems), through it; `direct` says which.
int open_direct(const std::string& path, bool* direct) {
  int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  *direct = descriptor >= 0 && O_DIRECT != 0;
  if (descriptor < 0 && errno == EINVAL) descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  return descriptor;
}

// Fills `aligned` with the whole pages around a range; `*data` is where the range begins. What went wrong, or nothing.
std::string read_aligned(const std::string& path, int descriptor, bool direct, int64_t offset, int64_t bytes,
                         uint8_t* aligned, const uint8_t** data) {
  const int64_t begin = offset / kAlign * kAlign, end = align_up(offset + bytes);
  int64_t done = begin;
  while (done < offset + bytes) {
    const ssize_t got = pread(descriptor, aligned + (done - begin), static_cast<size_t>(end - done), done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return path + ": reading at byte " + std::to_string(done) + " failed: " + std::strerror(errno);
    done += got;
    const bool last = got == 0 || (direct && got % kAlign != 0);  // such a read only ever ends in part of a page there
    if (last && done < offset + bytes)
      return path + ": ends at byte " + std::to_string(done) + ", " + std::to_string(offset + bytes) + " are needed";
  }
#ifdef POSIX_FADV_DONTNEED
  if (!direct) posix_fadvise(descriptor, begin, end - begin, POSIX_FADV_DONTNEED);
#else
  static_cast<void>(direct);
#endif
  *data = aligned + (offset - begin);
  return "";
}

}  // namespace

std::string read_past_cache(const std::string& path, int64_t offset, int64_t bytes, uint8_t* out) {
  constexpr int64_t kPiece = int64_t{4} << 20;
  bool direct;
  const int descriptor = open_direct(path, &direct);
  if (descriptor < 0) return path + ": cannot be opened: " + std::strerror(errno);
  Pages room(static_cast<size_t>(std::min(bytes, kPiece) + 2 * kAlign), false);
  std::string problem;
  for (int64_t done = 0; done < bytes && problem.empty(); done += kPiece) {
    const int64_t count = std::min(kPiece, bytes - done);
    const uint8_t* data = nullptr;
    problem = read_aligned(path, descriptor, direct, offset + done, count, room.data(), &data);
    if (problem.empty()) std::memcpy(out + done, data, static_cast<size_t>(count));
  }
  close(descriptor);
  return problem;
}

Stream::Stream(const std::string& path, std::vector<Job> jobs, int slots, int readers)
    : path_(path), jobs_(std::move(jobs)), slots_(slots), readers_(readers), stamps_(slots, 0), data_(2 * slots) {
  descriptor_ = open_direct(path_, &direct_);
  struct stat entry;
  if (descriptor_ < 0 || fstat(descriptor_, &entry) != 0) {
    const std::string reason = std::strerror(errno);
    if (descriptor_ >= 0) close(descriptor_);
    throw std::runtime_error(path_ + ": cannot be opened: " + reason);
  }
  file_bytes_ = entry.st_size;
  changed_ = change_time(entry);
  for (const Job& job : jobs_)
    for (int part = 0; part < 2; ++part)
      if (job.bytes[part] > half_bytes_) half_bytes_ = job.bytes[part];
  half_bytes_ = align_up(half_bytes_) + kAlign;  // a range may begin and end inside a page
  bool pairs = false;
  for (const Job& job : jobs_) pairs |= job.bytes[1] > 0;
  slot_bytes_ = half_bytes_ * (pairs ? 2 : 1);
  memory_bytes_ = slot_bytes_ * slots_;
  memory_ = allocate_pages(static_cast<size_t>(memory_bytes_), true);
  if (memory_ == nullptr) {
    close(descriptor_);
    throw std::bad_alloc();
  }
  start();
}

Stream::~Stream() {
  stop();
  close(descriptor_);
  free_pages(memory_, static_cast<size_t>(memory_bytes_));
}

void Stream::start() {
  stopping_ = false;
  next_ = consumed_ = 0;
  std::fill(stamps_.begin(), stamps_.end(), 0);
  if (jobs_.empty()) return;
  for (int i = 0; i < readers_; ++i) threads_.emplace_back([this] { reader(); });
}

void Stream::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  freed_.notify_all();
  filled_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Stream::restart() {
  stop();
  error_.clear();
  failed_ = -1;
  start();
}

bool Stream::wait(int64_t number, const uint8_t* (&data)[2]) {
  const int slot = static_cast<int>(number % slots_);
  std::unique_lock<std::mutex> lock(mutex_);
  filled_.wait(lock, [&] { return stamps_[slot] == number + 1 || (failed_ >= 0 && number >= failed_) || stopping_; });
  if (stamps_[slot] != number + 1) return false;
  data[0] = data_[2 * slot];
  data[1] = data_[2 * slot + 1];
  return true;
}

void Stream::release(int64_t number) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    consumed_ = number + 1;
  }
  freed_.notify_all();
}

int64_t Stream::bytes_read() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_read_;
}

std::string Stream::error() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

// Jobs before the failed one still arrive, so that every member of a team gets the same answer for each.
void Stream::fail(int64_t number, const std::string& message) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (error_.empty()) error_ = message;
    if (failed_ < 0 || number < failed_) failed_ = number;
  }
  filled_.notify_all();
}

void Stream::reader() {
  for (;;) {
    int64_t number;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      number = next_++;
      freed_.wait(lock, [&] { return number < consumed_ + slots_ || stopping_; });
      if (stopping_ || (failed_ >= 0 && number > failed_)) return;
    }
    const std::string problem = fill(number);
    if (problem.empty()) continue;
    fail(number, problem);
    return;
  }
}

// Nothing, when what has been read until now is what the file held at the opening.
std::string Stream::changed() const {
  struct stat entry;
  if (fstat(descriptor_, &entry) == 0 && entry.st_size == file_bytes_ && change_time(entry) == changed_) return "";
  return path_ + ": was changed while the model ran";
}

std::string Stream::read(int64_t offset, int64_t bytes, uint8_t* out) const {
  Pages room(static_cast<size_t>(align_up(bytes) + kAlign), false);
  const uint8_t* data = nullptr;
  std::string problem = read_aligned(path_, descriptor_, direct_, offset, bytes, room.data(), &data);
  if (problem.empty()) problem = changed();
  if (problem.empty()) std::memcpy(out, data, static_cast<size_t>(bytes));
  return problem;
}

std::string Stream::fill(int64_t number) {
  const int slot = static_cast<int>(number % slots_);
  const Job& job = jobs_[number % num_jobs()];
  const uint8_t* found[2] = {nullptr, nullptr};
  int64_t bytes = 0;
  for (int part = 0; part < 2; ++part) {
    if (job.bytes[part] == 0) continue;
    uint8_t* aligned = memory_ + slot * slot_bytes_ + part * half_bytes_;
    const std::string problem = read_aligned(path_, descriptor_, direct_, job.offsets[part], job.bytes[part], aligned, &found[part]);
    if (!problem.empty()) return problem;
    bytes += job.bytes[part];
  }
  const std::string problem = changed();  // asked after the reading: a step never mixes two states of the file
  if (!problem.empty()) return problem;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stamps_[slot] = number + 1;
    data_[2 * slot] = found[0];
    data_[2 * slot + 1] = found[1];
    bytes_read_ += bytes;
  }
  filled_.notify_all();
  return "";
}

}  // namespace aquila
