// Hugging Face's download cache: models by their name on the hub. Nothing is ever downloaded.
// Source: huggingface_hub's documentation, "Understand caching".
#pragma once

#include <filesystem>
#include <string>

namespace miq {

/// $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub.
std::filesystem::path hub_cache_folder();

/// Where a model lies: an existing path is itself; `org/name` or `org/name@revision` (a branch, tag or commit; default
/// "main") is the snapshot in hub_cache_folder().
/// @throws Error{io} for one that is neither, naming where it was looked for.
std::filesystem::path resolve_model_path(const std::string& model);

}  // namespace miq
