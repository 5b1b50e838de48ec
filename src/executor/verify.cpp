#include "miq/executor/verify.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/hub_cache.h"
#include "miq/core/log.h"
#include "miq/dataset/tokenizer.h"
#include "miq/executor/open_model.h"
#include "miq/format/export_writer.h"
#include "miq/format/quantized_checkpoint.h"
#include "miq/format/verify.h"
#include "miq/model/generate.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Plain prose, so that a language model is where it was trained.
constexpr const char* kText = R"(The harbour had been quiet since the storm. Most of the boats were still tied up along the northern wall, and the
few fishermen who had gone out before dawn came back with little to show for it. In the square behind the church, people stood in
small groups and talked about the price of oil, the new road to the capital, and the school that would close in spring. Nobody
seemed to be in a hurry. An old man who had once been a teacher explained to anyone who would listen how the town had grown: first
a monastery, then a market, and much later the railway, which brought visitors from the south every summer until the war. "You can
still see the line of the old wall," he said, and pointed to a row of houses with narrow windows. "They built against it because
the stones were already there." His granddaughter, who was studying engineering, added that the foundations had been measured two
years ago with radar, and that the results agreed with a map from 1743. There are three ways to find out how deep such a wall goes:
one can dig, which is slow and expensive; one can drill a few holes and compare what comes up; or one can send a pulse into the
ground and listen for its echo. The last method is fast, but it needs a model of the soil, because a wave travels more slowly
through wet clay than through dry sand. For example, if the echo returns after forty nanoseconds and the speed is one tenth of the
speed of light, the depth is about sixty centimetres. The computer does this calculation for every point of a grid and draws the
result as a picture. In the evening the wind turned, the clouds moved inland, and the lights along the promenade were switched on
one after the other.)";

struct Verifier {
  const VerifyConfig& config;
  fs::path path;
  Json problems = Json::array();

  void problem(const std::string& text) { problems.push_back(text); }

  Json compare_manifest() {
    std::error_code none;
    const fs::path folder = fs::is_directory(path, none) ? path : path.parent_path();
    if (!fs::exists(folder / format::kManifestName, none)) {
      log_warning("no manifest: the tensors cannot be compared with what was written");
      return nullptr;
    }
    const format::ManifestCheck check = format::check_manifest(folder);
    for (const std::string& text : check.problems) problem(text);
    return {{"format", check.format}, {"tensors", check.tensors}, {"different", check.problems.size()}};
  }

  // Every quantized linear can be decoded, to finite numbers.
  Json decode(const model::Weights& weights) {
    const auto quantized = std::dynamic_pointer_cast<const format::QuantizedCheckpoint>(weights.tensors);
    if (!quantized) return {{"format", find_gguf(path) ? "gguf" : "plain"}, {"decoded", 0}};
    for (const format::Scheme& scheme : quantized->linears()) {
      if (!quantizer::stored_weight(quantized->linear(scheme.name)).isfinite().all().item<bool>()) problem(scheme.name + ": the decoded weight is not finite");
      quantized->advise(scheme.name + ".weight", false);
    }
    return {{"format", quantized->format().name}, {"decoded", quantized->linears().size()}};
  }

  std::vector<std::int64_t> text_ids(const model::Architecture& a) const {
    std::vector<std::int64_t> ids;
    try {
      ids = dataset::load_tokenizer(path)->encode(config.text.empty() ? kText : read_file(config.text), /*special=*/true);
    } catch (const Error& error) {
      if (!config.text.empty()) throw;
      log_warning(std::string("compared on random tokens: ") + error.what());
      at::Generator generator = at::detail::createCPUGenerator(7);
      const at::Tensor random = at::randint(0, a.vocab_size, {config.tokens}, generator, at::TensorOptions(at::kLong));
      ids.assign(random.const_data_ptr<std::int64_t>(), random.const_data_ptr<std::int64_t>() + random.numel());
    }
    const std::int64_t most = std::min(config.tokens, a.max_position_embeddings);
    if (static_cast<std::int64_t>(ids.size()) > most) ids.resize(static_cast<size_t>(most));
    if (ids.size() < 2) throw Error(ErrorKind::config, "the text is too short to compare on", config.text, "give at least two tokens");
    return ids;
  }

