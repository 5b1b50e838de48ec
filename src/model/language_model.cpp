#include "miq/model/language_model.h"

#include "block_reader.h"
#include "gguf_model.h"
#include "kernels.h"
#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/gpu_kernels.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "recorded_step.h"

namespace miq::model {
namespace {

using Shape = std::vector<std::int64_t>;

std::string router_name(const Architecture& a, std::int64_t layer) { return a.block_name(layer) + a.names.router + ".weight"; }

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

std::vector<std::pair<std::string, Shape>> required_tensors(const std::shared_ptr<const Architecture>& a) {
  std::vector<std::pair<std::string, Shape>> all = {{a->embedding + ".weight", {a->vocab_size, a->hidden_size}},
                                                    {a->final_norm + ".weight", {a->hidden_size}}};
  if (!a->tie_word_embeddings) all.push_back({a->head + ".weight", {a->vocab_size, a->hidden_size}});
  for (std::int64_t l = 0; l < a->num_layers; ++l) {
    for (const NormPlace& norm : norm_places(*a, l)) all.push_back({norm.name, {norm.size}});
    if (a->is_sparse(l)) all.push_back({router_name(*a, l), {a->experts.count, a->hidden_size}});
    Block block(a, l);
    for (const Linear* linear : block.linears()) {
      all.push_back({linear->name + ".weight", {linear->out_features, linear->in_features}});
      if (linear->biased) all.push_back({linear->name + ".bias", {linear->out_features}});
    }
  }
  return all;
}

std::shared_ptr<TensorSource> open_tensors(const std::filesystem::path& path) {
  const auto gguf = find_gguf(path);
  return gguf ? open_gguf(GgufFile::open(*gguf)) : open_checkpoint(path);
}

void check_tensors(const TensorSource& source, const std::shared_ptr<const Architecture>& a, const std::string& where) {
  std::map<std::string, TensorSpec> present;
  for (TensorSpec& spec : source.specs()) {
    std::string name = spec.name;
    present.emplace(std::move(name), std::move(spec));
  }
  for (const auto& [name, shape] : required_tensors(a)) {
    const auto found = present.find(name);
    if (found == present.end())
      throw Error(ErrorKind::io, "the checkpoint lacks the tensor '" + name + "'", where,
                  "config.json describes a " + a->family + " model with " + std::to_string(a->num_layers) +
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

namespace {

// Rows divided by their length, at least 1e-12 (Baichuan 2's NormHead), in pieces: a vocabulary is large.
at::Tensor normalised_rows(const at::Tensor& matrix_VH, at::ScalarType dtype) {
  constexpr std::int64_t kRows = 8192;
  at::Tensor out = at::empty(matrix_VH.sizes(), matrix_VH.options().dtype(dtype));
  for (std::int64_t v = 0; v < matrix_VH.size(0); v += kRows) {
    const std::int64_t rows = std::min(kRows, matrix_VH.size(0) - v);
    const at::Tensor part = matrix_VH.narrow(0, v, rows).to(at::kFloat);
    out.narrow(0, v, rows).copy_(part / part.norm(2, 1, /*keepdim=*/true).clamp_min(1e-12));
  }
  return out;
}

}  // namespace

LanguageModel LanguageModel::open(const std::filesystem::path& path, const std::string& family,
                                  at::ScalarType compute_dtype, const at::Device& device, Weights weights) {
  LanguageModel model;
  model.architecture_ = std::make_shared<const Architecture>(read_architecture(path, family));
  model.source_ = weights.tensors ? std::move(weights.tensors) : open_tensors(path);
  model.kernels_ = std::move(weights.kernels);
  model.compute_dtype_ = compute_dtype;
  model.device_ = device;
  const Architecture& a = *model.architecture_;
  check_tensors(*model.source_, model.architecture_, path.string());
  model.embedding_VH_ = model.source_->tensor(a.embedding + ".weight").to(device);
  const std::string& head = a.tie_word_embeddings ? a.embedding : a.head;
  if (model.kernels_ && model.kernels_->has(head) && !a.normalised_head) model.head_kernel_ = model.kernels_->kernel(head);
  if (!model.head_kernel_) model.head_VH();
  model.final_norm_H_ = model.source_->tensor(a.final_norm + ".weight").to(device);
  return model;
}

const at::Tensor& LanguageModel::head_VH() const {
  if (!head_VH_.defined()) head_VH_ = architecture_->tie_word_embeddings ? embedding_VH_ : source_->tensor(architecture_->head + ".weight").to(device_);
  return head_VH_;
}

std::int64_t LanguageModel::head_bytes() const { return head_kernel_ ? head_kernel_->bytes() : static_cast<std::int64_t>(head_VH().nbytes()); }

void LanguageModel::replace_ends(at::Tensor embedding_VH, at::Tensor final_norm_H, at::Tensor head_VH) {
  embedding_VH_ = std::move(embedding_VH);
  final_norm_H_ = std::move(final_norm_H);
  head_VH_ = std::move(head_VH);
  normalised_head_ = at::Tensor();
  head_kernel_ = nullptr;
  head_is_normalised_ = true;
}

at::Tensor LanguageModel::function_head_VH() const {
  return normalises_head() ? normalised_rows(head_VH(), head_VH().scalar_type()) : head_VH();
}

std::int64_t LanguageModel::num_parameters() const {
  std::int64_t count = 0;
  for (const auto& [name, shape] : required_tensors(architecture_))
    count += c10::multiply_integers(shape);
  return count;
}

namespace {

// Looked at where they are, which is mostly the CPU: nothing waits for a GPU.
void check_ids(const at::Tensor& ids, std::int64_t vocab_size) {
  if (ids.numel() > 0 && (ids.min().item<std::int64_t>() < 0 || ids.max().item<std::int64_t>() >= vocab_size))
    throw Error(ErrorKind::config, "a token id lies outside the vocabulary of " + std::to_string(vocab_size), "", "the ids or the tokenizer belong to another model");
}

}  // namespace

at::Tensor LanguageModel::embed(const at::Tensor& ids_BT) const {
  check_ids(ids_BT, architecture_->vocab_size);
  return at::embedding(embedding_VH_, ids_BT.to(device_)).to(at::kFloat);
}

Block LanguageModel::load_block(std::int64_t layer, bool convert) const {
  const Architecture& a = *architecture_;
  Block block(architecture_, layer);
  const std::optional<BlockReader::Tensors> ahead = reader_ ? reader_->take(layer) : std::nullopt;
  const auto read = [&](const std::string& name) {
    if (ahead)
      if (const auto found = ahead->find(name); found != ahead->end()) return found->second;
    return source_->tensor(name).to(device_);
  };
  for (const NormPlace& norm : norm_places(a, layer)) block.*norm.member = read(norm.name).to(at::kFloat);
  if (a.is_sparse(layer)) block.router_EH = read(router_name(a, layer)).to(at::kFloat);
  for (Linear* linear : block.linears()) {
    if (convert && kernels_ && kernels_->has(linear->name)) linear->kernel = kernels_->kernel(linear->name);
    if (!linear->kernel)
      linear->weight_OI = read(linear->name + ".weight");
    if (linear->biased) linear->bias_O = read(linear->name + ".bias");
    if (!convert) continue;
    if (!linear->kernel) linear->weight_OI = linear->weight_OI.to(compute_dtype_);
    if (linear->biased) linear->bias_O = linear->bias_O.to(compute_dtype_);
  }
  return block;
}

void LanguageModel::advise_block(std::int64_t layer, bool needed) const {
  if (layer >= architecture_->num_layers) return;
  Block block(architecture_, layer);
  for (const Linear* linear : block.linears()) source_->advise(linear->name + ".weight", needed);
}

void LanguageModel::prefetch_block(std::int64_t layer) const {
  if (layer >= architecture_->num_layers) return;
  if (device_.is_cpu()) return advise_block(layer, true);
  std::vector<std::string> names;
  for (const NormPlace& norm : norm_places(*architecture_, layer)) names.push_back(norm.name);
  if (architecture_->is_sparse(layer)) names.push_back(router_name(*architecture_, layer));
  Block block(architecture_, layer);
  for (const Linear* linear : block.linears()) {
    if (!kernels_ || !kernels_->has(linear->name)) names.push_back(linear->name + ".weight");
    if (linear->biased) names.push_back(linear->name + ".bias");
  }
  if (!reader_) reader_ = std::make_shared<BlockReader>(source_, device_);
  reader_->begin(layer, std::move(names));
}
void LanguageModel::release_block(std::int64_t layer) const { advise_block(layer, false); }

at::Tensor LanguageModel::logits(const at::Tensor& hidden) const {
  const at::Tensor x = kernels::rms_norm(hidden, final_norm_H_, architecture_->rms_norm_eps, compute_dtype_);
  if (head_kernel_) return head_kernel_->forward(x).to(at::kFloat);
  if (!normalises_head()) {
    if (kernels::has_matvec(x, head_VH_)) return kernels::matvec(x, head_VH_, at::kFloat);
    if (head_VH_.scalar_type() == compute_dtype_) return kernels::linear(x, head_VH_, {}).to(at::kFloat);
    return logits_in_parts(x);
  }
  const std::int64_t converted_bytes = head_VH_.numel() * static_cast<std::int64_t>(c10::elementSize(compute_dtype_));
  if (memory_budget_ > 0 && converted_bytes > memory_budget_ / 4) return logits_in_parts(x);
  if (!normalised_head_.defined() || normalised_head_.scalar_type() != compute_dtype_) normalised_head_ = normalised_rows(head_VH_, compute_dtype_);
  return kernels::linear(x, normalised_head_, {}).to(at::kFloat);
}

// The head converted part by part, each time.
at::Tensor LanguageModel::logits_in_parts(const at::Tensor& x) const {
  constexpr std::int64_t kRows = 8192;
  const std::int64_t vocab = head_VH_.size(0);
  auto sizes = x.sizes().vec();
  sizes.back() = vocab;
  at::Tensor out = at::empty(sizes, x.options().dtype(at::kFloat));
  for (std::int64_t v = 0; v < vocab; v += kRows) {
    const at::Tensor part = head_VH_.narrow(0, v, std::min(kRows, vocab - v));
    const at::Tensor weight = normalises_head() ? normalised_rows(part, compute_dtype_) : part.to(compute_dtype_);
    out.narrow(-1, v, part.size(0)).copy_(kernels::linear(x, weight, {}));
  }
  return out;
}

void LanguageModel::hold_blocks_if_they_fit() {
  std::map<std::string, at::ScalarType> stored;
  for (const TensorSpec& spec : source_->specs()) stored[spec.name] = spec.dtype;
  std::int64_t bytes = 0;
  for (std::int64_t l = 0; l < architecture_->num_layers; ++l) {
    Block block(architecture_, l);
    for (const Linear* linear : block.linears())
      if (kernels_ && kernels_->has(linear->name))
        bytes += kernels_->bytes(linear->name);
      else if (!device_.is_cpu() || !source_->gives_views() || stored.at(linear->name + ".weight") != compute_dtype_)
        bytes += linear->out_features * linear->in_features * static_cast<std::int64_t>(c10::elementSize(compute_dtype_));
  }
  // A fifth of a card's memory is for what goes through the blocks.
  const std::int64_t room = !device_.is_cpu() ? device_memory(device_).free / 5 * 4 : memory_budget_ == 0 ? INT64_MAX : memory_budget_;
  if (bytes <= room)
    hold_blocks();
  else
    log_info("the blocks take " + format_bytes(bytes) + " of memory, more than " + format_bytes(room) + ": they are read from the files for each pass");
}

void LanguageModel::hold_blocks() {
  if (!blocks_.empty()) return;
  for (std::int64_t l = 0; l < architecture_->num_layers; ++l) {
    blocks_.push_back(load_block(l, /*convert=*/true));
    if (kernels_) release_block(l);  // what kernels were made of is not read again
  }
  if (kernels_) return_freed_memory();
}

void LanguageModel::replace_blocks(std::vector<Block> blocks) { blocks_ = std::move(blocks); }

void LanguageModel::for_each_block(const std::function<void(Block&)>& visit) {
  for (std::int64_t l = 0; l < architecture_->num_layers; ++l) {
    if (!blocks_.empty()) {
      visit(blocks_[static_cast<size_t>(l)]);
      continue;
    }
    Block block = load_block(l, /*convert=*/true);
    prefetch_block(l + 1);
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

at::Tensor LanguageModel::run(const at::Tensor& embedded, std::int64_t tokens, KvCache* cache, bool last_only) {
  at::Tensor hidden = embedded;
  const RopeTable& table = rope((cache ? cache->length() : 0) + tokens);
  for_each_block([&](Block& block) { hidden = block.forward(hidden, compute_dtype_, table, cache); });
  if (cache) cache->advance(tokens);
  return logits(last_only ? hidden.narrow(1, hidden.size(1) - 1, 1) : hidden);
}

at::Tensor LanguageModel::forward(const at::Tensor& ids_BT, KvCache* cache, bool last_only) {
  if (cache != nullptr && ids_BT.size(1) == 1 && records_steps(*cache)) return recorded_step(ids_BT, *cache);
  return run(embed(ids_BT), ids_BT.size(1), cache, last_only);
}

// A mixture of experts waits for its routing, and without the fused kernels attention is told its length by the host.
bool LanguageModel::records_steps(const KvCache& cache) const {
  return gpu_kernels(device_) != nullptr && DeviceGraph::available(device_) && !blocks_.empty() && architecture_->experts.count == 0 && cache.length() > 0;
}

at::Tensor LanguageModel::recorded_step(const at::Tensor& ids_B1, KvCache& cache) {
  constexpr std::int64_t kEagerSteps = 3;  // libraries set themselves up, and a few tokens are not worth a recording
  check_ids(ids_B1, architecture_->vocab_size);
  if (!cache.recorded()) cache.recorded() = std::make_shared<RecordedStep>();
  RecordedStep& step = *cache.recorded();
  const std::int64_t limit = architecture_->rope.max_positions, capacity = cache.capacity();
  const RopeTable& table = rope(std::max(cache.length() + 1, limit > 0 ? std::min(capacity, limit) : capacity));
  const void* const place = table.cos_PD().defined() ? table.cos_PD().const_data_ptr() : nullptr;
  if (!step.fits(cache, place, ids_B1)) {
    step.graph = nullptr;
    if (step.capacity != capacity || cache.length() >= capacity) step.eager_steps = 0;
    step.capacity = capacity;
    step.rope = place;
    if (++step.eager_steps <= kEagerSteps || cache.length() >= capacity) return run(at::embedding(embedding_VH_, ids_B1.to(device_)).to(at::kFloat), 1, &cache, true);
    step.ids_B1 = ids_B1.to(device_);
    const std::int64_t length = cache.length();
    step.graph = std::make_unique<DeviceGraph>(device_, [&] { step.logits = run(at::embedding(embedding_VH_, step.ids_B1).to(at::kFloat), 1, &cache, true); });
    cache.advance_recorded(length - cache.length());  // recording has counted, but done nothing
  }
  step.ids_B1.copy_(ids_B1);
  step.graph->replay();
  cache.advance_recorded(1);
  return step.logits.clone();
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
