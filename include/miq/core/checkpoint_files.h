// Which files open_checkpoint and find_gguf read for a path.
#pragma once

#include <filesystem>
#include <vector>

namespace miq {

/// The weight files of a folder or a single file, in order of their names; the index is not among them. Empty for a
/// folder without weights. @throws Error{io} for a path that is not there, and for a malformed index.
std::vector<std::filesystem::path> checkpoint_files(const std::filesystem::path& path);

}  // namespace miq
