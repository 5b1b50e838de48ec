// Process groups of real processes (process_group_ranks.cpp), and what launchers' variables mean.
#include "miq/core/process_group.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>

extern char** environ;

namespace miq::process_group {
namespace {

using testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

constexpr const char* kLaunchers[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "OMPI_", "PMI_", "MPI_", "TORCHELASTIC_", "MIQ_DIST_TIMEOUT", "OMP_NUM_THREADS"};

bool is_launchers(const std::string& variable) {
  return std::any_of(std::begin(kLaunchers), std::end(kLaunchers), [&](const char* prefix) { return variable.rfind(prefix, 0) == 0; });
}

// This process' environment without any launcher's variables.
std::vector<std::string> clean_environment() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (!is_launchers(*entry)) kept.emplace_back(*entry);
  return kept;
}

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

struct Ended {
  int status;  // of exit, or minus the signal
  std::string output;
  double seconds;
};

// Starts a process for each of `environments` and waits for all; those that run after 60 seconds are killed.
std::vector<Ended> run_ranks(const std::string& what, const std::vector<Variables>& environments) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("miq-ranks-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto start = std::chrono::steady_clock::now();
  std::vector<pid_t> processes;
  std::vector<std::string> files;
  for (const Variables& variables : environments) {
    std::vector<std::string> environment = clean_environment();
    for (const auto& entry : variables) environment.push_back(entry.first + "=" + entry.second);
    std::vector<char*> pointers;
    for (std::string& entry : environment) pointers.push_back(entry.data());
    pointers.push_back(nullptr);
    files.push_back((folder / std::to_string(files.size())).string());
    const pid_t process = ::fork();
    if (process == 0) {
      const int out = ::open(files.back().c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_APPEND, 0600);
      ::dup2(out, 1);
      ::dup2(out, 2);
      std::string program = MIQ_RANKS_PROGRAM, argument = what;
      char* const arguments[] = {program.data(), argument.data(), nullptr};
      ::execve(MIQ_RANKS_PROGRAM, arguments, pointers.data());
      ::_exit(127);
    }
    processes.push_back(process);
  }
  std::vector<Ended> ended(processes.size(), {0, "", -1});
  for (size_t open = processes.size(); open > 0;) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (size_t p = 0; p < processes.size(); ++p) {
      if (ended[p].seconds >= 0) continue;
      if (seconds > 60) ::kill(processes[p], SIGKILL);
      int status = 0;
      if (::waitpid(processes[p], &status, seconds > 60 ? 0 : WNOHANG) != processes[p]) continue;
      std::ostringstream content;
      content << std::ifstream(files[p]).rdbuf();
      ended[p] = {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), content.str(), seconds};
      --open;
    }
    ::usleep(5000);
  }
  std::filesystem::remove_all(folder);
  return ended;
}

std::vector<Variables> ranks(int size, const Variables& more = {}) {
  std::vector<Variables> environments;
  const std::string port = std::to_string(free_port());
  for (int rank = 0; rank < size; ++rank) {
    Variables variables = {{"RANK", std::to_string(rank)}, {"WORLD_SIZE", std::to_string(size)}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port}, {"MIQ_DIST_TIMEOUT", "50"}};
    for (const auto& entry : more) variables[entry.first] = entry.second;
    environments.push_back(std::move(variables));
  }
  return environments;
}

int cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

TEST(ProcessGroup, CollectivesOfTwoAndThreeRanks) {
  for (const int size : {2, 3}) {
    const std::vector<Ended> ended = run_ranks("collectives", ranks(size));
    for (int rank = 0; rank < size; ++rank) {
      const Ended& one = ended[static_cast<size_t>(rank)];
      EXPECT_EQ(one.status, 0) << one.output;
      EXPECT_THAT(one.output, HasSubstr("rank " + std::to_string(rank) + " of " + std::to_string(size) + ", local " + std::to_string(rank) + ", threads " + std::to_string(std::max(1, cores() / size)) + ": all collectives"));
    }
  }
}

