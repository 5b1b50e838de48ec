#include "support/golden.h"

#include <unistd.h>

#include <cstdlib>

namespace miq::test {

std::filesystem::path golden_dir() {
  if (const char* folder = std::getenv("MIQ_GOLDEN_DIR")) return folder;
  return std::filesystem::path(MIQ_SOURCE_DIR) / ".." / "shared" / "golden";
}

std::filesystem::path smollm2_dir() {
  if (const char* folder = std::getenv("MIQ_SMOLLM2")) return folder;
  return std::filesystem::path(MIQ_SOURCE_DIR) / "build/smollm2";
}

bool golden_is_required() { return std::getenv("MIQ_REQUIRE_GOLDEN") != nullptr; }

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor reference = b.cpu().to(at::kDouble);
  const double scale = std::max(reference.abs().max().item<double>(), 1e-30);
  return (a.cpu().to(at::kDouble) - reference).abs().max().item<double>() / scale;
}

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "miq-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace miq::test
