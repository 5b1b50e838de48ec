// Writing a checkpoint of a format while blocks finish: the quantized linears, what transforms changed, the rest as it was,
// and what a served checkpoint needs beside its weights.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "miq/format/format.h"

namespace miq::format {

/// What a transform changes beside weights of linears.
struct ModelChanges {
  std::vector<TensorSpec> extra;                             ///< tensors that the original lacks (an untied head)
  nlohmann::json config = nlohmann::json::object();          ///< merged into config.json
  std::map<std::string, std::string> files;                  ///< name -> content: over what the original folder has
  std::map<std::string, at::ScalarType> dtypes;              ///< tensors that are stored in another type than the source's
};

class ExportWriter {
 public:
  virtual ~ExportWriter() = default;
  /// Linears that servers fuse, together. @throws Error{numeric} when dequantized values do not fit the type they are stored in.
  virtual void put(const std::vector<NamedLinear>& fused) = 0;
  /// A tensor (not a quantized linear's) in place of the source's; stored in the announced type.
  virtual void put(const std::string& tensor, const at::Tensor& values) = 0;
  /// Copies what is still missing, declares, and closes. @throws Error{internal} when a linear never came.
  virtual void finish() = 0;
};

struct ExportJob {
  std::filesystem::path original;  ///< whose config and tokenizer files travel along, where it is a folder
  std::filesystem::path folder;    ///< exists, empty; a StagedFolder's
  const TensorSource* source = nullptr;  ///< gives the tensors that stay as they are
  const Format* format = nullptr;  ///< null: dequantized weights
  FormatOptions options;
  std::vector<Scheme> linears;     ///< those that put() will bring
  std::vector<std::string> kept;   ///< linears, and the head, that stay in float
  std::int64_t shard_bytes = std::int64_t{5} << 30;
  ModelChanges changes;
};

/// Copies the companions of `original` and opens the first shard. @throws Error{io} for what cannot be copied or written.
std::unique_ptr<ExportWriter> make_export_writer(const ExportJob& job);

/// The name of the file that tells the digest of every tensor of an export, for verify.
inline constexpr const char* kManifestName = "miq_manifest.json";

}  // namespace miq::format
