// Zip archives as torch.save writes them: stored entries only, read from the central directory.
// Source: PKWARE's APPNOTE.TXT 6.3.9, sections 4.3 and 4.5.3 (Zip64).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "miq/core/mapped_file.h"

namespace miq {

/// Where an entry's bytes lie in the file.
struct ZipEntry {
  std::int64_t offset = 0, bytes = 0;
};

/// Whether the file starts as a zip archive does.
bool is_zip(std::string_view content);

/// The entries by name. As they are stored and do not overlap, all of them together are no larger than the file.
/// @throws Error{io}: truncated or inconsistent, entries outside the file or overlapping, a name that comes twice
/// or leads out of the archive; Error{unsupported}: compressed or encrypted entries, archives in several parts.
std::map<std::string, ZipEntry> read_zip_directory(const MappedFile& file);

}  // namespace miq
