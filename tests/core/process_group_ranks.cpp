// One rank of tests/core/process_group_test.cpp: does what its first argument says and prints what it found.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "miq/core/log.h"
#include "miq/core/process_group.h"
#include "miq/quantizer/statistics.h"

namespace pg = miq::process_group;

namespace {

void expect(bool holds, const char* what) {
  if (!holds) throw miq::Error(miq::ErrorKind::internal, std::string("not so: ") + what);
}

void collectives() {
  const int rank = pg::rank(), size = pg::world_size();
  const int ranks_sum = size * (size - 1) / 2;
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kInt, at::kLong, at::kShort, at::kByte}) {
    at::Tensor sum = at::full({3, 5}, rank + 1, type).t(), least = sum.clone(), most = sum.clone();
    pg::all_reduce_sum(sum);
    pg::all_reduce_min(least);
    pg::all_reduce_max(most);
    expect(sum.scalar_type() == type && sum.eq(ranks_sum + size).all().item<bool>(), "the sum of all ranks");
    expect(least.eq(1).all().item<bool>() && most.eq(size).all().item<bool>(), "the extremes of all ranks");
  }
  at::Tensor fine = at::full({1}, rank == 0 ? 256 : 1, at::kBFloat16);  // in bfloat16 256 + 1 + 1 is 256
  pg::all_reduce_sum(fine);
  expect(fine.equal(at::full({1}, 255 + size, at::kFloat).to(at::kBFloat16)), "sums of bfloat16 are rounded once");
  at::Tensor none = at::empty({0, 4});
  pg::all_reduce_sum(none);
  for (int root = 0; root < size; ++root) {
    at::Tensor sent = at::arange(12, at::kBFloat16).view({3, 4}).t() * (rank == root ? 1 : 0);
    pg::broadcast(sent, root);
    expect(sent.eq(at::arange(12, at::kBFloat16).view({3, 4}).t()).all().item<bool>(), "the root's values");
    std::string words = rank == root ? std::string("a\0b", 3) + std::string(100000, 'x') : "other";
    pg::broadcast(words, root);
    expect(words.size() == 100003 && words[1] == '\0', "the root's bytes");
  }
  const std::vector<std::string> all = pg::all_gather(std::string(static_cast<size_t>(rank) * 1000, static_cast<char>('a' + rank)));
  for (int other = 0; other < size; ++other) expect(all[static_cast<size_t>(other)] == std::string(static_cast<size_t>(other) * 1000, static_cast<char>('a' + other)), "each rank's bytes");
  pg::check_same("word", "one\ntwo");
  pg::barrier();
  std::int64_t next = 0;
  for (const std::string& part : pg::all_gather(std::to_string(pg::own_part(7).first) + " " + std::to_string(pg::own_part(7).second))) {
    expect(std::stoll(part) == next, "parts lie side by side");
    next = std::stoll(part.substr(part.find(' ')));
  }
  expect(next == 7, "all is somebody's");
  std::cout << "rank " << rank << " of " << size << ", local " << pg::local_rank() << ", threads " << at::get_num_threads() << ": all collectives" << std::endl;
}

// Statistics of inputs that are split over ranks: those of all inputs.
void statistics() {
  using miq::quantizer::InputStatistics;
  const int rank = pg::rank(), size = pg::world_size();
  at::manual_seed(1);
  const at::Tensor x = at::randn({size * 2, 8, 6});
  const miq::quantizer::StatisticsNeeds needs{true, true, true};
  InputStatistics all(6, at::kCPU, needs), own(6, at::kCPU, needs);
  all.add(x, size * 2);
  own.add(x.narrow(0, rank * 2, 2), 2);
  own.all_reduce();
  expect(own.num_tokens() == size * 16, "all tokens");
  expect(own.hessian().allclose(all.hessian(), 1e-5, 1e-6), "the Hessian of all");
  expect(own.mean_abs().allclose(all.mean_abs(), 1e-5, 1e-6), "the means of all");
  expect(own.lowest().equal(all.lowest()) && own.highest().equal(all.highest()), "the extremes of all");
  InputStatistics spoilt(6, at::kCPU, {false, false, true});
  spoilt.add(rank == 1 ? at::full({1, 1, 6}, std::nanf("")) : at::ones({1, 1, 6}), 1);
  spoilt.all_reduce();
  try {
    spoilt.lowest();
    expect(false, "NaN of one rank is an error of all");
  } catch (const miq::Error& error) {
    expect(error.kind() == miq::ErrorKind::numeric, "NaN of one rank is an error of all");
  }
  std::cout << "statistics" << std::endl;
}

void work(const std::string& what) {
  const int rank = pg::rank();
  if (what == "statistics") return statistics();
  if (what == "collectives") return collectives();
  if (what == "differ") return pg::check_same("setting", rank == 0 ? "a: 1\n  b: 2" : "a: 1\n  b: 3");
  if (what == "killed") {  // the last rank dies while the others wait for it
    pg::barrier();
    if (rank == pg::world_size() - 1) ::kill(::getpid(), SIGKILL);
    pg::barrier();
  }
  if (what == "root_killed") {
    pg::barrier();
    if (rank == 0) ::kill(::getpid(), SIGKILL);
    pg::barrier();
  }
  if (what == "killed_in_work") {  // nobody is in a collective
    pg::barrier();
    if (rank == 1) ::kill(::getpid(), SIGKILL);
    while (true) ::pause();
  }
  if (what == "fails") {
    if (rank == 1) throw miq::Error(miq::ErrorKind::numeric, "a weight is not finite", "layer 3", "mend it");
    pg::barrier();
  }
  if (what == "fail_alike") throw miq::Error(miq::ErrorKind::config, "no such key", "job.yaml:3", "leave it out");
  if (what == "late") {
    if (rank == 1) ::sleep(30);
    pg::barrier();
  }
  if (what == "big") {  // beyond 32 bits of bytes
    std::string bytes(rank == 0 ? (std::size_t{1} << 32) + 5 : 0, 'q');
    pg::broadcast(bytes);
    expect(bytes.size() == (std::size_t{1} << 32) + 5 && bytes.back() == 'q', "all of it");
    std::cout << "big" << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    pg::start();
    work(argc > 1 ? argv[1] : "");
    pg::finish();
    return 0;
  } catch (const miq::Error& error) {
    if (pg::tell_failure(error)) std::fputs((miq::log_prefix() + error.what() + "\n").c_str(), stderr);
    std::fflush(nullptr);
    std::_Exit(error.exit_status());
  }
}
