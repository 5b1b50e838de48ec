// What golden tests share: where the cases lie, comparing tensors, temporary folders.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace miq::test {

/// $MIQ_GOLDEN_DIR, else ../shared/golden beside the repository.
std::filesystem::path golden_dir();

/// Whether absent golden data is a failure ($MIQ_REQUIRE_GOLDEN, set where it must be there).
bool golden_is_required();

/// Skips the running test, loudly, when the golden folder (or `sub` in it) is absent; fails it where
/// golden data is required.
#define MIQ_REQUIRE_GOLDEN(sub)                                                                      \
  if (!std::filesystem::exists(miq::test::golden_dir() / (sub))) {                                   \
    if (miq::test::golden_is_required()) FAIL() << "missing: " << (miq::test::golden_dir() / (sub)); \
    GTEST_SKIP() << "no golden cases: " << (miq::test::golden_dir() / (sub)) << " (set MIQ_GOLDEN_DIR)"; \
  }

/// The real small model that some golden cases were made with: $MIQ_SMOLLM2, else build/smollm2.
std::filesystem::path smollm2_dir();

/// The same for the model.
#define MIQ_REQUIRE_SMOLLM2()                                                                        \
  if (!std::filesystem::exists(miq::test::smollm2_dir() / "config.json")) {                          \
    if (miq::test::golden_is_required()) FAIL() << "no SmolLM2 in " << miq::test::smollm2_dir();     \
    GTEST_SKIP() << "no SmolLM2 in " << miq::test::smollm2_dir() << " (set MIQ_SMOLLM2)";            \
  }

/// max |a - b| over max |b|, in float64, of tensors of any device.
double relative_difference(const at::Tensor& a, const at::Tensor& b);

/// A folder of its own under the system's temporary folder, removed with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace miq::test
