// Statistics of scores: how far a figure is to be trusted, and whether two figures differ. Numbers only; docs/statistics.md has the formulas.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace miq::evaluator {

inline constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

/// Arithmetic mean; NaN of nothing.
double mean(const std::vector<double>& values);

/// Sample standard deviation (n - 1) over sqrt(n); NaN of fewer than two values.
double standard_error(const std::vector<double>& values);

/// The p-quantile, 0 <= p <= 1, linear between the order statistics (numpy's default); NaN of nothing.
double quantile(std::vector<double> values, double p);

/// What a score is a function of: for each unit (a document, or a group of documents that belong together) `width` addends. The score is
/// `finish` of their sums over the units, so that one description serves means, F1, perplexity and bias scores.
struct Units {
  std::size_t width = 1;
  std::vector<double> addends;  ///< [units, width]
  std::size_t count() const { return addends.size() / width; }
};
using Finish = double (*)(const double* sums);

/// A score of units in strata: the mean of each stratum's own score (strata whose score is undefined are left out). One stratum: its score.
double score_of(const std::vector<Units>& strata, Finish finish);

struct BootstrapOptions {
  std::int64_t resamples = 1000;
  std::uint64_t seed = 1234;
  double confidence = 0.95;
};

struct Estimate {
  double value = kUndefined;
  double standard_error = kUndefined;             ///< of the resamples' scores (n - 1)
  double low = kUndefined, high = kUndefined;     ///< percentile interval
};

/// Nonparametric bootstrap (Efron 1979): units are drawn with replacement within their stratum. The same on every machine and for any
/// number of threads. Resamples whose score is undefined do not count. Of single units (no stratum has two) only the value is known.
Estimate bootstrap(const std::vector<Units>& strata, Finish finish, const BootstrapOptions& options = {});

struct DifferenceEstimate {
  double value = kUndefined;                      ///< score of b minus score of a
  double standard_error = kUndefined;
  double low = kUndefined, high = kUndefined;
  double p_value = kUndefined;                    ///< two-sided: twice the share of resampled differences on the far side of 0, (k+1)/(n+1)
};

/// Paired bootstrap of a difference: each resample draws the same units for both. The strata of a and b have the same sizes. Of single units
/// only the value is known.
DifferenceEstimate paired_bootstrap(const std::vector<Units>& a, const std::vector<Units>& b, Finish finish, const BootstrapOptions& options = {});

/// McNemar's test, exact (binomial, two-sided): of the pairs that changed, `only_a` were right before only and `only_b` after only.
double mcnemar(std::int64_t only_a, std::int64_t only_b);

/// Randomisation test, two-sided: if nothing differs, each unit's addends could as well be exchanged between a and b. The share of exchanges
/// whose difference of scores is at least the observed one: all of them for up to 16 units that differ, else `options.resamples` random ones,
/// (k+1)/(n+1). Of means it is the sign-flip test.
double randomisation_test(const std::vector<Units>& a, const std::vector<Units>& b, Finish finish, const BootstrapOptions& options = {});

/// Holm's step-down correction for several tests: adjusted p-values in the order given; NaN stays and does not count.
std::vector<double> holm(const std::vector<double>& p_values);

/// Kullback-Leibler divergence, in nats, of softmax(b) from softmax(a): sum p_a (log p_a - log p_b). The vectors have one length.
double choice_divergence(const std::vector<double>& loglikelihoods_a, const std::vector<double>& loglikelihoods_b);

}  // namespace miq::evaluator
