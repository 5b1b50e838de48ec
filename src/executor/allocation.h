// Bits by layer under a budget of average bits: the choice with the least sum of errors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "miq/executor/pipeline.h"

namespace miq::executor {

/// One linear: its size in weights and its error at each of the choices.
struct AllocationItem {
  std::int64_t weights;
  std::vector<double> errors;
};

/// Indices into `bits`, one per item: the least sum of errors with sum weights * bits <= budget_bits.
/// Exact (multiple-choice knapsack by dynamic programming over units of the sizes' common divisor); where
/// that would take too much memory, sizes are rounded up to coarser units, so that the budget still
/// holds. @throws Error{config} when even the fewest bits do not fit.
std::vector<int> allocate_bits(const std::vector<AllocationItem>& items, const std::vector<int>& bits, double budget_bits);

/// Bits for the plan's linears: surveys the float model with the calibration samples, then allocates.
/// Each layer's error at each choice is that of its own rounding, on a sample of its rows.
std::map<std::string, int> choose_bits(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const quantizer::Allocation& allocation,
                                       const PipelineOptions& options);

}  // namespace miq::executor
