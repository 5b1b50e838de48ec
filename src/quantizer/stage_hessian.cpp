// Damping, column order and the Cholesky factor of a stage's Hessian, spec: GPTQ (arXiv 2210.17323)
// step 3; retry ladder as GPTQModel's hessian_inverse.
#include <tuple>

#include "miq/core/error.h"
#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer {
namespace {

// Inverts a lower triangular matrix in place, by halves: a third of the work of solving for the identity. What
// lies above the diagonal is left as it is.
void invert_lower(at::Tensor lower) {
  const std::int64_t n = lower.size(0);
  if (n <= 128) {
    lower.copy_(at::linalg_solve_triangular(lower, at::eye(n, lower.options()), /*upper=*/false));
    return;
  }
  const std::int64_t half = n / 2;
  const at::Tensor top = lower.narrow(0, 0, half).narrow(1, 0, half), bottom = lower.narrow(0, half, n - half).narrow(1, half, n - half);
  invert_lower(top);
  invert_lower(bottom);
  at::Tensor coupling = lower.narrow(0, half, n - half).narrow(1, 0, half);
  coupling.copy_(at::mm(at::mm(bottom, coupling), top).neg_());
}

// U with H^-1 = U^T U, U upper: H = R R^T with R upper is the Cholesky factor of H with both orders
// reversed, and U = R^-1. Undefined when H is not positive definite.
at::Tensor inverse_factor(const at::Tensor& hessian) {
  auto [lower, info] = at::linalg_cholesky_ex(hessian.flip({0, 1}));
  if (info.item<int>() != 0 || !lower.diagonal().isfinite().all().item<bool>()) return {};
  invert_lower(lower);
  const at::Tensor upper = lower.flip({0, 1});
  return upper.isfinite().all().item<bool>() ? upper : at::Tensor();
}

// GPTQModel's group-aware order (arXiv 2505.14638): inside each full group by descending diagonal,
// the groups by their largest, a ragged tail last and as it is.
at::Tensor group_aware_order(const at::Tensor& diagonal, std::int64_t group_size) {
  const std::int64_t columns = diagonal.size(0), full = columns / group_size;
  if (full == 0) return at::arange(columns, diagonal.options().dtype(at::kLong));
  const at::Tensor grouped = diagonal.narrow(0, 0, full * group_size).view({full, group_size});
  const at::Tensor inside = std::get<1>(grouped.sort(/*stable=*/true, 1, /*descending=*/true));
  const at::Tensor groups = std::get<1>(std::get<0>(grouped.max(1)).sort(/*stable=*/true, 0, /*descending=*/true));
  const at::Tensor order = (inside + at::arange(full, inside.options()).unsqueeze(1) * group_size).index_select(0, groups);
  return at::cat({order.flatten(), at::arange(full * group_size, columns, inside.options())});
}

// SpQR's groups follow the sweep, and it adds the damping before it looks for dead columns.
bool is_spqr(const Rounding& rounding) { return rounding.kind == "spqr"; }

bool is_group_aware(const Rounding& rounding) { return rounding.act_order == ActOrder::none && rounding.group_aware && !is_spqr(rounding); }

at::Tensor column_order(const at::Tensor& diagonal, const Rounding& rounding, std::int64_t group_size) {
  if (rounding.act_order == ActOrder::desc) return std::get<1>(diagonal.sort(/*stable=*/true, 0, /*descending=*/true));
  if (rounding.act_order == ActOrder::reverse) return at::arange(diagonal.size(0) - 1, -1, -1, diagonal.options().dtype(at::kLong));
  return is_group_aware(rounding) ? group_aware_order(diagonal, group_size) : at::Tensor();
}

HessianFactor make_factor(const at::Tensor& hessian_II, std::int64_t num_tokens, const Rounding& rounding,
                          std::int64_t group_size, const at::Tensor& order) {
  HessianFactor factor;
  at::Tensor hessian = hessian_II.clone();
  at::Tensor diagonal = hessian.diagonal();
  const double mean_with_dead = diagonal.abs().mean().item<double>();
  const at::Tensor dead = diagonal == 0;
  if (const auto count = dead.sum().item<std::int64_t>(); count > 0) {
    factor.dead = dead;
    diagonal.masked_fill_(dead, 1);
    factor.events.push_back({"dead_columns", std::to_string(count) + " of " + std::to_string(dead.size(0)) +
                                                 " inputs are always zero: their weights become 0"});
  }
  if (num_tokens < hessian.size(0))
    factor.events.push_back({"starved_hessian", std::to_string(num_tokens) + " calibration tokens for " +
                                                    std::to_string(hessian.size(0)) + " inputs: only damping makes it definite"});
  factor.perm = order.defined() ? order.to(hessian.device()) : column_order(is_spqr(rounding) ? hessian_II.diagonal() : diagonal, rounding, group_size);
  if (factor.perm.defined()) hessian = hessian.index_select(0, factor.perm).index_select(1, factor.perm);
  diagonal = hessian.diagonal();
  const at::Tensor original = diagonal.clone();
  const double mean = is_spqr(rounding) ? mean_with_dead : original.mean().item<double>(), largest = original.abs().max().item<double>();

  // percdamp, raised step by step while below 1; then a floor under the diagonal, ten times higher
  // each time, and the ladder again; then float64.
  const auto try_damping = [&](double percdamp, double floor, at::ScalarType precision) {
    diagonal.copy_(original + (percdamp * mean + floor));
    if (is_spqr(rounding) && factor.dead.defined())
      diagonal.masked_fill_(factor.perm.defined() ? factor.dead.index_select(0, factor.perm) : factor.dead, 1);
    factor.upper_II = inverse_factor(hessian.to(precision));
    if (!factor.upper_II.defined()) return false;
    factor.upper_II = factor.upper_II.to(at::kFloat);
    factor.damp = percdamp * mean + floor;
    factor.percdamp_used = mean > 0 ? factor.damp / mean : 0;
    return true;
  };
  for (int level = 0; level <= 6; ++level) {
    const double floor = level == 0 ? 0 : largest * 1e-6 * std::pow(10.0, level - 1);
    for (double percdamp = rounding.percdamp; percdamp < 1 || percdamp == rounding.percdamp;
         percdamp += rounding.damp_auto_increment) {
      if (try_damping(percdamp, floor, at::kFloat)) {
        if (percdamp != rounding.percdamp || level > 0)
          factor.events.push_back({"damping_raised", "not positive definite at percdamp " + std::to_string(rounding.percdamp) +
                                                         ": raised to " + std::to_string(factor.percdamp_used)});
        return factor;
      }
      if (rounding.damp_auto_increment <= 0) break;
    }
    if (rounding.damp_auto_increment <= 0) break;
  }
  if (try_damping(rounding.percdamp, 0, at::kDouble)) {
    factor.events.push_back({"factor_float64", "no Cholesky factor in float32: computed in float64"});
    return factor;
  }
  throw NotPositiveDefinite(ErrorKind::numeric, "the Hessian is not positive definite at percdamp " + std::to_string(rounding.percdamp), "",
                            "raise rounding.percdamp, or give more and more varied calibration data");
}

using FactorKey = std::tuple<double, double, ActOrder, bool, std::int64_t>;  // spqr; group size, 0 if it does not matter

}  // namespace

