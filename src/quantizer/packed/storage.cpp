#include "storage.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace miq::quantizer::packed {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20, kStretch = std::size_t{8} << 20, kAlignment = 64;

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

#if defined(__linux__)

// A mapping that is handed out from its beginning on. Only touched pages take memory.
class Stretch {
 public:
  explicit Stretch(std::size_t bytes) : mapped_(bytes + kHugePage) {
    start_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start_ == MAP_FAILED) throw std::bad_alloc();
    next_ = reinterpret_cast<std::uint8_t*>(round_up(reinterpret_cast<std::uintptr_t>(start_), kHugePage));
    end_ = next_ + bytes;
    madvise(next_, bytes, MADV_HUGEPAGE);  // where it is refused, small pages do
  }
  Stretch(const Stretch&) = delete;
  Stretch& operator=(const Stretch&) = delete;
  ~Stretch() { munmap(start_, mapped_); }

  /// Null when it is used up.
  std::uint8_t* take(std::size_t bytes) {
    bytes = round_up(bytes, kAlignment);
    if (static_cast<std::size_t>(end_ - next_) < bytes) return nullptr;
    std::uint8_t* const taken = next_;
    next_ += bytes;
    return taken;
  }

 private:
  void* start_;
  std::size_t mapped_;
  std::uint8_t* next_;
  std::uint8_t* end_;
};

#endif

}  // namespace

at::Tensor allocate(at::IntArrayRef sizes, at::ScalarType dtype) {
#if defined(__linux__)
  static std::mutex mutex;
  static std::weak_ptr<Stretch> current;
  const auto bytes = static_cast<std::size_t>(c10::multiply_integers(sizes)) * c10::elementSize(dtype);
  const std::lock_guard lock(mutex);
  std::shared_ptr<Stretch> stretch = current.lock();
  std::uint8_t* data = stretch ? stretch->take(bytes) : nullptr;
  if (data == nullptr) {
    const bool large = bytes > kStretch / 4;  // has a stretch of its own: what is left of the current one still serves
    stretch = std::make_shared<Stretch>(large ? round_up(bytes, kAlignment) : kStretch);
    if (!large) current = stretch;
    data = stretch->take(bytes);
  }
  return at::from_blob(data, sizes, [stretch](void*) {}, at::TensorOptions().dtype(dtype));
#else
  return at::zeros(sizes, at::TensorOptions().dtype(dtype));
#endif
}

at::Tensor keep(const at::Tensor& values) { return allocate(values.sizes(), values.scalar_type()).copy_(values); }

}  // namespace miq::quantizer::packed
