// Whether an export still is what was written.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "miq/core/checkpoint.h"

namespace miq::format {

struct ManifestCheck {
  std::string format;                 ///< that the manifest names
  std::int64_t tensors = 0;           ///< compared
  std::vector<std::string> problems;  ///< one sentence for each tensor that is missing, more, or other than was written
};

/// Records the tensors of `folder`/model.gguf as they lie there.
void write_gguf_manifest(const std::filesystem::path& folder);

/// Compares every tensor of the export in `folder`, bit by bit by its digest, with what its manifest records.
/// @throws Error{io} when there is no manifest, or it or a file of weights is malformed.
ManifestCheck check_manifest(const std::filesystem::path& folder);

}  // namespace miq::format
