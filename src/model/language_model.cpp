#include "miq/model/language_model.h"

#include "kernels.h"
#include "miq/core/device.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/log.h"

namespace miq::model {
namespace {

using Shape = std::vector<std::int64_t>;

struct LinearPlace {
  Linear Block::*member;
  const std::string* name;
  std::int64_t out, in;
  bool bias;
};

std::vector<LinearPlace> linear_places(const Architecture& a) {
  const std::int64_t q = a.num_heads * a.head_dim, kv = a.num_kv_heads * a.head_dim;
  const BlockNames& n = a.names;
  return {{&Block::q, &n.q, q, a.hidden_size, a.qkv_bias},
          {&Block::k, &n.k, kv, a.hidden_size, a.qkv_bias},
          {&Block::v, &n.v, kv, a.hidden_size, a.qkv_bias},
          {&Block::o, &n.o, a.hidden_size, q, a.o_bias},
          {&Block::gate, &n.gate, a.intermediate_size, a.hidden_size, a.mlp_bias},
          {&Block::up, &n.up, a.intermediate_size, a.hidden_size, a.mlp_bias},
          {&Block::down, &n.down, a.hidden_size, a.intermediate_size, a.mlp_bias}};
}

struct NormPlace {
  at::Tensor Block::*member;
  const std::string* name;
  std::int64_t size;
};

std::vector<NormPlace> norm_places(const Architecture& a) {
  std::vector<NormPlace> places = {{&Block::input_norm_H, &a.names.input_norm, a.hidden_size},
                                   {&Block::post_attention_norm_H, &a.names.post_attention_norm, a.hidden_size}};
  if (a.qk_norm) {
    places.push_back({&Block::q_norm_D, &a.names.q_norm, a.head_dim});
    places.push_back({&Block::k_norm_D, &a.names.k_norm, a.head_dim});
  }
  return places;
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Every tensor the architecture needs, with its shape.
std::vector<std::pair<std::string, Shape>> required_tensors(const Architecture& a, bool separate_head) {
  std::vector<std::pair<std::string, Shape>> all = {{a.embedding + ".weight", {a.vocab_size, a.hidden_size}},
                                                    {a.final_norm + ".weight", {a.hidden_size}}};
  if (separate_head) all.push_back({a.head + ".weight", {a.vocab_size, a.hidden_size}});
  for (std::int64_t l = 0; l < a.num_layers; ++l) {
    const std::string prefix = a.block_name(l);
    for (const NormPlace& norm : norm_places(a)) all.push_back({prefix + *norm.name + ".weight", {norm.size}});
    for (const LinearPlace& linear : linear_places(a)) {
      all.push_back({prefix + *linear.name + ".weight", {linear.out, linear.in}});
      if (linear.bias) all.push_back({prefix + *linear.name + ".bias", {linear.out}});
    }
  }
  return all;
}

void check_tensors(const TensorSource& source, const Architecture& a, bool separate_head, const std::string& where) {
  std::map<std::string, TensorSpec> present;
  for (TensorSpec& spec : source.specs()) {
    std::string name = spec.name;
    present.emplace(std::move(name), std::move(spec));
  }
  for (const auto& [name, shape] : required_tensors(a, separate_head)) {
    const auto found = present.find(name);
    if (found == present.end())
      throw Error(ErrorKind::io, "the checkpoint lacks the tensor '" + name + "'", where,
                  "config.json describes a " + a.family + " model with " + std::to_string(a.num_layers) +
                      " layers; check that both belong together");
    const TensorSpec& spec = found->second;
    if (spec.shape != shape)
      throw Error(
          ErrorKind::io,
          "tensor '" + name + "' has shape " + shape_text(spec.shape) + ", config.json implies " + shape_text(shape),
          where);
    const at::ScalarType t = spec.dtype;
    if (t != at::kFloat && t != at::kBFloat16 && t != at::kHalf && t != at::kDouble)
      throw Error(ErrorKind::unsupported, "tensor '" + name + "' is stored as " + dtype_name(t), where,
                  "plain float32, bfloat16 and float16 checkpoints can be read");
  }
}

}  // namespace

LanguageModel LanguageModel::open(const std::filesystem::path& folder, const std::string& family,
                                  at::ScalarType compute_dtype, const at::Device& device) {
  LanguageModel model;
  model.architecture_ = std::make_shared<const Architecture>(read_architecture(folder, family));
  model.source_ = open_checkpoint(folder);
  model.compute_dtype_ = compute_dtype;
  model.device_ = device;
  const Architecture& a = *model.architecture_;
  const bool separate_head = !a.tie_word_embeddings;
  check_tensors(*model.source_, a, separate_head, folder.string());
  model.embedding_VH_ = model.source_->tensor(a.embedding + ".weight").to(device);
  model.head_VH_ = separate_head ? model.source_->tensor(a.head + ".weight").to(device) : model.embedding_VH_;
  model.final_norm_H_ = model.source_->tensor(a.final_norm + ".weight").to(device);
  return model;
}

void LanguageModel::replace_ends(at::Tensor embedding_VH, at::Tensor final_norm_H, at::Tensor head_VH) {
  embedding_VH_ = std::move(embedding_VH);
  final_norm_H_ = std::move(final_norm_H);
  head_VH_ = std::move(head_VH);
  head_compute_ = at::Tensor();
}

std::int64_t LanguageModel::num_parameters() const {
  std::int64_t count = 0;
  for (const auto& [name, shape] : required_tensors(*architecture_, !architecture_->tie_word_embeddings))
    count += c10::multiply_integers(shape);
  return count;
}

at::Tensor LanguageModel::embed(const at::Tensor& ids_BT) const {
  const at::Tensor ids = ids_BT.to(device_);
  if (ids.numel() > 0 &&
      (ids.min().item<std::int64_t>() < 0 || ids.max().item<std::int64_t>() >= architecture_->vocab_size))
    throw Error(ErrorKind::config,
                "a token id lies outside the vocabulary of " + std::to_string(architecture_->vocab_size), "",
                "the ids or the tokenizer belong to another model");
  return at::embedding(embedding_VH_, ids).to(at::kFloat);
}

Block LanguageModel::load_block(std::int64_t layer, bool convert) const {
  const Architecture& a = *architecture_;
  const std::string prefix = a.block_name(layer);
  Block block(architecture_, layer);
  for (const NormPlace& norm : norm_places(a))
    block.*norm.member = source_->tensor(prefix + *norm.name + ".weight").to(device_, at::kFloat);
  for (const LinearPlace& place : linear_places(a)) {
    Linear& linear = block.*place.member;
    linear.name = prefix + *place.name;
    linear.out_features = place.out;
    linear.in_features = place.in;
    linear.weight_OI = source_->tensor(linear.name + ".weight").to(device_);
    if (place.bias) linear.bias_O = source_->tensor(linear.name + ".bias").to(device_);
    if (convert) {
      linear.weight_OI = linear.weight_OI.to(compute_dtype_);
      if (place.bias) linear.bias_O = linear.bias_O.to(compute_dtype_);
    }
  }
  return block;
}

void LanguageModel::prefetch_block(std::int64_t layer) const {
  if (layer >= architecture_->num_layers) return;
  for (const LinearPlace& place : linear_places(*architecture_))
    source_->advise(architecture_->block_name(layer) + *place.name + ".weight", true);
}

void LanguageModel::release_block(std::int64_t layer) const {
  for (const LinearPlace& place : linear_places(*architecture_))
    source_->advise(architecture_->block_name(layer) + *place.name + ".weight", false);
}

at::Tensor LanguageModel::logits(const at::Tensor& hidden) const {
  const at::Tensor x = kernels::rms_norm(hidden, final_norm_H_, architecture_->rms_norm_eps, compute_dtype_);
  if (!head_compute_.defined() || head_compute_.scalar_type() != compute_dtype_)
    head_compute_ = head_VH_.to(compute_dtype_);
  return kernels::linear(x, head_compute_, {}).to(at::kFloat);
}

void LanguageModel::hold_blocks() {
  if (!blocks_.empty()) return;
  for (std::int64_t l = 0; l < architecture_->num_layers; ++l) blocks_.push_back(load_block(l, /*convert=*/true));
}

void LanguageModel::replace_blocks(std::vector<Block> blocks) { blocks_ = std::move(blocks); }

void LanguageModel::for_each_block(const std::function<void(Block&)>& visit) {
  for (std::int64_t l = 0; l < architecture_->num_layers; ++l) {
    if (!blocks_.empty()) {
      visit(blocks_[static_cast<size_t>(l)]);
      continue;
    }
    prefetch_block(l + 1);
    Block block = load_block(l, /*convert=*/true);
    visit(block);
    release_block(l);
  }
}

const RopeTable& LanguageModel::rope(std::int64_t positions) const {
  if (!rope_ || rope_->positions() < positions) {
    std::int64_t grown = rope_ ? 2 * rope_->positions() : 0;
    if (architecture_->rope.max_positions > 0) grown = std::min(grown, architecture_->rope.max_positions);
    rope_ = std::make_unique<RopeTable>(*architecture_, std::max(positions, grown), device_);
  }
  return *rope_;
}

at::Tensor LanguageModel::forward(const at::Tensor& ids_BT, KvCache* cache, bool last_only) {
  if (blocks_.empty()) throw Error(ErrorKind::internal, "forward() needs held blocks");
  at::Tensor hidden = embed(ids_BT);
  const RopeTable& table = rope((cache ? cache->length() : 0) + ids_BT.size(1));
  for (const Block& block : blocks_) hidden = block.forward(hidden, compute_dtype_, table, cache);
  if (cache) cache->advance(ids_BT.size(1));
  return logits(last_only ? hidden.narrow(1, hidden.size(1) - 1, 1) : hidden);
}

at::ScalarType resolve_compute_dtype(const std::string& dtype, const Architecture& architecture,
                                     const at::Device& device) {
  const std::string& name = dtype == "auto" ? architecture.torch_dtype : dtype;
  const auto found = dtype_from_name(name);
  if (!found || (*found != at::kFloat && *found != at::kBFloat16 && *found != at::kHalf)) {
    if (dtype == "auto" && found == at::kDouble) return at::kFloat;
    throw Error(ErrorKind::config, "'" + name + "' is not a compute type", "model.dtype",
                "use auto, float32, bfloat16 or float16");
  }
  if (dtype == "auto" && *found == at::kHalf && !has_fast_float16(device)) {
    log_info(
        "model.dtype auto: this device has no fast float16 products; the float16 checkpoint is computed in float32");
    return at::kFloat;
  }
  return *found;
}

}  // namespace miq::model
