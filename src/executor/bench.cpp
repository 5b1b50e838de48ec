#include "miq/executor/bench.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>

#include "miq/core/device.h"
#include "miq/core/dtype.h"
#include "miq/core/hub_cache.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/open_model.h"
#include "roofline.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

struct Bench {
  const BenchConfig& config;
  model::LanguageModel& model;
  double bandwidth, rate;
  std::int64_t linear_bytes = 0, linear_weights = 0;

  const model::Architecture& a() const { return model.architecture(); }

  // What a step reads of the linears: all of them, of a mixture the experts of one token.
  void count() {
    for (model::Block& block : model.blocks())
      for (std::int64_t stage = 0; stage < block.num_stages(); ++stage) {
        const auto groups = block.groups(stage);
        const bool sparse = groups.size() > 1;
        std::int64_t bytes = 0, weights = 0;
        for (const auto& group : groups)
          for (const model::Linear* linear : group) {
            bytes += linear->kernel ? linear->kernel->bytes() : static_cast<std::int64_t>(linear->weight_OI.nbytes());
            weights += linear->out_features * linear->in_features;
          }
        const double share = sparse ? static_cast<double>(a().experts.per_token) / static_cast<double>(groups.size()) : 1;
        linear_bytes += static_cast<std::int64_t>(share * static_cast<double>(bytes));
        linear_weights += static_cast<std::int64_t>(share * static_cast<double>(weights));
      }
  }

  std::int64_t cache_bytes_per_token() const { return 2 * a().num_layers * a().kv_size() * static_cast<std::int64_t>(c10::elementSize(model.compute_dtype())); }

  // Of `tokens` tokens at a mean distance `context` from the start: linears, attention, the head for `heads` of them.
  double operations(double tokens, double context, double heads) const {
    const double attention = 4 * static_cast<double>(a().num_layers * a().q_size()) * context;
    return tokens * (2 * static_cast<double>(linear_weights) + attention) + heads * 2 * static_cast<double>(a().vocab_size * a().hidden_size);
  }

  Json measure(std::int64_t batch, std::int64_t context) {
    at::manual_seed(1);
    const at::Tensor ids = at::randint(a().vocab_size, {batch, context}, at::kLong);
    const std::int64_t steps = config.new_tokens;
    std::vector<double> prefills, decodes;
    for (std::int64_t run = 0; run < config.runs; ++run) {
      model::KvCache cache(a().num_layers);
      auto start = std::chrono::steady_clock::now();
      at::Tensor next = model.forward(ids, &cache, /*last_only=*/true).argmax(-1).to(at::kCPU);
      prefills.push_back(seconds_since(start));
      start = std::chrono::steady_clock::now();
      for (std::int64_t i = 0; i < steps; ++i) next = model.forward(next, &cache, /*last_only=*/true).argmax(-1).to(at::kCPU);
      decodes.push_back(seconds_since(start) / static_cast<double>(steps));
    }
    const double prefill = *std::min_element(prefills.begin(), prefills.end()), decode = *std::min_element(decodes.begin(), decodes.end());
    const auto tokens = static_cast<double>(batch * context), rows = static_cast<double>(batch);
    const double mean_context = static_cast<double>(context) + static_cast<double>(steps) / 2;
    const double step_bytes = static_cast<double>(linear_bytes + model.head_bytes()) + rows * mean_context * static_cast<double>(cache_bytes_per_token());
    const double best_step = std::max(step_bytes / bandwidth, operations(rows, mean_context, rows) / rate);
    const double best_prefill = std::max(operations(tokens, static_cast<double>(context) / 2, rows) / rate, static_cast<double>(linear_bytes + model.head_bytes()) / bandwidth);
    return {{"batch", batch},
            {"context", context},
            {"time_to_first_token", prefill},
            {"prefill_tokens_per_second", tokens / prefill},
            {"prefill_roofline", tokens / best_prefill},
            {"decode_tokens_per_second", rows / decode},
            {"decode_roofline", rows / best_step},
            {"decode_bytes", step_bytes},
            {"cache_bytes", static_cast<std::int64_t>(rows) * (context + steps) * cache_bytes_per_token()},
            {"prefill_seconds", prefills},
            {"decode_seconds", decodes}};
  }
};

}  // namespace

