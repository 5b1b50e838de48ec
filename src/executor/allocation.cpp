#include "allocation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>

#include "miq/core/error.h"

namespace miq::executor {
namespace {

constexpr double kMaxCells = 2e8;  // of the table of choices, a byte each

std::vector<int> parse_choices(const std::string& text) {
  std::vector<int> bits;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    std::istringstream number(part);
    int value = 0;
    if (!(number >> value) || value < 2 || value > 8)
      throw Error(ErrorKind::config, "'" + part + "' is not a number of bits", "recipe.allocate.choices", "write for example \"2,3,4,8\"; bits lie in 2 .. 8");
    bits.push_back(value);
  }
  return bits;
}

}  // namespace

std::map<std::string, int> choose_bits(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const quantizer::Allocation& allocation,
                                       const PipelineOptions& options) {
  const std::vector<int> bits = parse_choices(allocation.choices);
  std::vector<std::string> names;
  std::vector<AllocationItem> items;
  double weights = 0;
  PipelineOptions survey = options;
  survey.rotation = quantizer::Transform();  // of no consequence for the comparison
  survey.on_linears = nullptr;
  survey.on_tensor = nullptr;
  survey.keep_blocks = false;
  survey.survey = [&](const PlannedLinear& planned, const at::Tensor& weight_OI, quantizer::StageHessian& hessian) {
    constexpr std::int64_t kRows = 128;
    const std::int64_t rows = weight_OI.size(0), step = (rows + kRows - 1) / kRows;
    const at::Tensor sample = weight_OI.slice(0, 0, rows, step).contiguous();
    const double share = static_cast<double>(rows) / static_cast<double>(sample.size(0));
    const double energy = (at::mm(sample, hessian.matrix()) * sample).sum(at::kDouble).item<double>();
    AllocationItem item{weight_OI.numel(), {}};
    quantizer::Grid grid = planned.choice.layer->grid;
    grid.bilevel.rows = 1;  // a sample's rows are no neighbours
    for (const int b : bits) {
      grid.bits = b;
      const double loss = round_linear({planned.name, sample, &hessian}, grid, planned.choice.layer->range, planned.choice.layer->rounding).loss;
      item.errors.push_back(allocation.relative ? loss / std::max(energy, 1e-30) : loss * share);
    }
    names.push_back(planned.name);
    items.push_back(item);
    weights += static_cast<double>(item.weights);
  };
  run_pipeline(model, plan, survey);
  const std::vector<int> chosen = allocate_bits(items, bits, allocation.bits * weights);
  std::map<std::string, int> result;
  for (size_t i = 0; i < names.size(); ++i) result[names[i]] = bits[static_cast<size_t>(chosen[i])];
  return result;
}

std::vector<int> allocate_bits(const std::vector<AllocationItem>& items, const std::vector<int>& bits, double budget_bits) {
  if (items.empty()) return {};
  std::int64_t unit = 0;
  double total = 0;
  for (const AllocationItem& item : items) {
    unit = std::gcd(unit, item.weights);
    total += static_cast<double>(item.weights);
  }
  const int fewest = *std::min_element(bits.begin(), bits.end());
  if (total * fewest > budget_bits * (1 + 1e-12))
    throw Error(ErrorKind::config, "an average of " + std::to_string(budget_bits / total) + " bits cannot be met: the fewest a layer may get is " + std::to_string(fewest),
                "recipe.allocate.bits", "raise bits, or allow fewer in choices");
  while (static_cast<double>(items.size()) * (budget_bits / static_cast<double>(unit) + 1) > kMaxCells) unit *= 2;
  const auto budget = static_cast<std::int64_t>(std::floor(budget_bits / static_cast<double>(unit) * (1 + 1e-12)));

  // best[c]: the least error of the items so far at a cost of at most c.
  std::vector<double> best(static_cast<size_t>(budget + 1), 0), next(best);
  std::vector<std::vector<std::int8_t>> chosen;
  for (const AllocationItem& item : items) {
    const std::int64_t size = (item.weights + unit - 1) / unit;
    std::vector<std::int8_t> choice(static_cast<size_t>(budget + 1), -1);
    std::fill(next.begin(), next.end(), std::numeric_limits<double>::infinity());
    for (size_t k = 0; k < bits.size(); ++k) {
      const std::int64_t cost = size * bits[k];
      for (std::int64_t c = cost; c <= budget; ++c) {
        const double error = best[static_cast<size_t>(c - cost)] + item.errors[k];
        if (!(error < next[static_cast<size_t>(c)])) continue;
        next[static_cast<size_t>(c)] = error;
        choice[static_cast<size_t>(c)] = static_cast<std::int8_t>(k);
      }
    }
    std::swap(best, next);
    chosen.push_back(std::move(choice));
  }
  std::vector<int> result(items.size());
  std::int64_t left = budget;
  for (size_t i = items.size(); i-- > 0;) {
    const int k = chosen[i][static_cast<size_t>(left)];
    if (k < 0)
      throw Error(ErrorKind::config, "the budget cannot be met in units of " + std::to_string(unit) + " weights", "recipe.allocate.bits", "raise it a little");
    result[i] = k;
    left -= (items[i].weights + unit - 1) / unit * bits[static_cast<size_t>(k)];
  }
  return result;
}

}  // namespace miq::executor
