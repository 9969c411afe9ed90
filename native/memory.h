// Memory for weights, keys and values: whole pages from the system, in huge pages where there are any, counted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aquila {

// Zeroed pages, or null. Pages are handed out by the system as they are first touched.
uint8_t* allocate_pages(size_t bytes, bool huge);
void free_pages(uint8_t* memory, size_t bytes);
int64_t allocated_bytes();  // in all, now

class Pages {
 public:
  Pages() = default;
  explicit Pages(size_t bytes, bool huge = true);  // throws std::bad_alloc
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace aquila
