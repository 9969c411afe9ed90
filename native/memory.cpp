#include "memory.h"

#include <sys/mman.h>

#include <atomic>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
constexpr size_t kGuard = 4096;  // mapped memory has no guards of its own
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes)
constexpr size_t kGuard = 0;
#endif

namespace aquila {
namespace {

std::atomic<int64_t> total{0};
constexpr size_t kHugePage = size_t{2} << 20;

size_t mapped(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

}  // namespace

int64_t allocated_bytes() { return total.load(); }

uint8_t* allocate_pages(size_t bytes, bool huge) {
  void* memory = mmap(nullptr, bytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  if (huge && bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  ASAN_POISON_MEMORY_REGION(static_cast<uint8_t*>(memory) + bytes, kGuard);
  total += static_cast<int64_t>(bytes);
  return static_cast<uint8_t*>(memory);
}

void free_pages(uint8_t* memory, size_t bytes) {
  if (memory == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes + kGuard);
  munmap(memory, bytes + kGuard);
  total -= static_cast<int64_t>(bytes);
}

Pages::Pages(size_t bytes, bool huge) {
  if (bytes == 0) return;
  size_ = kGuard ? bytes : mapped(bytes);  // with guards, not a byte more than was asked for
  data_ = allocate_pages(mapped(bytes), huge);
  if (data_ == nullptr) throw std::bad_alloc();
  ASAN_POISON_MEMORY_REGION(data_ + size_, mapped(bytes) - size_);
}

Pages::~Pages() { free_pages(data_, mapped(size_)); }

Pages::Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace aquila
