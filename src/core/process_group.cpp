// The process group over c10d: gloo for tensors on a CPU, NCCL or RCCL for those on GPUs where this LibTorch has it. A second group of gloo's
// is the watch: each rank but the first has one receive from rank 0 open, and rank 0 one from each of them, from the start to the end. It
// completes with a notice - done, or the error that the rank ends with - or fails when the kernel closes a dead process' connection.
#include "miq/core/process_group.h"

#include <ATen/Parallel.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "miq/core/log.h"
#include "miq/core/text.h"
#include "place.h"

#if defined(USE_C10D_NCCL) && defined(__has_include)
#if __has_include(<nccl.h>) && __has_include(<cuda_runtime.h>) && __has_include(<cusparse.h>)
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#define MIQ_HAS_NCCL
#endif
#endif

namespace miq::process_group {

#ifdef USE_C10D_GLOO

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Work = c10::intrusive_ptr<c10d::Work>;
using Backend = c10::intrusive_ptr<c10d::Backend>;

constexpr std::int64_t kNoticeBytes = 8192;
constexpr std::int64_t kChunkBytes = std::int64_t{1} << 28;  // at once: bounds what backends buffer, and no count of theirs needs more than 32 bits
constexpr milliseconds kForever{std::int64_t{1000} * 3600 * 24 * 3650};
constexpr milliseconds kGrace{3000};  // for the thread that works to end the process itself, files put away

// How a rank ends: with an error, or done.
struct Notice {
  bool done = false;
  int rank = 0, status = 0;
  std::string message, where, fix;
};

bool same_error(const Notice& a, const Notice& b) { return a.message == b.message && a.where == b.where && a.fix == b.fix; }

struct Group {
  Launch launch;
  milliseconds limit;
  c10::intrusive_ptr<c10d::Store> runs, store;  // of the launcher's job, and of this group alone
  Backend cpu, device, watch;
  std::vector<std::thread> watchers;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<bool> told;            // ranks that had their one notice from here
  std::optional<Notice> failure;     // the first that was heard of
  std::optional<Notice> from_root;   // rank 0's notice, here on another rank
  bool relayed = false, printed = false, ending = false;
  int done = 0;
};

// Never destroyed but by finish(): after an error its threads may wait for ranks that do not come.
Group* group = nullptr;

at::Tensor pack(const Notice& notice) {
  const auto part = [](const std::string& text) { return text.substr(0, 1200); };
  const nlohmann::json value = {{"done", notice.done}, {"rank", notice.rank}, {"status", notice.status}, {"message", part(notice.message)}, {"where", part(notice.where)}, {"fix", part(notice.fix)}};
  const std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  at::Tensor bytes = at::zeros({kNoticeBytes}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), std::min<size_t>(text.size(), kNoticeBytes - 1));
  return bytes;
}

Notice unpack(const at::Tensor& bytes) {
  const nlohmann::json value = nlohmann::json::parse(static_cast<const char*>(bytes.const_data_ptr()));
  return {value.at("done"), value.at("rank"), value.at("status"), value.at("message"), value.at("where"), value.at("fix")};
}

std::string rank_name(int rank) { return "rank " + std::to_string(rank); }

Error error_of(const Notice& notice) {
  if (notice.status == 0) return Error(ErrorKind::io, rank_name(notice.rank) + " is lost: its connection was closed", notice.where, notice.fix);
  return Error(static_cast<ErrorKind>(notice.status), rank_name(notice.rank) + ": " + notice.message, notice.where, notice.fix);
}

// The one notice from here to `rank`. A rank that is gone needs none.
void tell(Group& g, int rank, const Notice& notice) {
  {
    const std::lock_guard lock(g.mutex);
    if (g.told[static_cast<size_t>(rank)]) return;
    g.told[static_cast<size_t>(rank)] = true;
  }
  try {
    std::vector<at::Tensor> tensors = {pack(notice)};
    const Work work = g.watch->send(tensors, rank, 0);
    work->wait(milliseconds(1000));
  } catch (const std::exception&) {
  }
}

