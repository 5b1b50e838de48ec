#include "miq/core/hub_cache.h"

#include <cstdlib>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"

namespace miq {
namespace fs = std::filesystem;
namespace {

struct HubId {
  std::string organisation, name, revision = "main";
};

// Letters, digits and "._-", as the hub demands; no part may lead out of the cache.
bool is_hub_name(const std::string& part) {
  if (part.empty() || part.size() > 96 || part.front() == '.' || part.find("..") != std::string::npos) return false;
  return std::all_of(part.begin(), part.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

// Branches may have slashes ("refs/pr/1").
bool is_revision(const std::string& revision) {
  size_t begin = 0;
  while (true) {
    const size_t slash = revision.find('/', begin);
    if (!is_hub_name(revision.substr(begin, slash - begin))) return false;
    if (slash == std::string::npos) return true;
    begin = slash + 1;
  }
}

std::optional<HubId> parse_id(const std::string& model) {
  const size_t at = model.find('@'), slash = model.find('/');
  if (slash == std::string::npos || slash > at) return std::nullopt;
  HubId id{model.substr(0, slash), model.substr(slash + 1, at - slash - 1)};
  if (at != std::string::npos) id.revision = model.substr(at + 1);
  if (!is_hub_name(id.organisation) || !is_hub_name(id.name) || !is_revision(id.revision)) return std::nullopt;
  return id;
}

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

// The commit that a branch or tag stood at when it was downloaded; else the revision is one itself.
std::string commit_of(const fs::path& repository, const std::string& revision) {
  const fs::path reference = repository / "refs" / revision;
  std::error_code problem;
  if (!fs::is_regular_file(reference, problem)) return revision;
  std::string commit = read_file(reference, 4096);
  commit.erase(commit.find_last_not_of(" \r\n") + 1);
  return commit;
}

}  // namespace

fs::path hub_cache_folder() {
  if (const std::string cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  return fs::path(variable("HOME")) / ".cache" / "huggingface" / "hub";
}

fs::path resolve_model_path(const std::string& model) {
  std::error_code problem;
  if (model.empty())
    throw Error(ErrorKind::io, "no model is named", "", "give a folder, or the name of a model on the hub as org/name");
  if (fs::exists(model, problem)) return model;
  const std::optional<HubId> id = parse_id(model);
  if (!id) throw Error(ErrorKind::io, "no such model folder", printable(model), "check the path");
  const fs::path repository = hub_cache_folder() / ("models--" + id->organisation + "--" + id->name);
  const std::string commit = commit_of(repository, id->revision), name = id->organisation + "/" + id->name;
  if (is_hub_name(commit)) {
    const fs::path snapshot = repository / "snapshots" / commit;
    if (fs::is_directory(snapshot, problem)) return snapshot;
  }
  const std::string revision = id->revision == "main" ? "" : " --revision " + id->revision;
  throw Error(ErrorKind::io, "'" + model + "' is neither a folder nor in Hugging Face's cache",
              (repository / "snapshots").string(), "check the path, or download it: hf download " + name + revision);
}

}  // namespace miq
