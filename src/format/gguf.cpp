#include "miq/format/gguf.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "gguf_types.h"
#include "miq/core/error.h"

namespace miq::format {
namespace {

std::int32_t plain_type(at::ScalarType dtype) {
  return dtype == at::kHalf ? kGgmlF16 : dtype == at::kBFloat16 ? kGgmlBf16 : kGgmlF32;
}

const char* nearest_mix(double bits) {
  constexpr const char* kByBits[] = {"q2_k", "q2_k", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "q8_0"};
  return kByBits[std::clamp(static_cast<int>(std::lround(bits)), 0, 8)];
}

// One type for a tensor that holds matrices which, each alone, would get these.
std::int32_t common_type(const std::set<std::int32_t>& types) { return types.size() == 1 ? *types.begin() : static_cast<std::int32_t>(kGgmlQ8_0); }

}  // namespace

std::string choose_gguf_variant(const std::vector<Scheme>& schemes) {
  double bits = 0, weights = 0;
  bool lossless = true;
  for (const Scheme& scheme : schemes) {
    const double count = static_cast<double>(scheme.out_features) * static_cast<double>(scheme.in_features);
    bits += count * scheme.grid.bits;
    weights += count;
    lossless = lossless && lossless_gguf_type(scheme);
  }
  return lossless ? "" : nearest_mix(bits / weights);
}

GgufExport::GgufExport(const std::filesystem::path& file, const TensorSource& source, const std::vector<Scheme>& schemes, const FormatOptions& options,
                       GgufNames names, const std::vector<TensorSpec>& added)
    : source_(&source) {
  const std::string version = options.variant.empty() ? choose_gguf_variant(schemes) : options.variant;
  GgufFacts facts = gguf_facts(names.metadata);
  std::map<std::string, const Scheme*> quantized;  // by the weight's name
  for (const Scheme& scheme : schemes) {
    quantized[scheme.name + ".weight"] = &scheme;
    waiting_.insert(scheme.name);
  }
  std::vector<TensorSpec> specs = source.specs();
  specs.insert(specs.end(), added.begin(), added.end());
  std::map<std::string, size_t> planned_at;
  std::map<std::string, const TensorSpec*> spec_of;
  for (const TensorSpec& spec : specs) {
    const auto place = names.place(spec.name);
    if (!place) continue;
    targets_[spec.name].place = *place;
    unwritten_.insert(spec.name);
    spec_of[spec.name] = &spec;
    facts.has_output = facts.has_output || place->name == "output.weight";
    const auto [at, is_new] = planned_at.emplace(place->name, planned_.size());
    if (is_new) {
      planned_.push_back({{place->name, 0, spec.shape}, {}});
      if (place->expert >= 0) planned_.back().spec.shape.insert(planned_.back().spec.shape.begin(), place->experts);
    }
    planned_[at->second].sources.push_back(spec.name);
  }
  std::map<std::int32_t, std::int64_t> bytes;
  for (GgufPlanned& planned : planned_) {
    GgufTensorSpec& spec = planned.spec;
    std::set<std::int32_t> types;
    for (const std::string& name : planned.sources) {
      const auto scheme = quantized.find(name);
      if (!version.empty())
        types.insert(gguf_mix_type(find_gguf_variant(version), spec.name, spec.shape, facts));
      else if (scheme != quantized.end())
        types.insert(*lossless_gguf_type(*scheme->second));
      else
        types.insert(gguf_stays_float(spec.name, spec.shape) ? static_cast<std::int32_t>(kGgmlF32) : plain_type(spec_of[name]->dtype));
    }
    spec.type = gguf_fallback(common_type(types), spec.shape.back());
    for (const std::string& name : planned.sources) targets_[name].type = spec.type;
    std::int64_t values = 1;
    for (const std::int64_t extent : spec.shape) values *= extent;
    bytes[spec.type] += values / ggml_block_values(spec.type) * ggml_block_bytes(spec.type);
  }
  const auto most = std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const std::uint32_t file_type = !version.empty() ? find_gguf_variant(version).mix->file_type : most == bytes.end() ? 0 : gguf_file_type(most->first);
  names.metadata.emplace_back("general.quantization_version", std::uint32_t{2});
  names.metadata.emplace_back("general.file_type", file_type);

  std::vector<GgufTensorSpec> announced;
  for (const GgufPlanned& planned : planned_) announced.push_back(planned.spec);
  for (const auto& [name, values] : names.extra) announced.push_back({name, kGgmlF32, values.sizes().vec()});
  writer_ = std::make_unique<GgufWriter>(file, names.metadata, announced);
  for (const auto& [name, values] : names.extra) writer_->write(name, values.to(at::kFloat));
}

std::optional<std::int32_t> GgufExport::type_of(const std::string& tensor) const {
  const auto found = targets_.find(tensor);
  return found == targets_.end() ? std::nullopt : std::optional(found->second.type);
}

const GgufExport::Target& GgufExport::take(const std::string& tensor) {
  if (unwritten_.erase(tensor) == 0) throw Error(ErrorKind::internal, "the tensor is not the model's, or comes twice", tensor);
  return targets_.at(tensor);
}

void GgufExport::write(const std::string& tensor, const at::Tensor& data) {
  const Target& target = take(tensor);
  const at::Tensor rows = target.place.heads > 0 ? to_interleaved_rows(data, target.place.heads) : data;
  if (target.place.expert >= 0)
    writer_->write_entry(target.place.name, target.place.expert, rows);
  else
    writer_->write(target.place.name, rows);
}

void GgufExport::put(const std::string& linear, const quantizer::QuantizedLinear& quantized, const at::Tensor& importance_I) {
  const std::string tensor = linear + ".weight";
  if (waiting_.erase(linear) == 0) throw Error(ErrorKind::internal, "the linear was not announced, or comes twice", linear);
  const auto target = targets_.find(tensor);
  if (target == targets_.end()) return;  // a head that is tied
  const std::int32_t type = target->second.type;
  if (const auto blocks = gguf_blocks_of_codes(quantized, type)) return write(tensor, *blocks);
  if (!gguf_loss(scheme_of(linear, quantized), type)) requantized_.push_back(linear);
  write(tensor, ggml_encode(quantizer::dequantize(quantized, at::kFloat), type, importance_I));
}

void GgufExport::put(const std::vector<NamedLinear>& fused) {
  for (const NamedLinear& named : fused) put(named.name, *named.linear);
}

void GgufExport::put(const std::string& tensor, const at::Tensor& values) {
  const auto target = targets_.find(tensor);
  if (target != targets_.end()) write(tensor, ggml_encode(values, target->second.type));
}

void GgufExport::copy(const std::string& tensor) {
  const auto target = targets_.find(tensor);
  if (target != targets_.end()) write(tensor, ggml_encode(source_->tensor(tensor), target->second.type));
}

void GgufExport::finish() {
  if (!waiting_.empty()) throw Error(ErrorKind::internal, "a quantized linear never came", *waiting_.begin());
  const std::set<std::string> rest = unwritten_;
  for (const std::string& tensor : rest) {
    copy(tensor);
    source_->advise(tensor, false);
  }
  writer_->finish();
}

}  // namespace miq::format
