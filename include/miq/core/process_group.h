// Several processes that do one job: which of them this is, and what they tell each other. Without a group every function below is
// that of a group of one, so that callers need not ask. Every process calls the collectives in the same order, from one thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "miq/core/error.h"

namespace miq::process_group {

/// What a launcher's variables say of this process.
struct Launch {
  int rank = 0, world_size = 1;  ///< 1: one process, no group
  int local_rank = -1;           ///< among the processes of this machine; -1: not told
  std::string launcher;          ///< "torchrun", "Slurm" or "MPI": for messages
  std::string address;           ///< where rank 0, or the launcher itself, listens
  int port = 0;
  bool hosted = false;           ///< the launcher listens (torchrun's agent), not rank 0
  std::string attempt;           ///< of a launcher that starts processes again after a failure: its job and how often it did
};

/// Reads the variables of torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), else of a Slurm step, else of MPI's mpirun
/// (docs/distributed.md). What Slurm sets outside of srun starts no group. @throws Error{config} naming the variable that is
/// missing or wrong.
Launch read_launch();

/// The seconds of MIQ_DIST_TIMEOUT (600 without it): how long ranks wait for each other. @throws Error{config}.
std::chrono::milliseconds timeout();

/// Meets the other processes, if there are any: after it every rank's connections stand, and a rank that is lost is told to the others
/// within seconds. Cores are shared between the ranks of a machine unless OMP_NUM_THREADS is set; SIGPIPE is ignored from then on.
/// @throws Error{config} as read_launch, and for two processes of one rank; Error{io} when not all ranks come within timeout();
/// Error{unsupported} when this LibTorch has no gloo.
void start();

/// Ends the group when all ranks are here, so that none is missed by another that still works. @throws Error as collectives do.
void finish();

/// Tells the other ranks that this one ends with `error`, so that they end too. False when the error need not be printed: rank 0 has the
/// same, or it has been printed here. The process should then leave with std::_Exit: threads of the group may still wait.
bool tell_failure(const Error& error);

int rank();        ///< 0 without a group
int world_size();  ///< 1 without a group
int local_rank();  ///< place among the ranks of this machine; 0 without a group

/// Collectives, in place, over any dtype (bfloat16 and float16 are summed in float32) and device; the same result on all ranks, to the bit.
/// @throws Error{io} when a rank is lost or does not come within timeout(); the Error of a rank that ended with one.
void all_reduce_sum(at::Tensor& tensor);
void all_reduce_min(at::Tensor& tensor);  ///< NaN is not kept
void all_reduce_max(at::Tensor& tensor);  ///< NaN is not kept
void broadcast(at::Tensor& tensor, int root = 0);  ///< all have its shape and dtype
void broadcast(std::string& bytes, int root = 0);  ///< of any length
std::vector<std::string> all_gather(const std::string& bytes);  ///< each rank's, of any lengths, in the order of ranks
void barrier();

/// Refuses ranks of which one has another `text` than rank 0. @throws Error{config} on all of them, with the first line that differs.
void check_same(const std::string& name, const std::string& text);

/// The part of `count` things in a row that is this rank's: [first, second). Parts differ by one thing at most.
std::pair<std::int64_t, std::int64_t> own_part(std::int64_t count);

}  // namespace miq::process_group
