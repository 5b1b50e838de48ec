#include "run_folder.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "miq/core/digest.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/mapped_file.h"
#include "miq/core/text.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kManifestVersion = 1;

// By "key.path"; lists of scalars whole.
void flatten(const Json& value, const std::string& path, std::map<std::string, std::string>& flat) {
  const auto below = [&](const std::string& key) { return path.empty() ? key : path + "." + key; };
  if (value.is_object() && !value.empty()) {
    for (const auto& [key, child] : value.items()) flatten(child, below(key), flat);
  } else if (value.is_array() && std::any_of(value.begin(), value.end(), [](const Json& child) { return child.is_structured(); })) {
    for (size_t i = 0; i < value.size(); ++i) flatten(value[i], below(std::to_string(i)), flat);
  } else {
    flat[path] = value.is_string() ? value.get<std::string>() : value.dump();
  }
}

std::string join(const std::vector<std::string>& lines, size_t most) {
  std::string text;
  for (size_t i = 0; i < std::min(lines.size(), most); ++i) text += (i > 0 ? "; " : "") + lines[i];
  return lines.size() > most ? text + "; and " + std::to_string(lines.size() - most) + " more" : text;
}

Json with_version(const Json& manifest) {
  Json whole = {{"manifest", kManifestVersion}};
  whole.update(manifest);
  return whole;
}

void remove_tree(const fs::path& path) {
  std::error_code problem;
  fs::remove_all(path, problem);
  if (problem) throw_system_error("remove", path, problem.value());
}

}  // namespace

std::vector<std::string> differences(const Json& was, const Json& is) {
  std::map<std::string, std::string> before, after;
  flatten(was, "", before);
  flatten(is, "", after);
  std::vector<std::string> lines;
  for (const auto& [key, value] : before) {
    const auto found = after.find(key);
    if (found == after.end()) lines.push_back(key + ": " + value + " -> none");
    else if (found->second != value) lines.push_back(key + ": " + value + " -> " + found->second);
  }
  for (const auto& [key, value] : after)
    if (before.count(key) == 0) lines.push_back(key + ": none -> " + value);
  return lines;
}

RunFolder::RunFolder(fs::path path) : path_(std::move(path)) {
  std::error_code problem;
  fs::create_directories(path_, problem);
  if (problem) throw_system_error("create", path_, problem.value());
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0) throw_system_error("open", path_, errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {
    remove_abandoned();
    return;
  }
  if (errno != EWOULDBLOCK) return;  // where a file system knows no locks, nothing is taken
  ::close(descriptor_);
  throw Error(ErrorKind::config, "another process works in this folder", path_.string(), "wait for it, or choose another output");
}

// What processes that were killed were writing: nobody else works here.
void RunFolder::remove_abandoned() const {
  std::error_code ignored;
  for (const fs::path& folder : {path_, path_ / "tasks"}) {
    std::vector<fs::path> abandoned;
    for (const auto& entry : fs::directory_iterator(folder, ignored))
      if (const std::string name = entry.path().filename().string(); name.find(".partial-") != std::string::npos || name.find(".former-") != std::string::npos) abandoned.push_back(entry.path());
    for (const fs::path& path : abandoned) fs::remove_all(path, ignored);
  }
}

RunFolder::~RunFolder() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

RunState state_of(const fs::path& folder, const Json& manifest) {
  const fs::path file = folder / "manifest.json";
  if (!fs::exists(file)) return RunState::fresh;
  Json was = read_results(file), is = with_version(manifest);
  const Json environment_was = was.value("environment", Json()), environment_is = is.value("environment", Json());
  was.erase("environment");
  is.erase("environment");
  if (const std::vector<std::string> changes = differences(was, is); !changes.empty())
    throw Error(ErrorKind::config, "the folder holds another run: " + join(changes, 8), folder.string(), "choose another output, or start anew with --overwrite");
  if (fs::exists(folder / "results.json")) return RunState::finished;
  if (!fs::exists(folder / "resume")) return RunState::fresh;
  if (const std::vector<std::string> changes = differences(environment_was, environment_is); !changes.empty())
    log_warning("the run goes on in another environment, so that last digits may differ: " + join(changes, 8));
  return RunState::interrupted;
}

RunState RunFolder::begin(const Json& manifest, bool overwrite) {
  const RunState state = overwrite ? RunState::fresh : state_of(path_, manifest);
  if (state == RunState::interrupted) return state;
  if (state == RunState::fresh) remove_tree(path_ / "results.json");
  remove_tree(resume());  // also of a process that ended between results and this
  if (state == RunState::finished) return state;
  write_file_atomically(path_ / "manifest.json", to_text(with_version(manifest)));
  fs::create_directories(resume());
  return RunState::fresh;
}

void RunFolder::finish(const Json& results) {
  write_file_atomically(path_ / "results.json", to_text(results));
  remove_tree(resume());
}

Json read_results(const fs::path& file) {
  const std::string text = read_file(file);
  parse_json(text, file.string());  // its depth and syntax
  Json value = Json::parse(text);
  if (!value.is_object()) throw Error(ErrorKind::io, "the file holds no object", file.string());
  return value;
}

namespace {

std::string digest_of(const fs::path& file) {
  constexpr std::int64_t kChunk = std::int64_t{16} << 20;
  const auto mapped = MappedFile::open(file);
  const std::int64_t chunks = (mapped->size() + kChunk - 1) / kChunk;
  std::vector<std::string> digests(static_cast<size_t>(chunks));
  at::parallel_for(0, chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) digests[static_cast<size_t>(c)] = sha256(mapped->view(c * kChunk, std::min(kChunk, mapped->size() - c * kChunk)));
  });
  std::string all;
  for (const std::string& digest : digests) all += digest;
  return sha256(all);
}

}  // namespace

Json checkpoint_digests(const fs::path& checkpoint) {
  std::vector<fs::path> files;
  if (!fs::is_directory(checkpoint)) {
    files.push_back(checkpoint);
  } else {
    for (const auto& entry : fs::directory_iterator(checkpoint))
      if (const std::string type = entry.path().extension().string(); entry.is_regular_file() && (type == ".json" || type == ".safetensors" || type == ".bin" || type == ".gguf" || type == ".model" || type == ".txt" || type == ".tiktoken"))
        files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  Json digests = Json::object();
  for (const fs::path& file : files) digests[file.filename().string()] = {{"bytes", fs::file_size(file)}, {"sha256", digest_of(file)}};
  return digests;
}

}  // namespace miq::executor
