#include "miq/format/dequantized.h"

#include "miq/core/error.h"
#include "miq/core/file.h"

namespace miq::format {
namespace fs = std::filesystem;
namespace {

// What a served checkpoint needs beside its weights: every small file of the original that is not one.
bool belongs_to_checkpoint(const fs::path& file) {
  const std::string name = file.filename().string(), extension = file.extension().string();
  if (name.find("safetensors") != std::string::npos || name.find("pytorch_model") != std::string::npos || name[0] == '.' ||
      name.ends_with(".index.json"))
    return false;
  static const std::set<std::string> kKinds = {".json", ".model", ".txt", ".jinja", ".md", ".py", ".tiktoken"};
  return kKinds.count(extension) != 0 || name == "LICENSE" || name == "NOTICE";
}

}  // namespace

DequantizedWriter::DequantizedWriter(const fs::path& original, const fs::path& folder, const TensorSource& source,
                                     std::set<std::string> quantized, std::int64_t shard_bytes, const ModelChanges& changes)
    : source_(&source), waiting_(std::move(quantized)) {
  constexpr std::uintmax_t kMaxCompanionBytes = 256u << 20;
  if (fs::is_directory(original)) {
    for (const auto& entry : fs::directory_iterator(original)) {
      if (!entry.is_regular_file() || !belongs_to_checkpoint(entry.path()) || entry.file_size() > kMaxCompanionBytes) continue;
      std::error_code problem;
      fs::copy_file(entry.path(), folder / entry.path().filename(), problem);
      if (problem) throw_system_error("copy", entry.path(), problem.value());
    }
  }
  for (const auto& [name, content] : changes.files) write_file_atomically(folder / name, content);
  if (!changes.config.empty()) {
    nlohmann::ordered_json config = nlohmann::ordered_json::parse(read_file(folder / "config.json"));
    config.update(changes.config);
    write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  }
  std::vector<TensorSpec> specs = source.specs();
  specs.insert(specs.end(), changes.extra.begin(), changes.extra.end());
  for (TensorSpec& spec : specs) {
    if (const auto other = changes.dtypes.find(spec.name); other != changes.dtypes.end()) spec.dtype = other->second;
    unwritten_.insert(spec.name);
    dtypes_[spec.name] = spec.dtype;
  }
  writer_ = std::make_unique<CheckpointWriter>(folder, specs, shard_bytes);
}

void DequantizedWriter::put(const std::string& linear, const quantizer::QuantizedLinear& quantized) {
  const std::string tensor = linear + ".weight";
  if (waiting_.erase(linear) == 0 || unwritten_.erase(tensor) == 0)
    throw Error(ErrorKind::internal, "the linear was not announced, or comes twice", linear);
  const at::Tensor values = quantizer::dequantize(quantized, dtypes_.at(tensor));
  if (values.scalar_type() == at::kHalf && !values.isfinite().all().item<bool>())
    throw Error(ErrorKind::numeric, "quantized values are not finite in float16", linear, "quantize a bfloat16 or float32 checkpoint of the model");
  writer_->write(tensor, values);
}

void DequantizedWriter::put(const std::string& tensor, const at::Tensor& values) {
  if (unwritten_.erase(tensor) == 0) throw Error(ErrorKind::internal, "the tensor is not the model's, or comes twice", tensor);
  writer_->write(tensor, values.to(dtypes_.at(tensor)));
}

void DequantizedWriter::copy(const std::string& tensor) {
  if (unwritten_.erase(tensor) == 0) throw Error(ErrorKind::internal, "the tensor comes twice", tensor);
  writer_->write(tensor, source_->tensor(tensor).to(dtypes_.at(tensor)));
}

void DequantizedWriter::finish() {
  if (!waiting_.empty()) throw Error(ErrorKind::internal, "a quantized linear never came", *waiting_.begin());
  const std::set<std::string> rest = unwritten_;
  for (const std::string& tensor : rest) {
    copy(tensor);
    source_->advise(tensor, false);
  }
  writer_->finish();
}

}  // namespace miq::format