// What a watcher makes of the end of `rank`: told to all, and in the end of this process, whatever its other threads do.
void end_with(Group& g, Notice failure) {
  std::unique_lock lock(g.mutex);
  if (g.launch.rank != 0) g.from_root = failure;
  const bool first = !g.failure;
  if (first) g.failure = failure;
  const bool lost = failure.status == 0;
  if (first && lost && !g.ending) {
    g.printed = true;
    std::fputs((log_prefix() + printable(error_of(failure).what()) + "\n").c_str(), stderr);
  }
  g.wake.notify_all();
  if (!first) return;
  lock.unlock();
  if (g.launch.rank == 0)
    for (int rank = 1; rank < g.launch.world_size; ++rank)
      if (rank != failure.rank) tell(g, rank, failure);
  lock.lock();
  g.relayed = true;
  g.wake.notify_all();
  if (g.wake.wait_for(lock, kGrace, [&] { return g.ending; })) return;
  if (!g.printed) std::fputs((log_prefix() + printable(error_of(failure).what()) + "\n").c_str(), stderr);
  std::fflush(nullptr);
  std::_Exit(error_of(failure).exit_status());
}

void watch(Group& g, int rank, const Work& receive, const at::Tensor& bytes) {
  Notice notice{false, rank, 0, "", "", "its own messages, and the system's log of its machine, tell why: a signal, or no memory left"};
  try {
    receive->wait(kForever);
    notice = unpack(bytes);
  } catch (const std::exception&) {  // the connection is closed
  }
  if (!notice.done) return end_with(g, notice);
  const std::lock_guard lock(g.mutex);
  ++g.done;
  g.wake.notify_all();
}

std::string first_line(const std::exception& problem) {
  const auto* const libtorch = dynamic_cast<const c10::Error*>(&problem);
  const std::string text = libtorch ? libtorch->what_without_backtrace() : problem.what();
  return text.substr(0, text.find('\n'));
}

bool is_timeout(const std::string& text) { return text.find("imed out") != std::string::npos || text.find("imeout") != std::string::npos; }

// A collective fails where a rank is lost. The watch knows which one it is, now or in a moment.
Error collective_error(Group& g, const char* what, const std::exception& problem) {
  const std::string text = first_line(problem);
  std::unique_lock lock(g.mutex);
  if (g.wake.wait_for(lock, is_timeout(text) ? milliseconds(0) : kGrace, [&] { return g.failure.has_value(); })) return error_of(*g.failure);
  if (is_timeout(text))
    return Error(ErrorKind::io, "the other ranks did not come to a " + std::string(what) + " within " + std::to_string(g.limit.count() / 1000) + " seconds", rank_name(g.launch.rank),
                 "see what they do; where their work takes so long, raise MIQ_DIST_TIMEOUT (seconds)");
  return Error(ErrorKind::io, "a " + std::string(what) + " between the ranks failed: " + text, rank_name(g.launch.rank), "check the network between the machines");
}

// Waits for the work or for the news that a rank is lost, whichever comes first.
template <class Start>
void collect(const char* what, const Start& start) {
  Group& g = *group;
  try {
    const Work work = start();
    const auto completed = std::make_shared<bool>(false);
    work->getFuture()->addCallback([&g, completed](c10::ivalue::Future&) {
      const std::lock_guard lock(g.mutex);
      *completed = true;
      g.wake.notify_all();
    });
    std::unique_lock lock(g.mutex);
    g.wake.wait(lock, [&] { return *completed || g.failure; });
    // A rank that ends with an error was beyond this, perhaps: then this one may come to the same error by itself.
    if (g.failure && g.failure->status != 0) g.wake.wait_for(lock, milliseconds(300), [&] { return *completed; });
    if (!*completed) throw error_of(*g.failure);
    lock.unlock();
    work->wait();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& problem) {
    throw collective_error(g, what, problem);
  }
}

