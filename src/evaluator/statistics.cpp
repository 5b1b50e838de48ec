#include "miq/evaluator/statistics.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "miq/core/error.h"

namespace miq::evaluator {
namespace {

// SplitMix64 (Steele et al. 2014): a stream for every resample, so that threads do not matter.
struct Stream {
  std::uint64_t state;
  Stream(std::uint64_t seed, std::uint64_t number) : state(seed) { state = next() ^ (number * 0xD1342543DE82EF95u); }
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // 0 .. n - 1 for n < 2^32: the high half of a product; its bias is below n / 2^32 of a count.
  size_t below(size_t n) { return static_cast<size_t>(((next() >> 32) * static_cast<std::uint64_t>(n)) >> 32); }
};

constexpr size_t kMostAddends = 16;
using Sums = std::array<double, kMostAddends>;

void check_width(const Units& units) {
  if (units.width == 0 || units.width > kMostAddends || units.addends.size() % units.width != 0)
    throw Error(ErrorKind::internal, "a score's addends have a width of " + std::to_string(units.width));
}

void add_unit(const Units& units, size_t at, Sums& sums) {
  for (size_t i = 0; i < units.width; ++i) sums[i] += units.addends[at * units.width + i];
}

double finish_sums(const Units& units, Finish finish) {
  Sums sums{};
  for (size_t at = 0; at < units.count(); ++at) add_unit(units, at, sums);
  return units.count() == 0 ? kUndefined : finish(sums.data());
}

// The mean of what is defined.
struct DefinedMean {
  double sum = 0;
  std::int64_t count = 0;
  void add(double value) {
    if (std::isnan(value)) return;
    sum += value;
    ++count;
  }
  double value() const { return count == 0 ? kUndefined : sum / static_cast<double>(count); }
};

// Scores of all strata on the units that resample `number` draws; of a and, where there is a b, of the same units of b.
std::pair<double, double> resampled(const std::vector<Units>& a, const std::vector<Units>* b, Finish finish, Stream stream) {
  DefinedMean of_a, of_b;
  for (size_t s = 0; s < a.size(); ++s) {
    const size_t count = a[s].count();
    if (count == 0) continue;
    Sums sums_a{}, sums_b{};
    for (size_t draw = 0; draw < count; ++draw) {
      const size_t at = stream.below(count);
      add_unit(a[s], at, sums_a);
      if (b != nullptr) add_unit((*b)[s], at, sums_b);
    }
    of_a.add(finish(sums_a.data()));
    if (b != nullptr) of_b.add(finish(sums_b.data()));
  }
  return {of_a.value(), of_b.value()};
}

void drop_undefined(std::vector<double>& values) {
  values.erase(std::remove_if(values.begin(), values.end(), [](double value) { return !std::isfinite(value); }), values.end());
}

void check_pairs(const std::vector<Units>& a, const std::vector<Units>& b) {
  bool alike = a.size() == b.size();
  for (size_t s = 0; alike && s < a.size(); ++s) alike = a[s].width == b[s].width && a[s].addends.size() == b[s].addends.size();
  if (!alike) throw Error(ErrorKind::internal, "paired units must be the same ones");
}

// Single units would be drawn again and again: that says nothing.
bool can_be_resampled(const std::vector<Units>& strata) {
  return std::any_of(strata.begin(), strata.end(), [](const Units& units) { return units.count() >= 2; });
}

double deviation(const std::vector<double>& values) {
  if (values.size() < 2) return kUndefined;
  const double middle = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - middle) * (value - middle);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

template <class Result>
void describe(std::vector<double> resamples, const BootstrapOptions& options, Result& result) {
  result.standard_error = deviation(resamples);
  result.low = quantile(resamples, (1 - options.confidence) / 2);
  result.high = quantile(std::move(resamples), (1 + options.confidence) / 2);
}

}  // namespace

double mean(const std::vector<double>& values) {
  return values.empty() ? kUndefined : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_error(const std::vector<double>& values) { return deviation(values) / std::sqrt(static_cast<double>(values.size())); }

double quantile(std::vector<double> values, double p) {
  if (values.empty()) return kUndefined;
  std::sort(values.begin(), values.end());
  const double place = std::clamp(p, 0.0, 1.0) * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

double score_of(const std::vector<Units>& strata, Finish finish) {
  DefinedMean result;
  for (const Units& units : strata) {
    check_width(units);
    result.add(finish_sums(units, finish));
  }
  return result.value();
}

Estimate bootstrap(const std::vector<Units>& strata, Finish finish, const BootstrapOptions& options) {
  Estimate result;
  result.value = score_of(strata, finish);
  if (!can_be_resampled(strata)) return result;
  std::vector<double> resamples(static_cast<size_t>(options.resamples));
  at::parallel_for(0, options.resamples, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      resamples[static_cast<size_t>(r)] = resampled(strata, nullptr, finish, Stream(options.seed, static_cast<std::uint64_t>(r))).first;
  });
  drop_undefined(resamples);
  describe(std::move(resamples), options, result);
  return result;
}

DifferenceEstimate paired_bootstrap(const std::vector<Units>& a, const std::vector<Units>& b, Finish finish, const BootstrapOptions& options) {
  check_pairs(a, b);
  DifferenceEstimate result;
  result.value = score_of(b, finish) - score_of(a, finish);
  if (!can_be_resampled(a)) return result;
  std::vector<double> resamples(static_cast<size_t>(options.resamples));
  at::parallel_for(0, options.resamples, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::pair<double, double> pair = resampled(a, &b, finish, Stream(options.seed, static_cast<std::uint64_t>(r)));
      resamples[static_cast<size_t>(r)] = pair.second - pair.first;
    }
  });
  drop_undefined(resamples);
  if (!resamples.empty() && std::isfinite(result.value)) {
    // Differences that are 0 but for the order of sums count on both sides.
    const double small = 1e-12 * std::max({std::abs(score_of(a, finish)), std::abs(score_of(b, finish)), 1e-300});
    std::int64_t up = 0, down = 0;
    for (const double value : resamples) {
      up += value >= -small;
      down += value <= small;
    }
    result.p_value = std::min(1.0, 2.0 * static_cast<double>(std::min(up, down) + 1) / static_cast<double>(resamples.size() + 1));
  }
  describe(std::move(resamples), options, result);
  return result;
}

