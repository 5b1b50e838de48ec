#include "manifest.h"

#include <nlohmann/json.hpp>

#include "miq/core/digest.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/mapped_file.h"
#include "miq/core/text.h"
#include "miq/format/export_writer.h"
#include "miq/format/verify.h"

namespace miq::format {

std::string tensor_digest(const at::Tensor& tensor) {
  const at::Tensor data = tensor.cpu().contiguous();
  std::string text = dtype_name(data.scalar_type());
  for (const std::int64_t size : data.sizes()) text += " " + std::to_string(size);
  return sha256(text + " " + sha256({static_cast<const char*>(data.const_data_ptr()), static_cast<size_t>(data.nbytes())}));
}

void write_manifest(const std::filesystem::path& folder, const std::string& format, const std::map<std::string, std::string>& digests) {
  const nlohmann::ordered_json manifest = {{"format", format}, {"digest", "sha256 of 'dtype shape' and the sha256 of the bytes"}, {"tensors", digests}};
  write_file_atomically(folder / kManifestName, manifest.dump(1) + "\n");
}

namespace {

// Of the tensors as they lie in the files, by name.
std::map<std::string, std::string> digests_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> digests;
  if (const auto gguf = find_gguf(folder)) {
    const GgufFile file = GgufFile::open(*gguf);
    const auto mapping = MappedFile::open(*gguf);
    for (const auto& [name, tensor] : file.tensors()) {
      digests[name] = sha256(ggml_type_name(tensor.type) + " " + sha256(mapping->view(tensor.offset, tensor.bytes)));
      mapping->advise(tensor.offset, tensor.bytes, false);
    }
    return digests;
  }
  const std::shared_ptr<TensorSource> source = open_checkpoint(folder);
  for (const TensorSpec& spec : source->specs()) {
    digests[spec.name] = tensor_digest(source->tensor(spec.name));
    source->advise(spec.name, false);
  }
  return digests;
}

}  // namespace

void write_gguf_manifest(const std::filesystem::path& folder) { write_manifest(folder, "gguf", digests_of(folder)); }

ManifestCheck check_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kManifestName;
  std::error_code problem;
  if (!std::filesystem::exists(path, problem))
    throw Error(ErrorKind::io, "no " + std::string(kManifestName) + " here", folder.string(), "only what miq exported can be compared with what was written");
  const nlohmann::json manifest = parse_json(read_file(path, std::int64_t{1} << 30), path.string());
  ManifestCheck check;
  try {
    check.format = manifest.at("format").get<std::string>();
    const auto recorded = manifest.at("tensors").get<std::map<std::string, std::string>>();
    const std::map<std::string, std::string> found = digests_of(folder);
    for (const auto& [name, digest] : recorded) {
      ++check.tensors;
      if (found.count(name) == 0)
        check.problems.push_back("the tensor '" + name + "' is missing");
      else if (found.at(name) != digest)
        check.problems.push_back("the tensor '" + name + "' is not the one that was written");
    }
    for (const auto& [name, digest] : found)
      if (recorded.count(name) == 0) check.problems.push_back("the tensor '" + name + "' was not written by miq");
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("a malformed manifest: ") + error.what(), path.string());
  }
  return check;
}

}  // namespace miq::format
