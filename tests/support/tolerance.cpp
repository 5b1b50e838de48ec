#include "support/tolerance.h"

namespace miq::test {
namespace {

std::string count_text(const char* what, const at::Tensor& bad) {
  return std::to_string(bad.sum().item<std::int64_t>()) + " of " + std::to_string(bad.numel()) + " " + what + " differ";
}

// Elements with |a - b| > atol * (max |b| or 1) + rtol * |b|.
at::Tensor outside(const at::Tensor& a, const at::Tensor& b, const nlohmann::json& tolerance) {
  const double rtol = tolerance.value("rtol", 0.0), atol = tolerance.value("atol", 0.0);
  const double unit = tolerance.value("relative_to", std::string()) == "max" ? b.abs().max().item<double>() : 1.0;
  return ((a - b).abs() <= atol * unit + rtol * b.abs()).logical_not();
}

at::Tensor by_rows(const at::Tensor& bad) { return bad.reshape({bad.size(0), -1}).any(1); }

}  // namespace

std::optional<std::string> mismatch(const at::Tensor& got, const at::Tensor& want, const nlohmann::json& tolerance,
                                    const at::Tensor& margin) {
  const std::string kind = tolerance.value("kind", std::string());
  if (got.numel() != want.numel()) return "sizes differ: " + std::to_string(got.numel()) + " and " + std::to_string(want.numel());
  const at::Tensor a = got.to(at::kDouble).reshape(want.sizes()), b = want.to(at::kDouble);
  const bool exact = kind == "exact" || kind == "exact_rows";
  const at::Tensor bad = exact ? a != b : outside(a, b, tolerance);
  if (kind == "exact" || kind == "allclose")
    return bad.any().item<bool>() ? std::optional(count_text("elements", bad)) : std::nullopt;
  if (kind == "exact_rows" || kind == "allclose_rows") {
    const at::Tensor sure = margin >= tolerance.value("min_margin", 0.0), bad_rows = by_rows(bad);
    if (bad_rows.logical_and(sure).any().item<bool>()) return count_text("rows with a margin", bad_rows.logical_and(sure));
    const auto unsure = bad_rows.logical_and(sure.logical_not()).sum().item<std::int64_t>();
    if (unsure > tolerance.value("max_bad_rows", margin.numel())) return std::to_string(unsure) + " rows without a margin differ";
    return std::nullopt;
  }
  return "unknown tolerance kind '" + kind + "'";
}

}  // namespace miq::test