Json bench_held_model(model::LanguageModel& model, const BenchConfig& config, double bandwidth) {
  Bench bench{config, model, bandwidth, matrix_rate(model.compute_dtype(), model.device())};
  bench.count();
  Json list = Json::array();
  for (const std::int64_t batch : config.batch)
    for (const std::int64_t context : config.context) list.push_back(bench.measure(batch, context));
  return {{"bandwidth", bandwidth}, {"matrix_rate", bench.rate}, {"linears", bench.linear_bytes}, {"head", model.head_bytes()}, {"measured", list}};
}

Json bench_model(const BenchConfig& config) {
  const c10::InferenceMode inference;
  const at::Device device = parse_device(config.device);
  const double bandwidth = read_bandwidth(device);  // before memory is watched
  const std::filesystem::path path = resolve_model_path(config.model);
  reset_peak_rss();
  AnonymousPeak anonymous;
  const std::int64_t program = anonymous_rss_bytes();
  const auto start = std::chrono::steady_clock::now();
  model::LanguageModel model = open_model(path, config.architecture, device);
  model.set_compute_dtype(model::resolve_compute_dtype(config.dtype, model.architecture(), device));
  model.hold_blocks();
  const double load = seconds_since(start);
  const std::int64_t before = anonymous_rss_bytes();
  const Json held = bench_held_model(model, config, bandwidth);
  const std::int64_t peak = anonymous.bytes();
  return {{"model", config.model},
          {"device", describe(device)},
          {"threads", at::get_num_threads()},
          {"dtype", dtype_name(model.compute_dtype())},
          {"load_seconds", load},
          {"bandwidth", bandwidth},
          {"matrix_rate", held.at("matrix_rate")},
          {"memory", {{"linears", held.at("linears")}, {"head", held.at("head")}, {"program", program}, {"allocated_by_loading", before - program}, {"peak_allocated", peak}, {"peak_resident", peak_rss_bytes()}}},
          {"measured", held.at("measured")}};
}

std::string format_bench(const Json& measured) {
  std::vector<std::vector<std::string>> rows = {{"batch", "context", "first token", "prefill tok/s", "of roofline", "decode tok/s", "of roofline", "KV cache"}};
  const auto number = [](const char* format, double value) {
    char text[32];
    std::snprintf(text, sizeof text, format, value);
    return std::string(text);
  };
  for (const Json& m : measured.at("measured")) {
    const double prefill = m.at("prefill_tokens_per_second"), decode = m.at("decode_tokens_per_second");
    rows.push_back({std::to_string(m.at("batch").get<std::int64_t>()), std::to_string(m.at("context").get<std::int64_t>()), number("%.3f s", m.at("time_to_first_token")),
                    number("%.0f", prefill), number("%.0f %%", 100 * prefill / m.at("prefill_roofline").get<double>()), number("%.1f", decode),
                    number("%.0f %%", 100 * decode / m.at("decode_roofline").get<double>()), format_bytes(m.at("cache_bytes").get<std::int64_t>())});
  }
  const Json& memory = measured.at("memory");
  const auto size = [&](const char* key) { return format_bytes(memory.at(key).get<std::int64_t>()); };
  return format_table(rows) + "\n" + measured.at("device").get<std::string>() + ", " + measured.at("dtype").get<std::string>() + ": reads " +
         number("%.1f GB/s", measured.at("bandwidth").get<double>() * 1e-9) + ", multiplies " + number("%.0f Gop/s", measured.at("matrix_rate").get<double>() * 1e-9) + "\nlinears " + size("linears") +
         ", head " + size("head") + "; allocated " + size("allocated_by_loading") + " by loading, " + size("peak_allocated") + " at most, " + size("program") + " of it the program's (" + size("peak_resident") + " with mapped files)";
}

}  // namespace miq::executor
