// How fast a checkpoint answers here, and how fast it could.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "miq/model/language_model.h"

namespace miq::executor {

struct BenchConfig {
  std::string model;
  std::string dtype = "auto", device = "auto", architecture = "auto";
  std::vector<std::int64_t> batch = {1}, context = {128, 512};  ///< every pair is measured
  std::int64_t new_tokens = 32;  ///< decoded after each context
  std::int64_t runs = 3;         ///< the best counts; all are told
};

/// Prefill and decode of random tokens. For each batch and context: time to first token, prefill and decode in tokens a second, each
/// beside its roofline: operations over the measured rate of products in the compute type, or bytes that a step must read (packed
/// linears, head, KV cache) over the measured bandwidth, whichever is slower. Memory: of the weights as held, of the cache, the peak of
/// what was allocated.
/// @throws Error as open_model.
nlohmann::ordered_json bench_model(const BenchConfig& config);

/// The same of a model whose blocks are held, in inference mode, on a device that reads `bandwidth` bytes a second: bandwidth, matrix_rate,
/// linears and head (bytes), measured (a list).
nlohmann::ordered_json bench_held_model(model::LanguageModel& model, const BenchConfig& config, double bandwidth);

/// That as a table for a terminal.
std::string format_bench(const nlohmann::ordered_json& measured);

}  // namespace miq::executor