  Json generate(model::LanguageModel& model, const std::vector<std::int64_t>& ids) {
    const std::vector<std::int64_t> prompt(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(ids.size(), 32)));
    model::GenerateOptions options;
    options.max_new_tokens = 16;
    options.stop_at_eos = false;
    const std::vector<std::int64_t> generated = model::generate(model, prompt, options);
    Json result = {{"ids", generated}};
    try {
      result["text"] = dataset::load_tokenizer(path)->decode(generated, true);
    } catch (const Error&) {  // without a tokenizer: ids only
    }
    return result;
  }

  // For other programs to compare with.
  void write_logits(const at::Tensor& ids, const at::Tensor& logits, const model::Weights& weights) const {
    model::LanguageModel dense = model::LanguageModel::open(path, config.architecture, at::kFloat, at::kCPU, {weights.tensors, nullptr});
    save_safetensors(config.logits, {{"ids", ids}, {"logits", logits.unsqueeze(0)}, {"logits_fp32", dense.forward(ids)}});
  }

  Json compare(const at::Tensor& logits, const at::Tensor& ids) {
    model::LanguageModel original = open_model(resolve_model_path(config.against), config.architecture, at::kCPU);
    if (original.architecture().vocab_size != logits.size(-1))
      throw Error(ErrorKind::config, "the original has " + std::to_string(original.architecture().vocab_size) + " tokens, the export " + std::to_string(logits.size(-1)), config.against,
                  "give the checkpoint that the export was made from");
    const at::Tensor wanted = original.forward(ids).squeeze(0).to(at::kDouble).log_softmax(-1), got = logits.to(at::kDouble).log_softmax(-1);
    const double kl = (wanted.exp() * (wanted - got)).sum(-1).mean().item<double>();
    const double agreement = wanted.argmax(-1).eq(got.argmax(-1)).to(at::kDouble).mean().item<double>();
    if (config.kl_max >= 0 && !(kl <= config.kl_max)) problem("the mean KL divergence from the original is " + std::to_string(kl) + ", more than " + std::to_string(config.kl_max));
    if (config.agreement_min >= 0 && !(agreement >= config.agreement_min))
      problem("the first choice agrees with the original's at " + std::to_string(agreement) + " of the positions, less than " + std::to_string(config.agreement_min));
    return {{"original", config.against}, {"tokens", ids.numel()}, {"kl", kl}, {"top1_agreement", agreement}};
  }

  Json run() {
    const Json manifest = compare_manifest();
    const model::Weights weights = open_weights(path);
    const Json linears = decode(weights);
    model::LanguageModel model = model::LanguageModel::open(path, config.architecture, at::kFloat, at::kCPU, weights);
    const std::vector<std::int64_t> ids = text_ids(model.architecture());
    const Json generated = generate(model, ids);
    const at::Tensor input = at::tensor(ids, at::kLong).unsqueeze(0);
    const at::Tensor logits = model.forward(input).squeeze(0);
    if (!logits.isfinite().all().item<bool>()) problem("the logits are not finite");
    if (!config.logits.empty()) write_logits(input, logits, weights);
    const Json against = config.against.empty() ? Json() : compare(logits, input);
    return {{"path", path.string()}, {"manifest", manifest}, {"linears", linears}, {"generated", generated}, {"against", against}, {"problems", problems}};
  }
};

}  // namespace

nlohmann::ordered_json verify_export(const VerifyConfig& config) {
  const c10::InferenceMode inference;
  return Verifier{config, resolve_model_path(config.path)}.run();
}

}  // namespace miq::executor
