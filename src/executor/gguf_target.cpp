#include "gguf_target.h"

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/dataset/gguf_tokenizer.h"
#include "miq/format/gguf.h"
#include "miq/format/verify.h"
#include "miq/model/gguf_export.h"

namespace miq::executor {
namespace {

class GgufTargetWriter : public format::ExportWriter {
 public:
  GgufTargetWriter(const ExportTarget& target, const model::LanguageModel& model, const std::filesystem::path& original, const std::filesystem::path& folder,
                   const std::vector<format::Scheme>& schemes, const format::ModelChanges& changes)
      : folder_(folder), model_(architecture_of(model, changes), original.filename().string(), model.num_parameters()) {
    for (const std::string& warning : model_.warnings()) log_warning(warning);
    format::GgufNames names{model_.metadata(), [this](const std::string& tensor) { return model_.place(tensor); }, model_.extra()};
    try {
      const dataset::GgufTokenizerKeys keys = dataset::gguf_tokenizer_keys(original, model.architecture().vocab_size);
      names.metadata.insert(names.metadata.end(), keys.metadata.begin(), keys.metadata.end());
      for (const std::string& warning : keys.warnings) log_warning(warning);
    } catch (const Error& error) {
      log_warning(std::string("the file will have no tokenizer, without which llama.cpp does not load it: ") + error.what());
    }
    format::FormatOptions options = target.options;
    if (options.variant.empty()) options.variant = format::choose_gguf_variant(schemes);
    out_ = std::make_unique<format::GgufExport>(folder / "model.gguf", model.source(), schemes, options, std::move(names), changes.extra);
  }

  void put(const std::vector<format::NamedLinear>& fused) override { out_->put(fused); }
  void put(const std::string& tensor, const at::Tensor& values) override { out_->put(tensor, values); }
  void finish() override {
    out_->finish();
    for (const std::string& linear : out_->requantized()) log_warning(linear + ": its codes did not fit the file's type: quantized once more");
    format::write_gguf_manifest(folder_);
  }

 private:
  // As the export changes it: a rotation parts a tied head.
  static model::Architecture architecture_of(const model::LanguageModel& model, const format::ModelChanges& changes) {
    model::Architecture a = model.architecture();
    if (changes.config.contains("tie_word_embeddings")) a.tie_word_embeddings = changes.config["tie_word_embeddings"];
    return a;
  }

  std::filesystem::path folder_;
  model::GgufModel model_;
  std::unique_ptr<format::GgufExport> out_;
};

}  // namespace

std::vector<ExportWarning> gguf_warnings(const ExportTarget& target, const std::vector<format::Scheme>& schemes) {
  std::vector<ExportWarning> warnings;
  const std::string version = target.options.variant.empty() ? format::choose_gguf_variant(schemes) : target.options.variant;
  if (version.empty()) return warnings;  // each linear has a type that holds it
  for (const format::Scheme& scheme : schemes) {
    const auto lossless = format::lossless_gguf_type(scheme);
    if (lossless) continue;
    warnings.push_back({scheme.name, "no type of GGUF holds " + std::string("its codes: its values are quantized once more, as ") + version, "for Q4_0 quantize with grid: {bits: 4, symmetric: true, group_size: 32}, for Q8_0 with 8 bits"});
    break;
  }
  return warnings;
}

std::unique_ptr<format::ExportWriter> open_gguf_writer(const ExportTarget& target, const model::LanguageModel& model, const std::filesystem::path& original,
                                                       const std::filesystem::path& folder, const std::vector<format::Scheme>& schemes, const format::ModelChanges& changes) {
  return std::make_unique<GgufTargetWriter>(target, model, original, folder, schemes, changes);
}

}  // namespace miq::executor