double mcnemar(std::int64_t only_a, std::int64_t only_b) {
  const std::int64_t n = only_a + only_b, k = std::min(only_a, only_b);
  if (only_a == only_b) return 1;
  double tail = 0;
  const double count = static_cast<double>(n);
  for (std::int64_t i = 0; i <= k; ++i) {
    const double x = static_cast<double>(i);
    tail += std::exp(std::lgamma(count + 1) - std::lgamma(x + 1) - std::lgamma(count - x + 1) - count * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

double randomisation_test(const std::vector<Units>& a, const std::vector<Units>& b, Finish finish, const BootstrapOptions& options) {
  check_pairs(a, b);
  // Sums of every stratum as observed, and what an exchange of a unit adds to a's and takes from b's.
  struct Exchange {
    size_t stratum;
    Sums change;
  };
  std::vector<Exchange> exchanges;
  std::vector<Sums> sums_a(a.size()), sums_b(a.size());
  for (size_t s = 0; s < a.size(); ++s) {
    for (size_t at = 0; at < a[s].count(); ++at) {
      add_unit(a[s], at, sums_a[s]);
      add_unit(b[s], at, sums_b[s]);
      Exchange exchange{s, {}};
      bool differs = false;
      for (size_t i = 0; i < a[s].width; ++i) {
        exchange.change[i] = b[s].addends[at * a[s].width + i] - a[s].addends[at * a[s].width + i];
        differs = differs || exchange.change[i] != 0;
      }
      if (differs) exchanges.push_back(exchange);
    }
  }
  double scale = 0;
  const auto difference = [&](const std::vector<Sums>& of_a, const std::vector<Sums>& of_b) {
    DefinedMean score_a, score_b;
    for (size_t s = 0; s < a.size(); ++s) {
      if (a[s].count() == 0) continue;
      score_a.add(finish(of_a[s].data()));
      score_b.add(finish(of_b[s].data()));
    }
    scale = std::max({scale, std::abs(score_a.value()), std::abs(score_b.value())});
    return std::abs(score_b.value() - score_a.value());
  };
  const double observed = difference(sums_a, sums_b);
  if (std::isnan(observed)) return kUndefined;
  if (exchanges.empty()) return 1;
  const auto is_extreme = [&](const auto& exchanged) {
    std::vector<Sums> of_a = sums_a, of_b = sums_b;
    for (size_t e = 0; e < exchanges.size(); ++e) {
      if (!exchanged(e)) continue;
      for (size_t i = 0; i < kMostAddends; ++i) {
        of_a[exchanges[e].stratum][i] += exchanges[e].change[i];
        of_b[exchanges[e].stratum][i] -= exchanges[e].change[i];
      }
    }
    const double value = difference(of_a, of_b);
    return value >= observed - 1e-9 * scale;  // what differs by the order of sums is a tie
  };
  std::int64_t extreme = 0;
  if (exchanges.size() <= 16) {
    const std::uint64_t all = std::uint64_t{1} << exchanges.size();
    for (std::uint64_t code = 0; code < all; ++code) extreme += is_extreme([&](size_t e) { return ((code >> e) & 1) != 0; });
    return static_cast<double>(extreme) / static_cast<double>(all);
  }
  for (std::int64_t r = 0; r < options.resamples; ++r) {
    Stream stream(options.seed, static_cast<std::uint64_t>(r));
    std::uint64_t bits = 0;
    extreme += is_extreme([&](size_t e) {
      if (e % 64 == 0) bits = stream.next();
      const bool exchanged = (bits & 1) != 0;
      bits >>= 1;
      return exchanged;
    });
  }
  return static_cast<double>(extreme + 1) / static_cast<double>(options.resamples + 1);
}

std::vector<double> holm(const std::vector<double>& p_values) {
  std::vector<size_t> order;
  for (size_t i = 0; i < p_values.size(); ++i)
    if (!std::isnan(p_values[i])) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return p_values[x] < p_values[y]; });
  std::vector<double> adjusted = p_values;
  double largest = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, static_cast<double>(order.size() - rank) * p_values[order[rank]]);
    adjusted[order[rank]] = std::min(1.0, largest);
  }
  return adjusted;
}

double choice_divergence(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) throw Error(ErrorKind::internal, "distributions over different numbers of choices");
  const auto log_sum = [](const std::vector<double>& values) {
    const double top = *std::max_element(values.begin(), values.end());
    double sum = 0;
    for (const double value : values) sum += std::exp(value - top);
    return top + std::log(sum);
  };
  if (a.empty()) return kUndefined;
  const double total_a = log_sum(a), total_b = log_sum(b);
  double divergence = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double log_a = a[i] - total_a, log_b = b[i] - total_b;
    if (const double p = std::exp(log_a); p > 0) divergence += p * (log_a - log_b);
  }
  return std::max(0.0, divergence);
}

}  // namespace miq::evaluator
