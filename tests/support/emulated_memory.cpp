#include "support/emulated_memory.h"

#include <execinfo.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace miq::test::emulated {
namespace {

constexpr size_t kArena = size_t{8} << 30, kUnit = 512, kReturned = size_t{1} << 20;

// One device's memory: the same pages twice. Tensors point into `locked`, which nobody may touch.
struct Arena {
  char* locked = nullptr;
  char* open = nullptr;
  int file = -1;
  std::map<size_t, size_t> free{{0, kArena}};  // offset -> bytes
  std::map<size_t, size_t> taken;
  std::int64_t now = 0, peak = 0, limit = 0, out_of_memory = 0;
};

struct Memory {
  std::mutex mutex;
  std::array<Arena, kDevices> arenas;
  int host_accesses = 0;
  std::map<const char*, size_t> pinned;
  Use pinned_use;
};

Memory& memory() {
  static Memory* const the = [] {
    auto* made = new Memory;
    for (Arena& arena : made->arenas) {
      arena.file = memfd_create("emulated_device", 0);
      TORCH_CHECK(arena.file >= 0 && ftruncate(arena.file, static_cast<off_t>(kArena)) == 0, "no memory file for the emulated device");
      const auto map = [&](int protection) {
        void* const at = mmap(nullptr, kArena, protection, MAP_SHARED | MAP_NORESERVE, arena.file, 0);
        TORCH_CHECK(at != MAP_FAILED, "no address space for the emulated device");
        return static_cast<char*>(at);
      };
      arena.locked = map(PROT_NONE);
      arena.open = map(PROT_READ | PROT_WRITE);
    }
    return made;
  }();
  return *the;
}

Arena* arena_of(const void* pointer) {
  const char* const p = static_cast<const char*>(pointer);
  for (Arena& arena : memory().arenas)
    if (p >= arena.locked && p < arena.locked + kArena) return &arena;
  return nullptr;
}

void* take(size_t bytes) {
  if (bytes == 0) return nullptr;
  const size_t wanted = (bytes + kUnit - 1) / kUnit * kUnit;
  const int index = current_device();
  Arena& arena = memory().arenas[static_cast<size_t>(index)];
  size_t offset = 0;
  {
    const std::lock_guard lock(memory().mutex);
    auto place = arena.free.begin();
    while (place != arena.free.end() && place->second < wanted) ++place;
    if (place == arena.free.end() || (arena.limit > 0 && arena.now + static_cast<std::int64_t>(wanted) > arena.limit)) {
      ++arena.out_of_memory;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "the emulated device ", index, " is out of memory: tried to allocate ", bytes, " bytes, ", arena.now, " of ", arena.limit, " are in use");
    }
    offset = place->first;
    const size_t left = place->second - wanted;
    arena.free.erase(place);
    if (left > 0) arena.free.emplace(offset + wanted, left);
    arena.taken.emplace(offset, wanted);
    arena.now += static_cast<std::int64_t>(wanted);
    arena.peak = std::max(arena.peak, arena.now);
  }
  std::memset(arena.open + offset, 0xff, wanted);
  return arena.locked + offset;
}

