// The execution model of GPUs on the CPU, so that the kernels of src/gpu run as plain C++: blocks one after another, the threads of a
// block as fibers that change at barriers and exchanges alone. What hardware would leave undefined ends the process with a message: a
// barrier or an exchange that a thread of the block does not reach, a lane that is none. Shared memory is filled with NaNs before each block.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__ static
#define __device__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace miq::gpu {
inline namespace emulated {

/// Where the thread that runs stands.
struct Place {
  dim3 thread, block, block_size, grid_size;
};
extern const Place* current_place;
inline int current_lane() { return static_cast<int>(current_place->thread.x % 32); }

/// A launch: kernel() for every thread of every block. One at a time in the process. 0, or 1 for sizes that no GPU takes.
int run(dim3 grid, dim3 block, const std::function<void()>& kernel);
/// Waits for all threads of the block, which must wait at the same line.
void barrier(int line);
/// Waits for the 32 lanes of the group; what each of them put in, `size` bytes (up to 16) at 16 * lane.
const unsigned char* meet(const void* value, std::size_t size);
[[noreturn]] void fail(const char* what);
/// The block's shared memory, 48 KiB at most.
void* shared_memory(std::size_t size);

template <class T>
T exchange(T value, int lane) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  const unsigned char* const values = meet(&value, sizeof(T));
  if (lane < 0 || lane >= 32) fail("exchanges with a lane outside its group");
  std::memcpy(&value, values + 16 * lane, sizeof(T));
  return value;
}

}  // namespace emulated
}  // namespace miq::gpu

#define threadIdx (::miq::gpu::emulated::current_place->thread)
#define blockIdx (::miq::gpu::emulated::current_place->block)
#define blockDim (::miq::gpu::emulated::current_place->block_size)
#define gridDim (::miq::gpu::emulated::current_place->grid_size)
#define __syncthreads() ::miq::gpu::emulated::barrier(__LINE__)
// One a kernel.
#define MIQ_SHARED(type, name) type& name = *static_cast<type*>(::miq::gpu::emulated::shared_memory(sizeof(type)))
