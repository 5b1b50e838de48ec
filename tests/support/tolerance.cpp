#include "support/tolerance.h"

#include <ATen/ATen.h>
#include <fnmatch.h>

namespace miq::test {
namespace {

using nlohmann::json;

at::Tensor equal_elements(const at::Tensor& a, const at::Tensor& b, bool nan_equal) {
  const at::Tensor same = a == b;
  return nan_equal ? same.logical_or(a.isnan().logical_and(b.isnan())) : same;
}

// |a-b| <= atol*(max|b| if relative_to=max else 1) + rtol*|b|
at::Tensor close_elements(const at::Tensor& a, const at::Tensor& b, const json& tolerance) {
  double atol = tolerance.value("atol", 0.0);
  if (tolerance.value("relative_to", std::string()) == "max") atol *= b.abs().max().item<double>();
  return (a - b).abs().le(b.abs() * tolerance.value("rtol", 0.0) + atol);
}

double fraction(const at::Tensor& flags) { return flags.to(at::kDouble).mean().item<double>(); }

std::int64_t count_false(const at::Tensor& flags) { return flags.logical_not().sum().item<std::int64_t>(); }

// One flag per row (first dimension).
at::Tensor whole_rows(const at::Tensor& flags) { return flags.reshape({flags.size(0), -1}).all(1); }

testing::AssertionResult verdict(bool good, const at::Tensor& flags, const at::Tensor& a, const at::Tensor& b,
                                 const json& tolerance) {
  if (good) return testing::AssertionSuccess();
  const at::Tensor difference = (a - b).abs().flatten();
  const auto worst = difference.nan_to_num(std::numeric_limits<double>::infinity()).argmax().item<std::int64_t>();
  return testing::AssertionFailure() << count_false(flags) << " of " << flags.numel() << " outside " << tolerance.dump()
                                     << "; worst at " << worst << ": " << a.flatten()[worst].item<double>() << " instead of "
                                     << b.flatten()[worst].item<double>();
}

}  // namespace

json tolerance_of(const json& tolerances, const std::string& name, const json& fallback) {
  if (tolerances.contains(name)) return tolerances.at(name);
  for (const auto& [pattern, tolerance] : tolerances.items())
    if (pattern.find('*') != std::string::npos && fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return tolerance;
  return fallback;
}

testing::AssertionResult within(const at::Tensor& actual, const at::Tensor& expected, const json& tolerance,
                                const TensorLookup& lookup) {
  if (!actual.defined() || actual.numel() != expected.numel())
    return testing::AssertionFailure() << "has " << (actual.defined() ? actual.numel() : 0) << " elements, not " << expected.numel();
  const at::Tensor b = expected.to(at::kDouble), a = actual.to(at::kCPU).to(at::kDouble).reshape(b.sizes());
  const std::string kind = tolerance.at("kind");
  const bool nan_equal = tolerance.value("nan_equal", false);
  const auto by_rows = [&](const at::Tensor& flags) {
    const at::Tensor sure = lookup(tolerance.at("margin")).ge(tolerance.at("min_margin").get<double>());
    const at::Tensor good = whole_rows(flags);
    const auto bad_others = count_false(good.logical_or(sure));
    const bool exact = kind == "exact_rows";
    const bool pass = count_false(good.logical_or(sure.logical_not())) == 0 &&
                      (!exact || bad_others <= tolerance.at("max_bad_rows").get<std::int64_t>());
    return verdict(pass, good, a, b, tolerance);
  };
  const auto where = [&](const at::Tensor& flags) {
    const at::Tensor counted = lookup(tolerance.at("where")).reshape(b.sizes()).gt(tolerance.at("above").get<double>());
    const at::Tensor good = flags.logical_or(counted.logical_not());
    return verdict(count_false(good) <= tolerance.value("max_bad", std::int64_t{0}), good, a, b, tolerance);
  };
  const at::Tensor equal = equal_elements(a, b, nan_equal);
  if (kind == "exact") return verdict(count_false(equal) == 0, equal, a, b, tolerance);
  if (kind == "fraction") return verdict(fraction(equal) >= tolerance.at("min_fraction").get<double>(), equal, a, b, tolerance);
  if (kind == "rows_fraction") {
    const at::Tensor rows = whole_rows(equal);
    return verdict(fraction(rows) >= tolerance.at("min_fraction").get<double>(), rows, a, b, tolerance);
  }
  if (kind == "exact_rows") return by_rows(equal);
  if (kind == "exact_where") return where(equal);
  if (kind == "rel" || kind == "abs") {
    const json as_close = kind == "rel" ? json{{"rtol", tolerance.at("rtol")}} : json{{"atol", tolerance.at("atol")}};
    const at::Tensor close = close_elements(a, b, as_close);
    return verdict(count_false(close) == 0, close, a, b, tolerance);
  }
  if (kind == "allclose" || kind == "allclose_fraction" || kind == "allclose_rows" || kind == "allclose_where") {
    const at::Tensor close = close_elements(a, b, tolerance).logical_or(equal);
    if (kind == "allclose_rows") return by_rows(close);
    if (kind == "allclose_where") return where(close);
    const bool all = kind == "allclose";
    return verdict(all ? count_false(close) == 0 : fraction(close) >= tolerance.at("min_fraction").get<double>(), close, a, b, tolerance);
  }
  return testing::AssertionFailure() << "unknown kind of tolerance '" << kind << "'";
}

}  // namespace miq::test
