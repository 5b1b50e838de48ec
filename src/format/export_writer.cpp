#include "miq/format/export_writer.h"

#include <ATen/ATen.h>

#include "manifest.h"
#include "miq/core/error.h"
#include "miq/core/file.h"

namespace miq::format {
namespace fs = std::filesystem;
namespace {

// What a served checkpoint needs beside its weights: every small file of the original that is not one, nor tells of a former
// quantization.
bool belongs_to_checkpoint(const fs::path& file) {
  const std::string name = file.filename().string(), extension = file.extension().string();
  static const std::set<std::string> kFormer = {"quantize_config.json", "quant_config.json", "hf_quant_config.json", kManifestName};
  if (name.find("safetensors") != std::string::npos || name.find("pytorch_model") != std::string::npos || name[0] == '.' ||
      name.ends_with(".index.json") || kFormer.count(name) != 0)
    return false;
  static const std::set<std::string> kKinds = {".json", ".model", ".txt", ".jinja", ".md", ".py", ".tiktoken"};
  return kKinds.count(extension) != 0 || name == "LICENSE" || name == "NOTICE";
}

void copy_companions(const fs::path& original, const fs::path& folder) {
  constexpr std::uintmax_t kMaxCompanionBytes = 256u << 20;
  if (!fs::is_directory(original)) return;
  for (const auto& entry : fs::directory_iterator(original)) {
    if (!entry.is_regular_file() || !belongs_to_checkpoint(entry.path()) || entry.file_size() > kMaxCompanionBytes) continue;
    std::error_code problem;
    fs::copy_file(entry.path(), folder / entry.path().filename(), problem);
    if (problem) throw_system_error("copy", entry.path(), problem.value());
  }
}

// A Hugging Face folder of safetensors.
class FolderWriter : public ExportWriter {
 public:
  explicit FolderWriter(const ExportJob& job) : job_(job) {
    job_.options.stored_rotations = std::make_shared<std::set<std::string>>();
    copy_companions(job_.original, job_.folder);
    for (const auto& [name, content] : job_.changes.files) write_file_atomically(job_.folder / name, content);
    std::int64_t bytes = 0, tensors = 0;
    for (const Scheme& scheme : job_.linears) {
      waiting_.insert(scheme.name);
      if (job_.format == nullptr) continue;
      bytes += static_cast<std::int64_t>(quantizer::bits_per_weight(scheme.grid, scheme.out_features, scheme.in_features) *
                                         static_cast<double>(scheme.out_features * scheme.in_features) / 8);
      constexpr std::int64_t kTensorsOfALinear = 6;
      tensors += kTensorsOfALinear;
    }
    std::vector<TensorSpec> specs = job_.source->specs();
    specs.insert(specs.end(), job_.changes.extra.begin(), job_.changes.extra.end());
    for (TensorSpec& spec : specs) {
      if (const auto other = job_.changes.dtypes.find(spec.name); other != job_.changes.dtypes.end()) spec.dtype = other->second;
      dtypes_[spec.name] = spec.dtype;
      unwritten_.insert(spec.name);
      const bool encoded = job_.format != nullptr && spec.name.ends_with(".weight") && waiting_.count(spec.name.substr(0, spec.name.size() - 7)) != 0;
      if (encoded) continue;
      bytes += spec.bytes();
      ++tensors;
    }
    writer_ = std::make_unique<CheckpointWriter>(job_.folder, tensors, bytes, job_.shard_bytes);
  }

  void put(const std::vector<NamedLinear>& linears) override {
    std::vector<NamedLinear> fused;  // encoders and files are the CPU's
    for (const NamedLinear& given : linears) fused.push_back({given.name, std::make_shared<const quantizer::QuantizedLinear>(to_device(*given.linear, at::kCPU))});
    for (const NamedLinear& named : fused) {
      if (waiting_.erase(named.name) == 0) throw Error(ErrorKind::internal, "the linear was not announced, or comes twice", named.name);
      unwritten_.erase(named.name + ".weight");  // a tied head has none of its own
      schemes_.push_back(scheme_of(named.name, *named.linear));
      if (job_.format == nullptr) write(named.name + ".weight", dequantized(named));
    }
    if (job_.format == nullptr) return;
    for (const NamedTensor& encoded : job_.format->encode(fused, job_.options)) write(encoded.name, encoded.tensor);
  }

  void put(const std::string& tensor, const at::Tensor& values) override {
    take(tensor);
    write(tensor, values.to(dtypes_.at(tensor)));
  }

  void finish() override {
    if (!waiting_.empty()) throw Error(ErrorKind::internal, "a quantized linear never came", *waiting_.begin());
    for (const std::string& tensor : unwritten_) {
      write(tensor, job_.source->tensor(tensor).to(dtypes_.at(tensor)));
      job_.source->advise(tensor, false);
    }
    writer_->finish();
    declare();
    write_manifest(job_.folder, job_.format != nullptr ? job_.format->name : "dequantized", digests_);
  }

 private:
  void take(const std::string& tensor) {
    if (unwritten_.erase(tensor) == 0) throw Error(ErrorKind::internal, "the tensor is not the model's, or comes twice", tensor);
  }

  void write(const std::string& name, const at::Tensor& tensor) {
    writer_->write(name, tensor);
    digests_[name] = tensor_digest(tensor);
  }

  at::Tensor dequantized(const NamedLinear& named) const {
    const at::Tensor values = quantizer::dequantize(*named.linear, dtypes_.at(named.name + ".weight"));
    if (values.scalar_type() == at::kHalf && !values.isfinite().all().item<bool>())
      throw Error(ErrorKind::numeric, "quantized values are not finite in float16", named.name, "quantize a bfloat16 or float32 checkpoint of the model");
    return values;
  }

  void declare() const {
    Declaration declaration;
    const fs::path path = job_.folder / "config.json";
    std::error_code problem;
    if (!fs::exists(path, problem) && job_.format == nullptr) return;
    const auto original = nlohmann::ordered_json::parse(read_file(path));
    declaration.config = original;
    declaration.config.erase("quantization_config");
    declaration.config.erase("compression_config");
    declaration.config.update(job_.changes.config);
    if (job_.format != nullptr) job_.format->declare(schemes_, job_.kept, job_.options, declaration);
    if (declaration.config != original) write_file_atomically(path, declaration.config.dump(2) + "\n");
    for (const auto& [name, content] : declaration.files) write_file_atomically(job_.folder / name, content);
  }

  ExportJob job_;
  std::set<std::string> waiting_, unwritten_;
  std::map<std::string, at::ScalarType> dtypes_;  // as announced
  std::vector<Scheme> schemes_;                   // of what came
  std::map<std::string, std::string> digests_;
  std::unique_ptr<CheckpointWriter> writer_;
};

}  // namespace

std::unique_ptr<ExportWriter> make_export_writer(const ExportJob& job) { return std::make_unique<FolderWriter>(job); }

}  // namespace miq::format
