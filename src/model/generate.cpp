#include "miq/model/generate.h"

#include "miq/core/error.h"
#include "miq/core/random.h"

namespace miq::model {
namespace {

// Draws from softmax(logits / temperature), cut to the top_k largest and to the smallest set that
// holds top_p of the mass.
std::int64_t sample(const at::Tensor& logits_V, const GenerateOptions& options, PythonRandom& random) {
  auto [sorted, order] = logits_V.to(at::kCPU, at::kDouble).sort(/*stable=*/true, 0, /*descending=*/true);
  at::Tensor probabilities = ((sorted - sorted[0]) / options.temperature).softmax(0);  // the smallest temperature gives no NaN
  std::int64_t keep = sorted.size(0);
  if (options.top_k > 0) keep = std::min(keep, options.top_k);
  const double* const p = probabilities.const_data_ptr<double>();
  double kept_mass = 0, whole_mass = 0;
  for (std::int64_t i = 0; i < keep; ++i) whole_mass += p[i];
  for (std::int64_t i = 0; i < keep; ++i) {
    kept_mass += p[i];
    if (kept_mass >= options.top_p * whole_mass) keep = i + 1;
  }
  double draw = random.random() * kept_mass;
  for (std::int64_t i = 0; i < keep; ++i) {
    draw -= p[i];
    if (draw < 0) return order[i].item<std::int64_t>();
  }
  return order[keep - 1].item<std::int64_t>();
}

}  // namespace

std::vector<std::int64_t> generate(LanguageModel& model, const std::vector<std::int64_t>& prompt,
                                   const GenerateOptions& options, const std::function<void(std::int64_t)>& on_token) {
  if (prompt.empty())
    throw Error(ErrorKind::config, "the prompt is empty and the tokenizer adds no BOS token", "", "give a prompt");
  model.hold_blocks_if_they_fit();
  std::vector<std::int64_t> stops = options.stop_ids;
  const auto& eos = model.architecture().eos_token_ids;
  if (options.stop_at_eos) stops.insert(stops.end(), eos.begin(), eos.end());
  PythonRandom random(options.seed);
  KvCache cache(model.architecture().num_layers);
  at::Tensor input = at::tensor(prompt, at::kLong).unsqueeze(0);
  std::vector<std::int64_t> generated;
  while (static_cast<std::int64_t>(generated.size()) < options.max_new_tokens) {
    const at::Tensor logits = model.forward(input, &cache, /*last_only=*/true).view({-1});
    const std::int64_t next =
        options.temperature > 0 ? sample(logits, options, random) : logits.argmax().item<std::int64_t>();
    const bool wished = options.on_step && options.on_step(next, logits);
    if (std::find(stops.begin(), stops.end(), next) != stops.end()) break;
    generated.push_back(next);
    if (on_token) on_token(next);
    if (wished) break;
    input = at::full({1, 1}, next, at::kLong);
  }
  return generated;
}

}  // namespace miq::model