TEST(ProcessGroup, StatisticsOfInputsAreAddedUp) {
  for (const Ended& one : run_ranks("statistics", ranks(2))) {
    EXPECT_EQ(one.status, 0) << one.output;
    EXPECT_THAT(one.output, HasSubstr("statistics"));
  }
}

TEST(ProcessGroup, SlurmAndMpiStartItToo) {
  const std::string port = std::to_string(free_port());
  std::vector<Variables> slurm, mpi;
  for (const char* rank : {"0", "1"}) {
    slurm.push_back({{"SLURM_PROCID", rank}, {"SLURM_NTASKS", "2"}, {"SLURM_LOCALID", rank}, {"SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"}, {"MASTER_PORT", port}});
    mpi.push_back({{"OMPI_COMM_WORLD_RANK", rank}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", rank}, {"MASTER_ADDR", "localhost"}, {"MASTER_PORT", std::to_string(free_port())}});
  }
  mpi[1]["MASTER_PORT"] = mpi[0]["MASTER_PORT"];
  for (const std::vector<Variables>* const environments : {&slurm, &mpi})
    for (const Ended& one : run_ranks("collectives", *environments)) {
      EXPECT_EQ(one.status, 0) << one.output;
      EXPECT_THAT(one.output, HasSubstr(" of 2"));
    }
}

TEST(ProcessGroup, ALostRankEndsAllWithinSeconds) {
  for (const char* what : {"killed", "killed_in_work"}) {
    const int lost = std::string(what) == "killed" ? 2 : 1;
    const std::vector<Ended> ended = run_ranks(what, ranks(3));
    for (int rank = 0; rank < 3; ++rank) {
      const Ended& one = ended[static_cast<size_t>(rank)];
      if (rank == lost) {
        EXPECT_EQ(one.status, -SIGKILL);
        continue;
      }
      EXPECT_EQ(one.status, 4) << what << rank << one.output;
      EXPECT_THAT(one.output, HasSubstr("error[io]: rank " + std::to_string(lost) + " is lost")) << what;
      EXPECT_EQ(one.output.find("error["), one.output.rfind("error[")) << one.output;
      EXPECT_LT(one.seconds, 20);
    }
  }
  const std::vector<Ended> ended = run_ranks("root_killed", ranks(2));
  EXPECT_EQ(ended[0].status, -SIGKILL);
  EXPECT_EQ(ended[1].status, 4);
  EXPECT_THAT(ended[1].output, HasSubstr("[rank 1] error[io]: rank 0 is lost"));
  EXPECT_LT(ended[1].seconds, 20);
}

TEST(ProcessGroup, AnErrorOfOneRankEndsAll) {
  const std::vector<Ended> ended = run_ranks("fails", ranks(3));
  EXPECT_THAT(ended[1].output, HasSubstr("[rank 1] error[numeric]: a weight is not finite\n  where: layer 3\n  fix:   mend it"));
  for (const Ended& one : ended) EXPECT_EQ(one.status, 5) << one.output;
  EXPECT_THAT(ended[0].output, HasSubstr("error[numeric]: rank 1: a weight is not finite\n  where: layer 3"));
  EXPECT_THAT(ended[2].output, HasSubstr("error[numeric]: rank 1: a weight is not finite"));
}

TEST(ProcessGroup, TheSameErrorOfAllIsToldOnce) {
  const std::vector<Ended> ended = run_ranks("fail_alike", ranks(2));
  EXPECT_EQ(ended[0].status, 2);
  EXPECT_EQ(ended[1].status, 2);
  EXPECT_THAT(ended[0].output, HasSubstr("error[config]: no such key\n  where: job.yaml:3"));
  EXPECT_EQ(ended[1].output, "");
}

TEST(ProcessGroup, RanksThatDifferAreRefused) {
  const std::vector<Ended> ended = run_ranks("differ", ranks(2));
  EXPECT_EQ(ended[0].status, 2);
  EXPECT_EQ(ended[1].status, 2);
  EXPECT_THAT(ended[0].output, HasSubstr("error[config]: rank 1 has another setting than rank 0: 'b: 3', not 'b: 2'"));
}

TEST(ProcessGroup, WhoDoesNotComeIsNamed) {
  const std::vector<Ended> alone = run_ranks("collectives", {ranks(3, {{"MIQ_DIST_TIMEOUT", "1"}})[0]});
  EXPECT_THAT(alone[0].output, HasSubstr("error[io]: not all of the 3 ranks came within 1 seconds; missing: 1, 2"));
  const std::vector<Ended> nobody = run_ranks("collectives", {ranks(2, {{"MIQ_DIST_TIMEOUT", "1"}})[1]});
  EXPECT_EQ(nobody[0].status, 4);
  EXPECT_THAT(nobody[0].output, HasSubstr("error[io]: rank 1 cannot reach rank 0 within 1 seconds"));
  const std::vector<Ended> late = run_ranks("late", ranks(2, {{"MIQ_DIST_TIMEOUT", "2"}}));
  EXPECT_EQ(late[0].status, 4);
  EXPECT_THAT(late[0].output, HasSubstr("did not come to a sum within 2 seconds"));
  EXPECT_EQ(late[1].status, 4) << late[1].output;
  EXPECT_LT(late[1].seconds, 20);
}

TEST(ProcessGroup, TwoProcessesOfOneRankAreRefused) {
  std::vector<Variables> twins = ranks(3);
  twins[2]["RANK"] = "1";
  int told = 0;
  for (const Ended& one : run_ranks("collectives", twins)) {
    EXPECT_NE(one.status, 0);
    EXPECT_LT(one.seconds, 20);
    told += one.output.find("error[config]: two processes have rank 1") != std::string::npos;
  }
  EXPECT_GE(told, 1);
  twins = ranks(2, {{"MIQ_DIST_TIMEOUT", "2"}});
  twins[1]["RANK"] = "0";
  std::string output;
  for (const Ended& one : run_ranks("collectives", twins)) output += one.output;
  EXPECT_THAT(output, HasSubstr("error[io]: rank 0 cannot listen"));
}

// Sets a launcher's variables for a test, and only those.
class LaunchVariables : public testing::Test {
 protected:
  void SetUp() override {
    for (char** entry = environ; *entry != nullptr; ++entry)
      if (is_launchers(*entry)) before_[std::string(*entry).substr(0, std::string(*entry).find('='))] = std::string(*entry).substr(std::string(*entry).find('=') + 1);
    set({});
  }
  void TearDown() override { set(before_); }
  void set(const Variables& variables) {
    std::vector<std::string> names;
    for (char** entry = environ; *entry != nullptr; ++entry)
      if (is_launchers(*entry)) names.push_back(std::string(*entry).substr(0, std::string(*entry).find('=')));
    for (const std::string& name : names) ::unsetenv(name.c_str());
    for (const auto& entry : variables) ::setenv(entry.first.c_str(), entry.second.c_str(), 1);
  }
  Launch with(const Variables& variables) {
    set(variables);
    return read_launch();
  }
  std::string problem(const Variables& variables) {
    try {
      with(variables);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::config);
      return error.what();
    }
    return "none";
  }
  Variables before_;
};

TEST_F(LaunchVariables, WithoutThemOrAloneThereIsNoGroup) {
  for (const Variables& variables : std::vector<Variables>{{},
                                                           {{"WORLD_SIZE", "1"}},
                                                           {{"RANK", "0"}, {"WORLD_SIZE", "1"}},
                                                           {{"SLURM_NTASKS", "1"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}},
                                                           {{"SLURM_NTASKS", "8"}},
                                                           {{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}, {"SLURM_JOB_ID", "7"}, {"SLURM_JOB_NODELIST", "a[1-8]"}},
                                                           {{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}},
                                                           {{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}}})
    EXPECT_EQ(with(variables).world_size, 1) << (variables.empty() ? "" : variables.begin()->first);
}

TEST_F(LaunchVariables, AreReadInEachLaunchersWords) {
  const Launch torchrun = with({{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "host"}, {"MASTER_PORT", "1234"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RESTART_COUNT", "2"}, {"TORCHELASTIC_RUN_ID", "job"},
                                {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "1"}});
  EXPECT_EQ(torchrun.rank, 3);
  EXPECT_EQ(torchrun.world_size, 4);
  EXPECT_EQ(torchrun.local_rank, 1);
  EXPECT_EQ(torchrun.address, "host");
  EXPECT_EQ(torchrun.port, 1234);
  EXPECT_TRUE(torchrun.hosted);
  EXPECT_EQ(torchrun.attempt, "job/2");
  const Variables step = {{"SLURM_PROCID", "5"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_JOB_ID", "100"}, {"SLURM_STEP_NUM_NODES", "2"}};
  const auto address = [&](const std::string& nodes) {
    Variables variables = step;
    variables["SLURM_STEP_NODELIST"] = nodes;
    return with(variables).address;
  };
  EXPECT_EQ(address("node[003-017,20],other"), "node003");
  EXPECT_EQ(address("node[7,9]"), "node7");
  EXPECT_EQ(address("rack[1-2]-a,b"), "rack1-a");
  EXPECT_EQ(address("first,second"), "first");
  const Launch slurm = read_launch();
  EXPECT_EQ(slurm.rank, 5);
  EXPECT_EQ(slurm.local_rank, 1);
  EXPECT_EQ(slurm.port, 12700);
  EXPECT_FALSE(slurm.hosted);
  const Launch mpich = with({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "1"}});
  EXPECT_EQ(mpich.rank, 1);
  EXPECT_EQ(mpich.local_rank, -1);
}

TEST_F(LaunchVariables, WhatIsWrongIsNamed) {
  const Variables good = {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "1234"}};
  const auto but = [&](const std::string& name, const char* value) {
    Variables variables = good;
    if (value == nullptr) variables.erase(name);
    else variables[name] = value;
    return problem(variables);
  };
  EXPECT_EQ(problem(good), "none");
  EXPECT_THAT(but("RANK", "2"), HasSubstr("RANK is 2, of 2 processes"));
  EXPECT_THAT(but("RANK", "-1"), HasSubstr("'-1' is not a whole number"));
  EXPECT_THAT(but("RANK", "one"), HasSubstr("'one' is not a whole number"));
  EXPECT_THAT(but("RANK", nullptr), HasSubstr("RANK is missing, though WORLD_SIZE is set"));
  EXPECT_THAT(but("WORLD_SIZE", nullptr), HasSubstr("WORLD_SIZE is missing, though RANK is set"));
  EXPECT_THAT(but("WORLD_SIZE", "2x"), HasSubstr("'2x'"));
  EXPECT_THAT(but("WORLD_SIZE", "0"), HasSubstr("'0'"));
  EXPECT_THAT(but("MASTER_ADDR", nullptr), HasSubstr("MASTER_ADDR is missing"));
  EXPECT_THAT(but("MASTER_PORT", nullptr), HasSubstr("MASTER_PORT is missing"));
  EXPECT_THAT(but("MASTER_PORT", "70000"), HasSubstr("'70000'"));
  EXPECT_THAT(but("LOCAL_RANK", "x"), HasSubstr("where: LOCAL_RANK"));
  EXPECT_THAT(problem({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}), HasSubstr("mpirun does not tell it"));
  EXPECT_THAT(problem({{"PMI_SIZE", "2"}}), HasSubstr("PMI_RANK is missing"));
  set({{"MIQ_DIST_TIMEOUT", "soon"}});
  EXPECT_THROW(timeout(), Error);
  set({});
  EXPECT_EQ(timeout(), std::chrono::seconds(600));
}

}  // namespace
}  // namespace miq::process_group