std::vector<std::int64_t> HessianFactor::columns() const {
  const at::Tensor order = (perm.defined() ? perm : at::arange(upper_II.size(0))).cpu().contiguous();
  return {order.const_data_ptr<std::int64_t>(), order.const_data_ptr<std::int64_t>() + order.size(0)};
}

struct StageHessian::Cache {
  std::map<FactorKey, HessianFactor> factors;
  HessianFactor given;
};

StageHessian::StageHessian(at::Tensor hessian_II, std::int64_t num_tokens)
    : hessian_II_(std::move(hessian_II)), num_tokens_(num_tokens), cache_(std::make_unique<Cache>()) {
  if (!hessian_II_.isfinite().all().item<bool>())
    throw Error(ErrorKind::numeric, "the Hessian is not finite (NaN or inf)", "", "check the calibration data and the checkpoint");
}

StageHessian::~StageHessian() = default;

const HessianFactor& StageHessian::factor(const Rounding& rounding, std::int64_t group_size, const at::Tensor& order) {
  if (order.defined()) {  // belongs to one linear: kept until the next
    cache_->given = make_factor(hessian_II_, num_tokens_, rounding, group_size, order);
    return cache_->given;
  }
  const FactorKey key{rounding.percdamp, rounding.damp_auto_increment, rounding.act_order, is_spqr(rounding),
                      is_group_aware(rounding) ? group_size : 0};
  auto found = cache_->factors.find(key);
  if (found == cache_->factors.end())
    found = cache_->factors.emplace(key, make_factor(hessian_II_, num_tokens_, rounding, group_size, {})).first;
  return found->second;
}

}  // namespace miq::quantizer
