// What a GPU makes of a 7B or 13B LLaMA: quantization by GPTQ, AWQ and RTN, each against what forward pass and Hessians alone must
// take at the measured matrix rate; prefill and decoding of packed weights against bfloat16; the packed product alone against the memory's bandwidth.
// bench/gpu.sh builds and runs it; --size tiny --device cpu shows that it works.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "../src/executor/cost.h"
#include "../src/executor/roofline.h"
#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/executor/bench.h"
#include "miq/executor/pipeline.h"
#include "miq/quantizer/packed_linear.h"
#include "miq/quantizer/linear_problem.h"
#include "synthetic_model.h"

namespace miq::bench {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct Options {
  std::string device = "cuda", out;
  std::vector<std::string> sizes = {"7b"}, methods = {"gptq", "awq", "rtn"};
  std::int64_t samples = 128, tokens = 2048, context = 512, new_tokens = 64;
  double seconds = 0;
  bool decode = true, kernels = true;
};

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

// A tensor's value read is all work before it waited for.
void wait_for(const at::Tensor& t) { t.view({-1})[0].item<float>(); }

// What quantizing with a Hessian cannot do without: one forward pass through the linears and attention, and T n^2 for each distinct input.
double least_operations(const model::Architecture& a, std::int64_t samples, std::int64_t length) {
  const auto tokens = static_cast<double>(samples * length);
  const auto h = static_cast<double>(a.hidden_size), q = static_cast<double>(a.q_size()), kv = static_cast<double>(a.kv_size()), inner = static_cast<double>(a.intermediate_size);
  const double linears = h * (q + 2 * kv) + q * h + 3 * h * inner, attention = 2 * q * static_cast<double>(length) / 2;
  const double hessians = 2 * h * h + q * q + inner * inner;
  return static_cast<double>(a.num_layers) * tokens * (2 * (linears + attention) + hessians);
}

executor::JobConfig recipe_of(const std::string& method) {
  return executor::read_job_config(ConfigSource::from_text("recipe: {preset: " + method + ", grid: {bits: 4, granularity: group, group_size: 128}}", method));
}

struct Quantized {
  Json figures;
  std::vector<model::Block> blocks;
};

Quantized quantize(model::LanguageModel& model, const std::string& method, const at::Tensor& ids, double rate, bool keep) {
  const executor::JobConfig config = recipe_of(method);
  const std::vector<executor::PlannedLinear> plan = executor::make_plan(model, config.recipe);
  executor::PipelineOptions options;
  options.calibration_ids = {ids};
  options.compute_dtype = model.compute_dtype();
  options.config = config.pipeline;
  options.keep_blocks = keep;
  reset_peak_device_bytes(model.device());
  const auto start = std::chrono::steady_clock::now();
  executor::PipelineResult done = executor::run_pipeline(model, plan, options);
  const double seconds = seconds_since(start);
  const bool needs_data = executor::needs_calibration(plan, config.recipe);
  const double least = needs_data ? least_operations(model.architecture(), ids.size(0), ids.size(1)) / rate : 0;
  const executor::Memory memory = executor::expected_memory(model, plan, options.config, 2, needs_data ? ids.numel() : 0);
  const std::int64_t expected = memory.on_gpu ? memory.device_total() : memory.total();
  double loss = 0;
  for (const executor::LayerReport& layer : done.layers) loss += layer.relative_error;
  Json figures = {{"method", method}, {"seconds", seconds}, {"seconds_by_phase", done.seconds_by_phase}, {"least_seconds", least},
                  {"peak_device_bytes", peak_device_bytes(model.device())}, {"expected_bytes", expected}, {"blocks_kept", keep},
                  {"mean_relative_error", done.layers.empty() ? 0 : loss / static_cast<double>(done.layers.size())}};
  return {figures, std::move(done.blocks)};
}

Json decode(model::LanguageModel& model, const char* weights, const Options& options, double bandwidth) {
  executor::BenchConfig config;
  config.context = {options.context};
  config.new_tokens = options.new_tokens;
  Json figures = executor::bench_held_model(model, config, bandwidth);
  figures["weights"] = weights;
  return figures;
}

// The packed product of one row alone, over more matrices than any cache holds.
Json packed_products(const at::Device& device, double bandwidth, bool tiny) {
  Json list = Json::array();
  for (const int bits : {2, 3, 4, 8})
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{4096, 4096}, {11008, 4096}, {4096, 11008}}) {
      const std::int64_t o = tiny ? rows / 64 : rows, i = tiny ? columns / 16 : columns;
      quantizer::Grid grid;
      grid.bits = bits;
      const at::Tensor weight = at::randn({o, i}, at::TensorOptions().device(device)).mul_(0.02);
      const quantizer::QuantizedLinear rounded = quantizer::round_linear({"bench", weight, nullptr}, grid, {}, {});
      const quantizer::PackedLinear first(rounded);
      const std::int64_t copies = tiny ? 2 : std::max<std::int64_t>(2, (std::int64_t{512} << 20) / first.bytes());
      std::vector<quantizer::PackedLinear> matrices;
      for (std::int64_t c = 0; c < copies; ++c) matrices.emplace_back(rounded);
      const at::Tensor x = at::randn({1, i}, at::TensorOptions().device(device)).to(at::kBFloat16);
      at::Tensor y;
      double best = 1e30;
      for (int run = 0; run < 4; ++run) {
        const auto start = std::chrono::steady_clock::now();
        for (const quantizer::PackedLinear& matrix : matrices) y = matrix.forward(x);
        wait_for(y);
        best = std::min(best, seconds_since(start) / static_cast<double>(copies));
      }
      const double rate = static_cast<double>(first.bytes()) / best;
      list.push_back({{"bits", bits}, {"rows", o}, {"columns", i}, {"microseconds", best * 1e6}, {"bytes_per_second", rate}, {"of_bandwidth", rate / bandwidth}});
    }
  return list;
}

