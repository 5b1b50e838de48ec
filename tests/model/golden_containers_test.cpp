// The same model in other containers (golden/formats): GGUF by block types, torch.save, shards. Logits are those
// of the reference library with the values that the container holds.
#include <gtest/gtest.h>

#include "miq/core/gguf.h"
#include "support.h"

namespace miq::model::test {
namespace {
namespace fs = std::filesystem;

fs::path formats_dir() { return miq::test::golden_dir() / "formats"; }

std::vector<std::string> folders() {
  std::vector<std::string> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(formats_dir(), none)) {
    const std::string name = entry.path().filename();
    if ((name.rfind("gguf_", 0) == 0 || name.rfind("base", 0) == 0) && fs::exists(entry.path() / "reference.safetensors")) found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

class Container : public testing::TestWithParam<std::string> {};

TEST_P(Container, LogitsAndWeightsAreTheReferences) {
  const fs::path folder = formats_dir() / GetParam();
  const auto gguf = find_gguf(folder);
  LanguageModel model = open_model(gguf ? *gguf : folder);
  const SafetensorsFile golden = SafetensorsFile::open(folder / "reference.safetensors");
  const at::Tensor logits = model.logits(hidden_states(model, golden.tensor("ids")).back());
  EXPECT_LT(miq::test::relative_difference(logits, golden.tensor("logits_fp32")), 1e-4);
  if (!fs::exists(folder / "expected.safetensors")) return;
  const SafetensorsFile expected = SafetensorsFile::open(folder / "expected.safetensors");
  for (const auto& [name, spec] : expected.specs())
    if (model.source().has(name)) {
      EXPECT_TRUE(model.source().tensor(name).to(at::kFloat).equal(expected.tensor(name).to(at::kFloat))) << name;
    }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Container);
INSTANTIATE_TEST_SUITE_P(GoldenContainers, Container, testing::ValuesIn(folders()), [](const auto& info) { return info.param; });

TEST(GoldenContainers, AreThere) {
  MIQ_REQUIRE_GOLDEN("formats");
  EXPECT_FALSE(folders().empty());
}

}  // namespace
}  // namespace miq::model::test
