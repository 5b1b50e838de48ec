#include "synthetic_model.h"

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "miq/core/error.h"
#include "miq/core/file.h"

namespace miq::bench {
namespace {

class HeldTensors : public TensorSource {
 public:
  explicit HeldTensors(std::map<std::string, at::Tensor> tensors) : tensors_(std::move(tensors)) {}
  std::vector<TensorSpec> specs() const override {
    std::vector<TensorSpec> list;
    for (const auto& [name, tensor] : tensors_) list.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
    return list;
  }
  bool has(const std::string& name) const override { return tensors_.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw Error(ErrorKind::io, "the synthetic model has no tensor '" + name + "'");
    return found->second;
  }
  std::int64_t bytes() const override {
    std::int64_t sum = 0;
    for (const auto& entry : tensors_) sum += static_cast<std::int64_t>(entry.second.nbytes());
    return sum;
  }

 private:
  std::map<std::string, at::Tensor> tensors_;
};

at::Tensor make_tensor(const std::vector<std::int64_t>& shape, const at::Device& device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  at::Tensor values = at::randn(shape, options);
  if (shape.size() == 1) {
    values.mul_(0.2).add_(1);
    for (std::int64_t i = 0; i < 3; ++i) values[(i * 131 + 7) % shape[0]] *= 5;
  } else {
    values.div_(std::sqrt(static_cast<double>(shape[1])));
  }
  return values.to(at::kBFloat16).cpu();
}

}  // namespace

Size size_of(const std::string& name) {
  static const std::vector<Size> kSizes = {{"tiny", 256, 704, 3, 8, 4, 512}, {"1b", 2048, 8192, 16, 32, 8, 128256}, {"7b", 4096, 11008, 32, 32, 32, 32000}, {"13b", 5120, 13824, 40, 40, 40, 32000}};
  for (const Size& size : kSizes)
    if (size.name == name) return size;
  throw Error(ErrorKind::config, "unknown size '" + name + "'", "--size", "use tiny, 1b, 7b or 13b");
}

model::LanguageModel make_model(const Size& size, const at::Device& device, at::ScalarType dtype, const std::filesystem::path& folder) {
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_size", size.hidden}, {"intermediate_size", size.intermediate},
                                 {"num_hidden_layers", size.layers}, {"num_attention_heads", size.heads}, {"num_key_value_heads", size.kv_heads},
                                 {"head_dim", size.hidden / size.heads}, {"vocab_size", size.vocabulary}, {"max_position_embeddings", 131072}, {"rms_norm_eps", 1e-5},
                                 {"rope_theta", 500000.0}, {"hidden_act", "silu"}, {"tie_word_embeddings", false}, {"bos_token_id", 1}, {"eos_token_id", 2},
                                 {"torch_dtype", "bfloat16"}};
  write_file_atomically(folder / "config.json", config.dump(1));
  at::manual_seed(1);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, shape] : model::required_tensors(std::make_shared<const model::Architecture>(model::read_architecture(folder))))
    tensors[name] = make_tensor(shape, device);
  return model::LanguageModel::open(folder, "auto", dtype, device, {std::make_shared<HeldTensors>(std::move(tensors)), nullptr});
}

at::Tensor random_ids(const Size& size, std::int64_t samples, std::int64_t length) {
  at::manual_seed(2);
  return at::randint(size.vocabulary, {samples, length}, at::kLong);
}

}  // namespace miq::bench
