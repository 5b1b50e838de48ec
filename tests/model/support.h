// What the model tests share: reading golden tensors, running a model, tiny random checkpoints.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "miq/core/error.h"
#include "miq/core/safetensors.h"
#include "miq/model/language_model.h"
#include "support/golden.h"
#include "support/test_device.h"

namespace miq::model::test {

inline LanguageModel open_model(const std::filesystem::path& folder, at::ScalarType dtype = at::kFloat) {
  return LanguageModel::open(folder, "auto", dtype, miq::test::device());
}

/// Residual streams behind every block: [layer] of [B, T, H].
inline std::vector<at::Tensor> hidden_states(LanguageModel& model, const at::Tensor& ids_BT) {
  std::vector<at::Tensor> states;
  at::Tensor hidden = model.embed(ids_BT);
  const RopeTable& rope = model.rope(ids_BT.size(1));
  model.for_each_block([&](Block& block) {
    hidden = block.forward(hidden, model.compute_dtype(), rope);
    states.push_back(hidden);
  });
  return states;
}

/// -log p(ids[t + 1]) from logits [B, T, V] of any device: [B, T - 1], on the CPU.
inline at::Tensor next_token_nll(const at::Tensor& logits_BTV, const at::Tensor& ids_BT) {
  const std::int64_t targets = ids_BT.size(1) - 1;
  const at::Tensor log_p = logits_BTV.cpu().narrow(1, 0, targets).log_softmax(2);
  return -log_p.gather(2, ids_BT.narrow(1, 1, targets).unsqueeze(2)).squeeze(2);
}

inline std::vector<std::int64_t> to_vector(const at::Tensor& ids) {
  const at::Tensor flat = ids.contiguous();
  return {flat.const_data_ptr<std::int64_t>(), flat.const_data_ptr<std::int64_t>() + flat.numel()};
}

/// A small llama config.json: 2 layers, 4 heads on 2 kv heads of 8, hidden 32, vocabulary 64.
nlohmann::json tiny_config();

/// The tensors that `config` (llama, mistral, qwen2 or qwen3) asks for, random, of type `dtype`.
std::map<std::string, at::Tensor> tiny_tensors(const nlohmann::json& config, at::ScalarType dtype = at::kFloat,
                                               std::uint64_t seed = 1);

/// Writes config.json and model.safetensors into `folder`.
void write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                 const std::map<std::string, at::Tensor>& tensors);

/// The kind and text ("what | where | fix") of the miq::Error that `act` throws; fails when it throws none.
template <class Act>
std::pair<ErrorKind, std::string> error_of(const Act& act) {
  try {
    act();
  } catch (const Error& error) {
    return {error.kind(), error.message() + " | " + error.where() + " | " + error.fix()};
  }
  ADD_FAILURE() << "no error was thrown";
  return {ErrorKind::internal, ""};
}

}  // namespace miq::model::test
