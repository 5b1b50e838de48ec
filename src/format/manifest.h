// The manifest of an export: the digest of every tensor as it was written.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace miq::format {

/// SHA-256 of "dtype shape" and the tensor's bytes.
std::string tensor_digest(const at::Tensor& tensor);
void write_manifest(const std::filesystem::path& folder, const std::string& format, const std::map<std::string, std::string>& digests);

}  // namespace miq::format