// Of tensors on a GPU; none where this LibTorch has no library for them.
Backend device_backend(Group& g) {
#ifdef MIQ_HAS_NCCL
  if (!g.device) {
    const auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = g.limit;
    g.device = c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>("nccl", g.store), g.launch.rank, g.launch.world_size, options);
  }
#endif
  return g.device;
}

// Starts a collective on each part of `flat` in turn, where it lies if a backend is for that device, else on a copy in memory.
template <class Start>
void in_parts(const char* what, const at::Tensor& flat, const Start& start) {
  Group& g = *group;
  const bool direct = !flat.is_cpu() && device_backend(g);
  const Backend backend = direct ? g.device : g.cpu;
  const at::Tensor here = direct || flat.is_cpu() ? flat : flat.cpu();
  const std::int64_t step = kChunkBytes / here.element_size();
  for (std::int64_t begin = 0; begin < here.numel(); begin += step) {
    std::vector<at::Tensor> part = {here.narrow(0, begin, std::min(step, here.numel() - begin))};
    collect(what, [&] { return start(*backend, part); });
  }
  if (!here.is_same(flat)) flat.copy_(here);
}

void all_reduce(at::Tensor& tensor, c10d::ReduceOp::RedOpType operation) {
  if (group == nullptr || tensor.numel() == 0) return;
  const at::ScalarType type = tensor.scalar_type();
  const bool narrow = type == at::kHalf || type == at::kBFloat16;
  const at::ScalarType wide = narrow ? at::kFloat : type == at::kShort || type == at::kBool ? at::kInt : type;
  const at::Tensor flat = tensor.to(wide).contiguous().view({-1});
  in_parts("sum", flat, [&](c10d::Backend& backend, std::vector<at::Tensor>& part) {
    c10d::AllreduceOptions options;
    options.reduceOp = operation;
    return backend.allreduce(part, options);
  });
  if (flat.data_ptr() != tensor.data_ptr()) tensor.copy_(flat.view(tensor.sizes()));
}

// One process of each rank, and all of them, before gloo waits for anybody.
void meet(Group& g, Clock::time_point deadline) {
  const auto key = [](int rank) { return "rank/" + std::to_string(rank); };
  if (g.store->add(key(g.launch.rank), 1) > 1) {
    const std::string text = "two processes have rank " + std::to_string(g.launch.rank);
    g.store->set("refused", text);
    throw Error(ErrorKind::config, text, "RANK", "give each process a rank of its own");
  }
  std::vector<int> missing(static_cast<size_t>(g.launch.world_size));
  for (int rank = 0; rank < g.launch.world_size; ++rank) missing[static_cast<size_t>(rank)] = rank;
  while (true) {
    if (g.store->check({"refused"})) throw Error(ErrorKind::config, g.store->get_to_str("refused"), "RANK", "give each process a rank of its own");
    while (!missing.empty() && g.store->check({key(missing.back())})) missing.pop_back();
    if (missing.empty()) break;
    if (Clock::now() > deadline) {
      std::string names;
      for (const int rank : missing)
        if (!g.store->check({key(rank)})) names += (names.empty() ? "" : ", ") + std::to_string(rank);
      throw Error(ErrorKind::io, "not all of the " + std::to_string(g.launch.world_size) + " ranks came within " + std::to_string(g.limit.count() / 1000) + " seconds; missing: " + names,
                  g.launch.address + ":" + std::to_string(g.launch.port), "see why they did not start; raise MIQ_DIST_TIMEOUT (seconds) where they need longer");
    }
    std::this_thread::sleep_for(milliseconds(20));
  }
}

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, milliseconds limit) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(launch.port);
  options.isServer = launch.rank == 0 && !launch.hosted;
  options.waitWorkers = false;
  options.timeout = limit;
  const std::string place = launch.address + ":" + std::to_string(launch.port);
  try {
    return c10::make_intrusive<c10d::PrefixStore>("miq/" + launch.attempt, c10::make_intrusive<c10d::TCPStore>(launch.address, options));
  } catch (const std::exception& problem) {
    if (options.isServer)
      throw Error(ErrorKind::io, "rank 0 cannot listen: " + first_line(problem), place, "take a MASTER_PORT that is free on rank 0's machine, and see that one process alone has rank 0");
    throw Error(ErrorKind::io, "rank " + std::to_string(launch.rank) + " cannot reach rank 0 within " + std::to_string(limit.count() / 1000) + " seconds: " + first_line(problem), place,
                "check MASTER_ADDR and MASTER_PORT, and that rank 0 has started");
  }
}

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

