#include "miq/dataset/calibration.h"

#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/random.h"
#include "miq/core/safetensors.h"
#include "miq/dataset/python_text.h"

namespace miq::dataset {
namespace {

[[noreturn]] void throw_too_short(std::int64_t tokens, std::int64_t needed, const CalibrationConfig& config) {
  throw Error(ErrorKind::config, "the corpus has " + std::to_string(tokens) + " tokens, " + std::to_string(needed) + " are needed",
              "calibration (" + config.dataset + " " + config.split + ")", "lower calibration.samples or calibration.seqlen");
}

// GPTQ's get_c4: a document at random until one is longer than seqlen, then a window in it.
at::Tensor windows_of_documents(const CalibrationConfig& config, const Corpus& corpus, const Tokenizer& tokenizer) {
  PythonRandom random(static_cast<std::uint64_t>(config.seed));
  std::map<std::int64_t, at::Tensor> encoded;
  std::vector<at::Tensor> windows;
  const auto count = static_cast<std::int64_t>(corpus.documents.size());
  std::int64_t longest = 0;
  while (static_cast<std::int64_t>(windows.size()) < config.samples) {
    // Every document seen and none long enough: the draw would never end.
    if (count == 0 || (static_cast<std::int64_t>(encoded.size()) == count && longest <= config.seqlen))
      throw_too_short(longest, config.seqlen + 1, config);
    const std::int64_t index = random.randint(0, count - 1);
    auto found = encoded.find(index);
    if (found == encoded.end())
      found = encoded.emplace(index, at::tensor(tokenizer.encode(corpus.documents[static_cast<size_t>(index)], true), at::kLong)).first;
    const std::int64_t tokens = found->second.size(0);
    longest = std::max(longest, tokens);
    if (tokens <= config.seqlen) continue;
    windows.push_back(found->second.narrow(0, random.randint(0, tokens - config.seqlen - 1), config.seqlen));
  }
  return at::stack(windows);
}

// Short documents fill whole windows together; what is left over at the end is no window.
at::Tensor packed_windows(const CalibrationConfig& config, const std::vector<std::string>& texts, const Tokenizer& tokenizer) {
  const at::Tensor stream = at::tensor(tokenizer.encode(join(texts, "\n\n"), true), at::kLong);
  const std::int64_t windows = stream.size(0) / config.seqlen;
  if (windows == 0) throw_too_short(stream.size(0), config.seqlen, config);
  return stream.narrow(0, 0, windows * config.seqlen).view({windows, config.seqlen}).clone();
}

}  // namespace

at::Tensor read_calibration_ids(const std::filesystem::path& path) {
  const at::Tensor ids = SafetensorsFile::open(path).tensor("ids");
  if (ids.scalar_type() != at::kLong || ids.dim() != 2 || ids.numel() == 0)
    throw Error(ErrorKind::io, "`ids` must be int64 [samples, seqlen], not " + dtype_name(ids.scalar_type()) + " with " +
                                   std::to_string(ids.dim()) + " dimensions", path.string());
  return ids.clone();
}

std::vector<at::Tensor> calibration_samples(const CalibrationConfig& config, const Tokenizer& tokenizer, const std::filesystem::path& data_dir) {
  if (!config.ids.empty()) return {read_calibration_ids(config.ids)};
  if (!is_task_calibration(config.dataset)) return {calibration_ids(config, tokenizer, data_dir)};
  const std::vector<std::string> texts = task_samples(config, data_dir);
  if (config.pack) return {packed_windows(config, texts, tokenizer)};
  std::map<std::int64_t, std::vector<at::Tensor>> by_length;
  for (const std::string& text : texts) {
    const at::Tensor ids = at::tensor(tokenizer.encode(text, true), at::kLong);
    if (ids.numel() > 0) by_length[std::min(ids.size(0), config.seqlen)].push_back(ids.narrow(0, 0, std::min(ids.size(0), config.seqlen)));
  }
  std::vector<at::Tensor> batches;
  for (const auto& [length, samples] : by_length) batches.push_back(at::stack(samples));
  return batches;
}

at::Tensor calibration_ids(const CalibrationConfig& config, const Tokenizer& tokenizer, const std::filesystem::path& data_dir) {
  if (!config.ids.empty()) return read_calibration_ids(config.ids);
  const Corpus corpus = load_corpus(config.dataset, config.split, data_dir);
  if (config.dataset == "c4" && config.sampling == Sampling::random) return windows_of_documents(config, corpus, tokenizer);
  const at::Tensor stream = tokenize(corpus, tokenizer);
  const std::int64_t tokens = stream.size(0);
  std::vector<at::Tensor> windows;
  if (config.sampling == Sampling::consecutive) {
    if (tokens / config.seqlen < config.samples) throw_too_short(tokens, config.samples * config.seqlen, config);
    return stream.narrow(0, 0, config.samples * config.seqlen).view({config.samples, config.seqlen}).clone();
  }
  if (tokens <= config.seqlen) throw_too_short(tokens, config.seqlen + 1, config);
  PythonRandom random(static_cast<std::uint64_t>(config.seed));
  for (std::int64_t s = 0; s < config.samples; ++s)
    windows.push_back(stream.narrow(0, random.randint(0, tokens - config.seqlen - 1), config.seqlen));
  return at::stack(windows);
}

}  // namespace miq::dataset
