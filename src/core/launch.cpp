// What launchers tell a process in its environment.
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <tuple>

#include "miq/core/process_group.h"

namespace miq::process_group {
namespace {

using Text = std::optional<std::string>;

Text variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr || *value == '\0' ? Text() : Text(value);
}

std::int64_t number(const char* name, const std::string& text, std::int64_t low, std::int64_t high) {
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end || value < low || value > high)
    throw Error(ErrorKind::config, "'" + text + "' is not a whole number from " + std::to_string(low) + " to " + std::to_string(high), name, "start the processes with torchrun, srun or mpirun");
  return value;
}

constexpr int kMostRanks = 1 << 20;

// Rank and size by the names of a launcher; size 1 is no group, whatever the rest says.
Launch read(const char* launcher, const char* rank, const char* size, const char* local_rank) {
  Launch launch;
  launch.launcher = launcher;
  const auto need = [&](const char* name, const char* other) {
    const Text value = variable(name);
    if (!value) throw Error(ErrorKind::config, std::string(name) + " is missing, though " + other + " is set", "environment", "start the processes with torchrun, srun or mpirun, or unset " + std::string(other));
    return *value;
  };
  launch.world_size = static_cast<int>(number(size, need(size, rank), 1, kMostRanks));
  if (launch.world_size == 1 && !variable(rank)) return launch;
  launch.rank = static_cast<int>(number(rank, need(rank, size), 0, kMostRanks));
  if (launch.rank >= launch.world_size)
    throw Error(ErrorKind::config, std::string(rank) + " is " + std::to_string(launch.rank) + ", of " + std::to_string(launch.world_size) + " processes (" + size + "); ranks count from 0", "environment",
                "start the processes with torchrun, srun or mpirun");
  if (const Text local = variable(local_rank)) launch.local_rank = static_cast<int>(number(local_rank, *local, 0, kMostRanks));
  return launch;
}

void read_address(Launch& launch, const std::string& fix) {
  const auto need = [&](const char* name) {
    const Text value = variable(name);
    if (!value) throw Error(ErrorKind::config, std::string(name) + " is missing: it tells where rank 0 listens", "environment", fix);
    return *value;
  };
  launch.address = need("MASTER_ADDR");
  launch.port = static_cast<int>(number("MASTER_PORT", need("MASTER_PORT"), 1, 65535));
}

// The first host of "node[003-017,20],other".
std::string first_host(const std::string& list) {
  const size_t open = list.find_first_of("[,");
  if (open == std::string::npos || list[open] == ',') return list.substr(0, open);
  const size_t stop = list.find_first_of("-,]", open);
  const size_t close = list.find(']', open);
  if (stop == std::string::npos || close == std::string::npos) return "";
  const size_t next = list.find_first_of(",[", close);
  return list.substr(0, open) + list.substr(open + 1, stop - open - 1) + list.substr(close + 1, next == std::string::npos ? next : next - close - 1);
}

// Slurm tells no address: rank 0 is on the step's first host. Each step has a port of its own, below those that the system gives out.
void read_slurm_address(Launch& launch) {
  const Text nodes = variable("SLURM_STEP_NUM_NODES") ? variable("SLURM_STEP_NUM_NODES") : variable("SLURM_NNODES");
  const Text list = variable("SLURM_STEP_NODELIST") ? variable("SLURM_STEP_NODELIST") : variable("SLURM_JOB_NODELIST");
  if (const Text told = variable("MASTER_ADDR")) launch.address = *told;
  else if (nodes && *nodes == "1") launch.address = "127.0.0.1";
  else if (list) launch.address = first_host(*list);
  else launch.address = variable("SLURM_LAUNCH_NODE_IPADDR").value_or("");
  if (launch.address.empty()) throw Error(ErrorKind::config, "Slurm's variables do not tell where rank 0 is", "SLURM_STEP_NODELIST", "set MASTER_ADDR to its host");
  if (const Text told = variable("MASTER_PORT")) {
    launch.port = static_cast<int>(number("MASTER_PORT", *told, 1, 65535));
    return;
  }
  const auto id = [](const char* name) { return static_cast<std::uint64_t>(std::strtoull(variable(name).value_or("0").c_str(), nullptr, 10)); };
  launch.port = static_cast<int>(12000 + (id("SLURM_JOB_ID") * 7 + id("SLURM_STEP_ID")) % 20000);
}

}  // namespace

Launch read_launch() {
  Launch launch;
  // srun alone sets these: in a shell or script of an allocation there are SLURM_NTASKS and SLURM_PROCID, and one process.
  const bool step = variable("SLURM_PROCID") && (variable("SLURM_STEP_ID") || variable("SLURM_LAUNCH_NODE_IPADDR"));
  if (variable("RANK")) {
    launch = read("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK");
    if (launch.world_size == 1) return {};
    read_address(launch, "start the processes with torchrun, or set MASTER_ADDR and MASTER_PORT");
    launch.hosted = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
    launch.attempt = variable("TORCHELASTIC_RUN_ID").value_or("") + "/" + variable("TORCHELASTIC_RESTART_COUNT").value_or("0");
    return launch;
  }
  if (step) {
    launch = read("Slurm", "SLURM_PROCID", variable("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", "SLURM_LOCALID");
    if (launch.world_size == 1) return {};
    read_slurm_address(launch);
    return launch;
  }
  for (const auto& [rank, size, local] : {std::tuple("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"), std::tuple("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")}) {
    if (!variable(size)) continue;
    launch = read("MPI", rank, size, local);
    if (launch.world_size == 1) return {};
    read_address(launch, "mpirun does not tell it: add -x MASTER_ADDR=HOST -x MASTER_PORT=29500 (MPICH: -genv MASTER_ADDR HOST -genv MASTER_PORT 29500)");
    return launch;
  }
  if (const Text size = variable("WORLD_SIZE"); size && number("WORLD_SIZE", *size, 1, kMostRanks) > 1) read("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK");
  return {};
}

std::chrono::milliseconds timeout() {
  const Text text = variable("MIQ_DIST_TIMEOUT");
  return std::chrono::seconds(text ? number("MIQ_DIST_TIMEOUT", *text, 1, 10'000'000) : 600);
}

}  // namespace miq::process_group