void give_back(void* pointer) {
  if (pointer == nullptr) return;
  Arena& arena = *arena_of(pointer);
  const auto offset = static_cast<size_t>(static_cast<char*>(pointer) - arena.locked);
  const std::lock_guard lock(memory().mutex);
  const auto found = arena.taken.find(offset);
  size_t begin = offset, bytes = found->second;
  arena.now -= static_cast<std::int64_t>(bytes);
  if (bytes >= kReturned) fallocate(arena.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  else std::memset(arena.open + offset, 0xff, bytes);
  arena.taken.erase(found);
  auto next = arena.free.lower_bound(begin);
  if (next != arena.free.end() && next->first == begin + bytes) {
    bytes += next->second;
    next = arena.free.erase(next);
  }
  if (next != arena.free.begin() && std::prev(next)->first + std::prev(next)->second == begin) {
    std::prev(next)->second += bytes;
  } else {
    arena.free.emplace(begin, bytes);
  }
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    const int index = current_device();
    void* const p = take(bytes);
    return {p, p, &give_back, device(index)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* destination, const void* source, size_t bytes) const override { std::memcpy(host_address(destination), host_address(source), bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override { count_recorded_stream(); }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    const Use use = device_memory(index);
    c10::CachingDeviceAllocator::DeviceStats stats;
    for (auto* counted : {&stats.allocated_bytes, &stats.reserved_bytes}) {
      (*counted)[0].current = use.now;
      (*counted)[0].peak = use.peak;
    }
    stats.num_ooms = memory().arenas[static_cast<size_t>(index)].out_of_memory;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex index) override {
    const std::lock_guard lock(memory().mutex);
    Arena& arena = memory().arenas[static_cast<size_t>(index)];
    arena.peak = arena.now;
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    const std::lock_guard lock(memory().mutex);
    const Arena& arena = memory().arenas[static_cast<size_t>(index)];
    const auto total = arena.limit > 0 ? static_cast<size_t>(arena.limit) : kArena;
    return {total - static_cast<size_t>(arena.now), total};
  }
};

void unpin(void* pointer) {
  if (pointer == nullptr) return;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().pinned.find(static_cast<char*>(pointer));
  memory().pinned_use.now -= static_cast<std::int64_t>(found->second);
  std::memset(pointer, 0xff, found->second);
  memory().pinned.erase(found);
  std::free(pointer);
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* const p = bytes == 0 ? nullptr : std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (bytes > 0) {
      const std::lock_guard lock(memory().mutex);
      memory().pinned.emplace(static_cast<char*>(p), bytes);
      Use& use = memory().pinned_use;
      use.now += static_cast<std::int64_t>(bytes);
      use.peak = std::max(use.peak, use.now);
    }
    return {p, p, &unpin, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* destination, const void* source, size_t bytes) const override { default_copy_data(destination, source, bytes); }
};

// A host pointer into device memory is what these tests are for: say so before the process ends.
struct sigaction default_action;
void explain(int signal, siginfo_t* info, void*) {
  if (arena_of(info->si_addr) != nullptr) {
    const char text[] = "the host touched memory of the emulated device:\n";
    [[maybe_unused]] const auto written = write(2, text, sizeof text - 1);
    void* frames[48];
    backtrace_symbols_fd(frames, backtrace(frames, 48), 2);
  }
  sigaction(signal, &default_action, nullptr);
}

// Streams. Everything runs when it is called but copies with non_blocking: those wait in their stream for what follows there.
struct StreamState {
  std::deque<std::function<void()>> work;
};
struct Streams {
  std::recursive_mutex mutex;
  std::map<std::pair<int, c10::StreamId>, StreamState> states;
  c10::StreamId next = 1;
  Counts counts;
};
Streams& streams() {
  static auto* const the = new Streams;
  return *the;
}
std::pair<int, c10::StreamId> key_of(const c10::Stream& stream) { return {stream.device_index(), stream.id()}; }

thread_local int current_index = 0;
thread_local std::array<c10::StreamId, kDevices> current_streams{};

struct Event {
  c10::Stream stream;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
  static c10::Stream stream_of(c10::DeviceIndex index, c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, index), id); }
  static c10::DeviceIndex index_of(c10::Device device) { return device.has_index() ? device.index() : static_cast<c10::DeviceIndex>(current_index); }

  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {kType, static_cast<c10::DeviceIndex>(current_index)}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(index_of(device) >= 0 && index_of(device) < kDevices, "there is no emulated device ", device.index());
    current_index = index_of(device);
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current_index = index_of(device); }
  c10::Stream getStream(c10::Device device) const override { return stream_of(index_of(device), current_streams[static_cast<size_t>(index_of(device))]); }
  c10::Stream getDefaultStream(c10::Device device) const override { return stream_of(index_of(device), 0); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream getNewStream(c10::Device device, int) const override {
    const std::lock_guard lock(streams().mutex);
    return stream_of(index_of(device), streams().next++);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    c10::StreamId& id = current_streams[static_cast<size_t>(stream.device_index())];
    return stream_of(stream.device_index(), std::exchange(id, stream.id()));
  }
  // A kernel is about to be queued: what lies before it in the stream is done.
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    TORCH_CHECK(stream.device_index() == current_index, "a kernel for the emulated device ", stream.device_index(), " is started while device ", current_index, " is the current one");
    finish_stream(stream);
    return reinterpret_cast<void*>(stream.id() + 1);
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    delete static_cast<Event*>(*event);
    *event = new Event{stream};
  }
  void block(void* event, const c10::Stream&) const override { synchronizeEvent(event); }
  bool queryEvent(void* event) const override { return event == nullptr || queryStream(static_cast<Event*>(event)->stream); }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  bool queryStream(const c10::Stream& stream) const override {
    const std::lock_guard lock(streams().mutex);
    return streams().states[key_of(stream)].work.empty();
  }
  void synchronizeStream(const c10::Stream& stream) const override { finish_stream(stream); }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) finish_stream(static_cast<Event*>(event)->stream);
  }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    const std::lock_guard lock(streams().mutex);
    for (auto& [key, state] : streams().states)
      if (key.first == index) finish_stream(stream_of(index, key.second));
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override { count_recorded_stream(); }
};

}  // namespace

