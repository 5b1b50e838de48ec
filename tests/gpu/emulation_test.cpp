// What the emulation promises: without it a kernel that is wrong on a card could pass.
#include "emulation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

namespace miq::gpu {
namespace {

struct Numbers {
  float at[64];
};

int launch_one(unsigned threads, const std::function<void()>& kernel) { return run(1, threads, kernel); }

TEST(Emulation, SharedMemoryAndBarriersJoinABlock) {
  std::vector<float> turned(3 * 64);
  EXPECT_EQ(run(3, 64, [&] {
              MIQ_SHARED(Numbers, shared);
              shared.at[threadIdx.x] = static_cast<float>(threadIdx.x + 100 * blockIdx.x);
              __syncthreads();
              turned[blockIdx.x * 64 + threadIdx.x] = shared.at[63 - threadIdx.x];
            }),
            0);
  for (unsigned i = 0; i < turned.size(); ++i) EXPECT_EQ(turned[i], static_cast<float>(63 - i % 64 + 100 * (i / 64)));
}

TEST(Emulation, LanesExchange) {
  std::vector<int> sums(64);
  launch_one(64, [&] {
    int sum = static_cast<int>(threadIdx.x);
    for (int mask = 16; mask > 0; mask /= 2) sum += exchange(sum, current_lane() ^ mask);
    sums[threadIdx.x] = sum;
  });
  for (int i = 0; i < 64; ++i) EXPECT_EQ(sums[static_cast<size_t>(i)], i < 32 ? 31 * 16 : 31 * 16 + 32 * 32);
}

TEST(Emulation, SharedMemoryIsGarbageAtFirst) {
  bool garbage = true;
  run(2, 32, [&] {
    MIQ_SHARED(Numbers, shared);
    garbage = garbage && std::isnan(shared.at[threadIdx.x]);
    exchange(0, 0);
    shared.at[threadIdx.x] = 1;
  });
  EXPECT_TRUE(garbage);
}

TEST(Emulation, SizesThatNoGpuTakesAreRefused) {
  EXPECT_EQ(run(1, 2048, [] {}), 1);
  EXPECT_EQ(run(dim3(1, 65536), 32, [] {}), 1);
  EXPECT_EQ(run(0, 32, [] { std::abort(); }), 0);
}

TEST(Emulation, LaunchesOfSeveralThreadsTakeTurns) {
  std::vector<int> counts(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < counts.size(); ++t)
    threads.emplace_back([&counts, t] {
      for (int i = 0; i < 20; ++i)
        run(4, 64, [&] {
          __syncthreads();
          if (threadIdx.x == 0) ++counts[t];
        });
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counts, std::vector<int>(4, 80));
}

TEST(EmulationDeathTest, AThreadThatMissesABarrier) {
  EXPECT_DEATH(launch_one(64,
                          [] {
                            if (threadIdx.x == 5) return;
                            __syncthreads();
                          }),
               "thread \\(5, 0, 0\\) of block \\(0, 0, 0\\) left the kernel while others wait at a barrier");
}

TEST(EmulationDeathTest, ThreadsAtDifferentBarriers) {
  EXPECT_DEATH(launch_one(64,
                          [] {
                            if (threadIdx.x < 32)
                              __syncthreads();
                            else
                              __syncthreads();
                          }),
               "waits at another barrier than the others");
}

TEST(EmulationDeathTest, ALaneThatMissesAnExchange) {
  EXPECT_DEATH(launch_one(32,
                          [] {
                            if (threadIdx.x % 2 == 0) exchange(1, 0);
                          }),
               "left the kernel while lanes of its group wait to exchange");
  EXPECT_DEATH(launch_one(32,
                          [] {
                            if (threadIdx.x == 3) __syncthreads();
                            else exchange(1, 0);
                          }),
               "thread \\(3, 0, 0\\).* is at a barrier while lanes of its group wait");
}

TEST(EmulationDeathTest, LanesThatExchangeDifferentThings) {
  EXPECT_DEATH(launch_one(32,
                          [] {
                            if (threadIdx.x < 16) exchange(1.0, 0);
                            else exchange(1, 0);
                          }),
               "exchanges something else than another lane");
}

TEST(EmulationDeathTest, ALaneOutsideTheGroup) {
  EXPECT_DEATH(launch_one(32, [] { exchange(1, 32); }), "exchanges with a lane outside its group");
}

TEST(EmulationDeathTest, TooMuchSharedMemory) {
  struct Large {
    char bytes[49153];
  };
  EXPECT_DEATH(launch_one(32,
                          [] {
                            MIQ_SHARED(Large, shared);
                            shared.bytes[0] = 1;
                          }),
               "more than 48 KiB");
}

TEST(EmulationDeathTest, ABlockThatIsNoMultipleOfAGroup) { EXPECT_DEATH(launch_one(48, [] {}), "no multiple of 32 threads"); }

}  // namespace
}  // namespace miq::gpu