Backend connect(const Group& g, const std::string& name) {
  const auto options = is_loopback(g.launch.address) && std::getenv("GLOO_SOCKET_IFNAME") == nullptr ? c10d::ProcessGroupGloo::Options::create(g.limit) : c10d::ProcessGroupGloo::Options::create_default(g.limit);
  // Ranks that meet on the loopback address are on one machine, whatever its name resolves to.
  if (options->devices.empty()) options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(g.launch.address));
  return c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>(name, g.store), g.launch.rank, g.launch.world_size, options);
}

void start_watch(Group& g) {
  g.watch->setTimeout(kForever);
  g.told.assign(static_cast<size_t>(g.launch.world_size), false);
  for (int rank = g.launch.rank == 0 ? 1 : 0; rank < (g.launch.rank == 0 ? g.launch.world_size : 1); ++rank) {
    std::vector<at::Tensor> bytes = {at::zeros({kNoticeBytes}, at::kByte)};
    const Work receive = g.watch->recv(bytes, rank, 0);
    g.watchers.emplace_back([&g, rank, receive, buffer = bytes[0]] { watch(g, rank, receive, buffer); });
  }
}

// Ranks that run on the same cores of the same machine share them. Slurm and mpirun may have given each its own.
void share_machine(Group& g) {
  const Place place = this_place();
  const std::vector<std::string> machines = all_gather(place.machine), cores = all_gather(place.cores);
  if (g.launch.local_rank < 0) g.launch.local_rank = static_cast<int>(std::count(machines.begin(), machines.begin() + g.launch.rank, place.machine));
  const int share = std::max(1, place.core_count / static_cast<int>(std::count(cores.begin(), cores.end(), place.cores)));
  const char* const told = std::getenv("OMP_NUM_THREADS");
  if (told == nullptr || *told == '\0') at::set_num_threads(share);
  else if (g.launch.hosted && std::string(told) == "1" && share > 1 && g.launch.rank == 0)
    log_warning("each rank works with one thread: torchrun sets OMP_NUM_THREADS=1 where it is not set; set it to " + std::to_string(share) + " to use all cores");
}

}  // namespace

void start() {
  if (group != nullptr) return;
  const Launch launch = read_launch();
  if (launch.world_size == 1) return;
  set_log_rank(launch.rank);
  std::signal(SIGPIPE, SIG_IGN);  // a connection that a dead rank closed is an error of the write
  ::setenv("TORCH_CPP_LOG_LEVEL", "ERROR", /*overwrite=*/0);  // c10d's own lines about each attempt to connect
  c10::initLogging();
  auto made = std::make_unique<Group>();
  made->launch = launch;
  made->limit = timeout();
  const auto deadline = Clock::now() + made->limit;
  made->runs = open_store(launch, made->limit);
  try {
    // A launcher's own store outlives a group: a script may run several commands.
    made->store = c10::make_intrusive<c10d::PrefixStore>("run/" + std::to_string(made->runs->add("runs", 0)), made->runs);
    meet(*made, deadline);
    made->cpu = connect(*made, "data");
    made->watch = connect(*made, "watch");
  } catch (const Error&) {
    throw;
  } catch (const std::exception& problem) {
    throw Error(ErrorKind::io, "rank " + std::to_string(launch.rank) + " cannot connect to the other ranks: " + first_line(problem), launch.address + ":" + std::to_string(launch.port),
                "check that no rank ended, and that the machines reach each other; GLOO_SOCKET_IFNAME names the network interface to use");
  }
  group = made.release();
  start_watch(*group);
  share_machine(*group);
  log_info(rank_name(launch.rank) + " of " + std::to_string(launch.world_size) + " (" + launch.launcher + ", " + launch.address + ":" + std::to_string(launch.port) + "), " + std::to_string(at::get_num_threads()) +
           (at::get_num_threads() == 1 ? " thread" : " threads"));
}

