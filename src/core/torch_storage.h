// The parts of a file of torch.save: its pickled object, and where each storage's bytes lie.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "checked.h"
#include "miq/core/mapped_file.h"
#include "pickle.h"
#include "zip.h"

namespace miq {

/// A persistent id of the pickle: a storage, or a part of one in files from before PyTorch 1.6.
struct StorageReference {
  std::string key;
  at::ScalarType dtype = at::kByte;   ///< kByte for an untyped storage
  std::int64_t elements = 0;          ///< of the whole storage
  std::int64_t first = 0, count = 0;  ///< the part that is meant
};

/// "torch.float16" -> at::kHalf; nullopt for an unknown name.
std::optional<at::ScalarType> torch_dtype(std::string_view name);

/// The storage that `id` stands for. @throws Error{io}
StorageReference storage_reference(const Pickle& pickle, const PickleValue& id, const std::filesystem::path& path);

/// An opened file of torch.save.
struct TorchArchive {
  Pickle pickle;
  std::map<std::string, ZipEntry> storages;  ///< by key

  /// The bytes of a storage. @throws Error{io}: there is none of that key, or it is too short.
  ZipEntry locate(const StorageReference& storage, const std::filesystem::path& path) const;
};

/// Zip archive or the older kind, by its first bytes. @throws Error{io, unsupported}
TorchArchive open_torch_archive(const MappedFile& file);

}  // namespace miq
