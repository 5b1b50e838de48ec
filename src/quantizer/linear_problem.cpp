#include "miq/quantizer/linear_problem.h"

#include <cmath>
#include <limits>
#include <regex>

#include "miq/core/error.h"
#include "roundings.h"

namespace miq::quantizer {
namespace {

struct Entry {
  const char* name;
  bool needs_hessian;
  QuantizedLinear (*round)(const LinearProblem&, const Grid&, const Range&, const Rounding&);
};

constexpr Entry kRoundings[] = {
#define MIQ_ROUNDING(name, needs_hessian) {#name, needs_hessian, round_##name},
#include "roundings.def"
#undef MIQ_ROUNDING
};

const Entry& find_rounding(const std::string& name) {
  for (const Entry& entry : kRoundings)
    if (name == entry.name) return entry;
  throw Error(ErrorKind::config, "unknown rounding '" + name + "'", "recipe.rounding.kind",
              "did you mean " + nearest_name(name, rounding_names()) + "?");
}

void check(const LinearProblem& problem, const Grid& grid, const Entry& entry) {
  if (problem.weight_OI.dim() != 2 || problem.weight_OI.numel() == 0)
    throw Error(ErrorKind::unsupported, "the weight is not a matrix, or empty");
  if (grid.bits < 2 || grid.bits > 8) throw Error(ErrorKind::config, "bits must lie in 2 .. 8");
  if ((grid.granularity == Granularity::group || grid.granularity == Granularity::block) && grid.group_size < 1)
    throw Error(ErrorKind::config, "group_size must be positive");
  if (entry.needs_hessian && problem.hessian == nullptr)
    throw Error(ErrorKind::internal, std::string("rounding '") + entry.name + "' needs calibration statistics");
  if (problem.hessian != nullptr && problem.hessian->matrix().size(0) != problem.weight_OI.size(1))
    throw Error(ErrorKind::internal, "the Hessian belongs to a layer of another width");
  if (!problem.weight_OI.isfinite().all().item<bool>())
    throw Error(ErrorKind::numeric, "the weight is not finite (NaN or inf)", "", "the checkpoint is damaged");
}

// tr(dW H dW^T), summed in float64.
double hessian_loss(const at::Tensor& change_OI, const at::Tensor& hessian_II) {
  return (at::mm(change_OI, hessian_II) * change_OI).sum(at::kDouble).item<double>();
}

// Whether awq_clip leaves the linear alone.
bool skips_clip(const std::string& name, const Range& range) {
  return range.kind == RangeKind::awq_clip && !range.clip_skip.empty() && std::regex_search(name, std::regex(range.clip_skip));
}

QuantizedLinear round_or_fall_back(const Entry& entry, const LinearProblem& problem, const Grid& grid, const Range& range, const Rounding& rounding) {
  try {
    return entry.round(problem, grid, range, rounding);
  } catch (const NotPositiveDefinite& error) {
    Grid plain = grid;
    plain.bilevel = Bilevel();
    QuantizedLinear result = round_nearest(problem, plain, range, rounding);
    result.events.push_back({"fallback_nearest", error.message() + ": rounded to nearest instead"});
    return result;
  }
}

// The rho of an rms range: least loss of the rounding itself on a sample of rows.
double search_rho(const Entry& entry, const LinearProblem& problem, const Grid& grid, Range range, const Rounding& rounding) {
  const std::int64_t rows = problem.weight_OI.size(0), step = std::max<std::int64_t>(1, rows / 64);
  LinearProblem sample = problem;
  sample.weight_OI = problem.weight_OI.slice(0, 0, rows, step).contiguous();
  double best_rho = 2.4, least = std::numeric_limits<double>::infinity();
  for (double rho = 1.4; rho < 4.3; rho += 0.2) {
    range.rho = rho;
    const QuantizedLinear result = round_or_fall_back(entry, sample, grid, range, rounding);
    const double loss = hessian_loss(dequantize(result, at::kFloat) - sample.weight_OI, problem.hessian->matrix());
    if (loss < least) least = loss, best_rho = rho;
  }
  return best_rho;
}

}  // namespace

QuantizedLinear round_linear(const LinearProblem& problem, const Grid& grid, const Range& given_range, const Rounding& rounding) {
  const Entry& entry = find_rounding(rounding.kind);
  try {
    check(problem, grid, entry);
    Range range = given_range;
    if (skips_clip(problem.name, range)) range.kind = RangeKind::min_max;
    if (range.kind == RangeKind::rms && range.rho == 0)
      range.rho = problem.hessian != nullptr ? search_rho(entry, problem, grid, range, rounding) : Range().rho;
    QuantizedLinear result = round_or_fall_back(entry, problem, grid, range, rounding);
    // Most grids are fitted so; HQQ's parameters are settled last. Those of a second level are products.
    if (!result.grid.bilevel.enabled()) {
      result.params.scales_OG = stored_numbers(result.params.scales_OG, grid.scale_dtype);
      if (grid.real_zeros) result.params.zeros_OG = stored_numbers(result.params.zeros_OG, grid.scale_dtype);
    }
    if (!result.params.scales_OG.isfinite().all().item<bool>())
      throw Error(ErrorKind::numeric, "the weights are too large for a float32 scale", "", "the checkpoint is damaged");
    const at::Tensor change = dequantize(result, at::kFloat) - problem.weight_OI;
    result.relative_error = change.norm().item<double>() / std::max(1e-30, problem.weight_OI.norm().item<double>());
    if (std::isnan(result.loss) && problem.hessian != nullptr) result.loss = hessian_loss(change, problem.hessian->matrix());
    return result;
  } catch (const Error& error) {
    if (!error.where().empty()) throw;
    throw Error(error.kind(), error.message(), problem.name, error.fix());
  }
}

bool needs_hessian(const std::string& rounding_kind) { return find_rounding(rounding_kind).needs_hessian; }

std::vector<std::string> rounding_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kRoundings) names.push_back(entry.name);
  return names;
}

}  // namespace miq::quantizer