Json run(const Options& options) {
  const c10::InferenceMode inference;
  for (const std::string& name : options.sizes) size_of(name);  // before anything takes time
  for (const std::string& method : options.methods) recipe_of(method);
  const auto begun = std::chrono::steady_clock::now();
  Json left_out = Json::array();
  // What takes about as long as the last of its kind is not begun when too little time is left.
  const auto has_time = [&](const std::string& what, double expected) {
    if (options.seconds <= 0 || seconds_since(begun) + expected <= options.seconds) return true;
    log_warning("no time is left for " + what);
    left_out.push_back(what);
    return false;
  };
  const at::Device device = parse_device(options.device);
  const double bandwidth = executor::read_bandwidth(device), rate = executor::matrix_rate(at::kBFloat16, device), float_rate = executor::matrix_rate(at::kFloat, device);
  log_info("reads " + std::to_string(bandwidth * 1e-9) + " GB/s, multiplies bfloat16 at " + std::to_string(rate * 1e-12) + " and float32 at " + std::to_string(float_rate * 1e-12) + " Top/s");
  Json results = {{"device", describe(device)}, {"bandwidth", bandwidth}, {"matrix_rate_bfloat16", rate}, {"matrix_rate_float32", float_rate}, {"models", Json::array()}};
  if (options.kernels) results["packed_products"] = packed_products(device, bandwidth, options.sizes.front() == "tiny");
  const fs::path folder = fs::temp_directory_path() / ("miq-gpu-bench-" + std::to_string(::getpid()));
  double longest = 0;
  for (const std::string& name : options.sizes) {
    if (!has_time(name, 2 * longest)) continue;
    fs::create_directories(folder / name);
    const Size size = size_of(name);
    auto start = std::chrono::steady_clock::now();
    model::LanguageModel model = make_model(size, device, at::kBFloat16, folder / name);
    log_info(name + ": made in " + std::to_string(seconds_since(start)) + " s");
    const at::Tensor ids = random_ids(size, options.samples, options.tokens);
    Json entry = {{"size", name}, {"parameters", model.num_parameters()}, {"calibration_tokens", ids.numel()}, {"quantization", Json::array()}, {"decoding", Json::array()}};
    std::vector<model::Block> packed;
    for (const std::string& method : options.methods) {
      const bool last = method == options.methods.back();
      if (!last && !has_time(name + " " + method, longest)) continue;
      Quantized done = quantize(model, method, ids, rate, options.decode && last);
      longest = std::max(longest, done.figures.at("seconds").get<double>());
      log_info(name + " " + method + ": " + done.figures.at("seconds").dump() + " s");
      entry["quantization"].push_back(done.figures);
      packed = std::move(done.blocks);
    }
    if (options.decode) {
      model.replace_blocks(std::move(packed));
      entry["decoding"].push_back(decode(model, "W4", options, bandwidth));
      model.replace_blocks({});
      model.hold_blocks();
      entry["decoding"].push_back(decode(model, "bfloat16", options, bandwidth));
    }
    results["models"].push_back(entry);
  }
  fs::remove_all(folder);
  results["left_out"] = left_out;
  return results;
}

int main_of(int count, char** words) {
  Options options;
  CLI::App app("What a GPU makes of a synthetic LLaMA: quantization, prefill and decoding. JSON on standard output.");
  app.add_option("--device", options.device, "cuda, cuda:N or cpu")->capture_default_str();
  app.add_option("--size", options.sizes, "tiny, 1b, 7b, 13b")->delimiter(',')->capture_default_str();
  app.add_option("--methods", options.methods, "presets, 4 bits in groups of 128; the last one's weights are decoded")->delimiter(',')->capture_default_str();
  app.add_option("--samples", options.samples, "of calibration")->capture_default_str();
  app.add_option("--tokens", options.tokens, "of each sample")->capture_default_str();
  app.add_option("--context", options.context, "tokens before decoding")->capture_default_str();
  app.add_option("--new-tokens", options.new_tokens, "decoded")->capture_default_str();
  app.add_flag("!--no-decode", options.decode, "quantize only");
  app.add_flag("!--no-kernels", options.kernels, "leave the packed product alone");
  app.add_option("--seconds", options.seconds, "after which nothing long is begun any more; 0: no limit")->capture_default_str();
  app.add_option("--out", options.out, "a file for the JSON, instead of standard output");
  CLI11_PARSE(app, count, words);
  try {
    const std::string text = run(options).dump(1) + "\n";
    if (options.out.empty()) std::cout << text;
    else write_file_atomically(options.out, text);
    return 0;
  } catch (const Error& error) {
    std::cerr << "gpu_bench: " << error.what() << "\n";
    return error.exit_status();
  }
}

}  // namespace
}  // namespace miq::bench

int main(int count, char** words) { return miq::bench::main_of(count, words); }