c10::DeviceAllocator& device_allocator() {
  static auto* const the = [] {
    struct sigaction action {};
    action.sa_sigaction = explain;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &default_action);
    return new DeviceMemory;
  }();
  return *the;
}

c10::Allocator& pinned_allocator() {
  static auto* const the = new PinnedMemory;
  return *the;
}

bool is_pinned(const void* pointer) {
  const std::lock_guard lock(memory().mutex);
  const char* const p = static_cast<const char*>(pointer);
  const auto next = memory().pinned.upper_bound(p);
  return next != memory().pinned.begin() && p < std::prev(next)->first + std::prev(next)->second;
}

int device_of(const void* pointer) {
  const Arena* const arena = arena_of(pointer);
  return arena == nullptr ? -1 : static_cast<int>(arena - memory().arenas.data());
}

void* host_address(const void* pointer) {
  Arena* const arena = arena_of(pointer);
  return arena == nullptr ? const_cast<void*>(pointer) : arena->open + (static_cast<const char*>(pointer) - arena->locked);
}

const c10::impl::DeviceGuardImplInterface& device_guard() {
  static auto* const the = new Guard;
  return *the;
}

int current_device() { return current_index; }
c10::Stream current_stream(int index) { return Guard::stream_of(static_cast<c10::DeviceIndex>(index), current_streams[static_cast<size_t>(index)]); }

void queue(const c10::Stream& stream, std::function<void()> work) {
  const std::lock_guard lock(streams().mutex);
  streams().states[key_of(stream)].work.push_back(std::move(work));
  ++streams().counts.queued_copies;
}

void finish_stream(const c10::Stream& stream) {
  const std::lock_guard lock(streams().mutex);
  StreamState& state = streams().states[key_of(stream)];
  while (!state.work.empty()) {
    const std::function<void()> work = std::move(state.work.front());
    state.work.pop_front();
    work();
  }
}

void count_recorded_stream() {
  const std::lock_guard lock(streams().mutex);
  ++streams().counts.recorded_streams;
}

Counts counts() {
  const std::lock_guard lock(streams().mutex);
  Counts all = streams().counts;
  for (const Arena& arena : memory().arenas) all.out_of_memory += arena.out_of_memory;
  return all;
}

at::Device device(int index) { return {c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(index)}; }

Use device_memory(int index) {
  const std::lock_guard lock(memory().mutex);
  const Arena& arena = memory().arenas[static_cast<size_t>(index)];
  return {arena.now, arena.peak};
}

Use pinned_memory() {
  const std::lock_guard lock(memory().mutex);
  return memory().pinned_use;
}

void reset_peaks() {
  const std::lock_guard lock(memory().mutex);
  for (Arena& arena : memory().arenas) arena.peak = arena.now;
  memory().pinned_use.peak = memory().pinned_use.now;
}

Limit::Limit(std::int64_t bytes, int index) : index_(index) {
  const std::lock_guard lock(memory().mutex);
  before_ = std::exchange(memory().arenas[static_cast<size_t>(index)].limit, bytes);
}

Limit::~Limit() {
  const std::lock_guard lock(memory().mutex);
  memory().arenas[static_cast<size_t>(index_)].limit = before_;
}

HostAccess::HostAccess() {
  const std::lock_guard lock(memory().mutex);
  if (memory().host_accesses++ == 0)
    for (Arena& arena : memory().arenas) mprotect(arena.locked, kArena, PROT_READ | PROT_WRITE);
}

HostAccess::~HostAccess() {
  const std::lock_guard lock(memory().mutex);
  if (--memory().host_accesses == 0)
    for (Arena& arena : memory().arenas) mprotect(arena.locked, kArena, PROT_NONE);
}

}  // namespace miq::test::emulated