void finish() {
  if (group == nullptr) return;
  Group& g = *group;
  const Notice done{true, g.launch.rank, 0, "", "", ""};
  if (g.launch.rank != 0) tell(g, 0, done);
  std::unique_lock lock(g.mutex);
  g.wake.wait(lock, [&] { return g.failure || g.done == static_cast<int>(g.watchers.size()); });
  if (g.failure) throw error_of(*g.failure);
  lock.unlock();
  if (g.launch.rank == 0) {
    g.runs->add("runs", 1);
    for (int rank = 1; rank < g.launch.world_size; ++rank) tell(g, rank, done);
  }
  for (std::thread& watcher : g.watchers) watcher.join();
  delete std::exchange(group, nullptr);
}

bool tell_failure(const Error& error) {
  if (group == nullptr) return true;
  Group& g = *group;
  std::unique_lock lock(g.mutex);
  g.ending = true;
  g.wake.notify_all();
  if (g.failure && error_of(*g.failure).what() == std::string(error.what())) {
    g.wake.wait_for(lock, kGrace, [&] { return g.relayed; });
    return !g.printed;
  }
  const Notice own{false, g.launch.rank, error.exit_status(), error.message(), error.where(), error.fix()};
  if (!g.failure) g.failure = own;
  lock.unlock();
  if (g.launch.rank == 0) {
    for (int rank = 1; rank < g.launch.world_size; ++rank) tell(g, rank, own);
    return true;
  }
  tell(g, 0, own);
  lock.lock();
  g.wake.wait_for(lock, milliseconds(1000), [&] { return g.from_root.has_value(); });
  return !(g.from_root && same_error(*g.from_root, own));
}

int rank() { return group ? group->launch.rank : 0; }
int world_size() { return group ? group->launch.world_size : 1; }
int local_rank() { return group ? group->launch.local_rank : 0; }

void all_reduce_sum(at::Tensor& tensor) { all_reduce(tensor, c10d::ReduceOp::SUM); }
void all_reduce_min(at::Tensor& tensor) { all_reduce(tensor, c10d::ReduceOp::MIN); }
void all_reduce_max(at::Tensor& tensor) { all_reduce(tensor, c10d::ReduceOp::MAX); }

void broadcast(at::Tensor& tensor, int root) {
  if (group == nullptr || tensor.numel() == 0) return;
  const at::Tensor whole = tensor.contiguous(), flat = whole.view({-1}).view(at::kByte);
  in_parts("broadcast", flat, [&](c10d::Backend& backend, std::vector<at::Tensor>& part) {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return backend.broadcast(part, options);
  });
  if (!whole.is_same(tensor)) tensor.copy_(whole);
}

#else  // a LibTorch without gloo

void start() {
  if (read_launch().world_size > 1)
    throw Error(ErrorKind::unsupported, "this LibTorch was built without gloo: it cannot run as several processes", "environment", "configure with a LibTorch that has USE_GLOO");
}
void finish() {}
bool tell_failure(const Error&) { return true; }
int rank() { return 0; }
int world_size() { return 1; }
int local_rank() { return 0; }
void all_reduce_sum(at::Tensor&) {}
void all_reduce_min(at::Tensor&) {}
void all_reduce_max(at::Tensor&) {}
void broadcast(at::Tensor&, int) {}

#endif

}  // namespace miq::process_group
