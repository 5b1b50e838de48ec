#include "emulation.h"

#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

namespace miq::gpu {
inline namespace emulated {

const Place* current_place = nullptr;

namespace {

constexpr unsigned kGroupLanes = 32, kMaxThreads = 1024;
constexpr std::size_t kStack = 128 << 10, kGuard = 4096, kSharedBytes = 48 << 10;

enum class State { ready, at_barrier, at_exchange, done };

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer follows stacks through swapcontext only.
struct Context {
  ucontext_t context;
  void switch_to(Context& next) { swapcontext(&context, &next.context); }
};
#else
// swapcontext saves the signal mask by a system call: it only starts a fiber.
struct Context {
  ucontext_t context;
  jmp_buf place;
  bool started = true;
  void switch_to(Context& next) {
    if (_setjmp(place) != 0) return;
    if (next.started) _longjmp(next.place, 1);
    next.started = true;
    setcontext(&next.context);
  }
};
#endif

struct Fiber {
  Context context;
  Place place;
  State state = State::done;
  int line = 0;             // of the barrier it waits at
  std::size_t size = 0;     // of what it exchanges
  unsigned round = 0;       // exchanges it has begun
};

// One launch at a time: threads of the program wait for each other.
struct Machine {
  std::mutex one_launch;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::array<unsigned char, 2 * 16 * kGroupLanes>> exchanged;  // of each group, for even and odd rounds
  Context scheduler;
  Fiber* running = nullptr;
  const std::function<void()>* kernel = nullptr;
  alignas(64) unsigned char shared[kSharedBytes];
};

Machine* const the_machine = new Machine;  // fibers are never left by returning: nothing is torn down
Machine& machine() { return *the_machine; }

void fiber_main() {
  for (;;) {
    Fiber* const self = machine().running;
    (*machine().kernel)();
    self->state = State::done;
    self->context.switch_to(machine().scheduler);
  }
}

Fiber& fiber(std::size_t index) {
  auto& fibers = machine().fibers;
  while (fibers.size() <= index) {
    auto made = std::make_unique<Fiber>();
    void* const memory = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) fail("has no memory for its stack");
    getcontext(&made->context.context);
    made->context.context.uc_stack.ss_sp = static_cast<char*>(memory) + kGuard;
    made->context.context.uc_stack.ss_size = kStack;
    made->context.context.uc_link = nullptr;
    makecontext(&made->context.context, fiber_main, 0);
#if !defined(__SANITIZE_ADDRESS__)
    made->context.started = false;
#endif
    fibers.push_back(std::move(made));
  }
  return *fibers[index];
}

void resume(Fiber& fiber) {
  Machine& m = machine();
  m.running = &fiber;
  current_place = &fiber.place;
  m.scheduler.switch_to(fiber.context);
}

void wait_as(State state) {
  Fiber& self = *machine().running;
  self.state = state;
  self.context.switch_to(machine().scheduler);
}

[[noreturn]] void fail_at(const Fiber& fiber, const char* what) {
  current_place = &fiber.place;
  fail(what);
}

// Runs the lanes of a group until none is ready: all of them left or at the barrier.
void run_group(Fiber* const* lanes) {
  for (;;) {
    for (unsigned lane = 0; lane < kGroupLanes; ++lane)
      if (lanes[lane]->state == State::ready) resume(*lanes[lane]);
    const Fiber* waiting = nullptr;
    for (unsigned lane = 0; lane < kGroupLanes; ++lane)
      if (lanes[lane]->state == State::at_exchange) waiting = lanes[lane];
    if (waiting == nullptr) return;
    for (unsigned lane = 0; lane < kGroupLanes; ++lane) {
      if (lanes[lane]->state == State::done) fail_at(*lanes[lane], "left the kernel while lanes of its group wait to exchange");
      if (lanes[lane]->state == State::at_barrier) fail_at(*lanes[lane], "is at a barrier while lanes of its group wait to exchange");
      if (lanes[lane]->size != waiting->size || lanes[lane]->round != waiting->round) fail_at(*lanes[lane], "exchanges something else than another lane");
    }
    for (unsigned lane = 0; lane < kGroupLanes; ++lane) lanes[lane]->state = State::ready;
  }
}

void run_block(std::vector<Fiber*>& threads) {
  for (;;) {
    for (std::size_t first = 0; first < threads.size(); first += kGroupLanes) run_group(threads.data() + first);
    const Fiber* waiting = nullptr;
    const Fiber* left = nullptr;
    for (const Fiber* const thread : threads) (thread->state == State::done ? left : waiting) = thread;
    if (waiting == nullptr) return;
    if (left != nullptr) fail_at(*left, "left the kernel while others wait at a barrier");
    for (Fiber* const thread : threads) {
      if (thread->line != waiting->line) fail_at(*thread, "waits at another barrier than the others");
      thread->state = State::ready;
    }
  }
}

}  // namespace

void fail(const char* what) {
  if (current_place != nullptr)
    std::fprintf(stderr, "GPU emulation: thread (%u, %u, %u) of block (%u, %u, %u) %s\n", current_place->thread.x, current_place->thread.y, current_place->thread.z,
                 current_place->block.x, current_place->block.y, current_place->block.z, what);
  else
    std::fprintf(stderr, "GPU emulation: a launch %s\n", what);
  std::abort();
}

int run(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  const std::size_t threads = static_cast<std::size_t>(block.x) * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  if (threads == 0 || threads > kMaxThreads || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return 1;
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.one_launch);
  if (threads % kGroupLanes != 0) fail("whose block is no multiple of 32 threads");
  m.kernel = &kernel;
  m.exchanged.resize(threads / kGroupLanes);
  std::vector<Fiber*> all;
  for (std::size_t t = 0; t < threads; ++t) all.push_back(&fiber(t));
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        for (std::size_t t = 0; t < threads; ++t) {
          const auto at = static_cast<unsigned>(t);
          all[t]->place = {dim3(at % block.x, at / block.x % block.y, at / block.x / block.y), dim3(x, y, z), block, grid};
          all[t]->state = State::ready;
          all[t]->round = 0;
        }
        std::memset(m.shared, 0xff, sizeof(m.shared));
        run_block(all);
      }
  current_place = nullptr;
  return 0;
}

void barrier(int line) {
  machine().running->line = line;
  wait_as(State::at_barrier);
}

const unsigned char* meet(const void* value, std::size_t size) {
  Machine& m = machine();
  Fiber& self = *m.running;
  const unsigned thread = self.place.thread.x + self.place.block_size.x * (self.place.thread.y + self.place.block_size.y * self.place.thread.z);
  // A lane can be one round ahead of another that has not read yet, never two.
  unsigned char* const values = m.exchanged[thread / kGroupLanes].data() + self.round % 2 * 16 * kGroupLanes;
  std::memcpy(values + 16 * (thread % kGroupLanes), value, size);
  self.size = size;
  ++self.round;
  wait_as(State::at_exchange);
  return values;
}

void* shared_memory(std::size_t size) {
  if (size > kSharedBytes) fail("asks for more than 48 KiB of shared memory");
  return machine().shared;
}

}  // namespace emulated
}  // namespace miq::gpu
