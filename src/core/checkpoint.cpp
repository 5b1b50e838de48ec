#include "miq/core/checkpoint.h"

#include <nlohmann/json.hpp>

#include "miq/core/checkpoint_files.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/text.h"
#include "miq/core/torch_file.h"

namespace miq {
namespace fs = std::filesystem;
namespace {

constexpr const char *kSingle = "model.safetensors", *kIndex = "model.safetensors.index.json";
constexpr const char *kTorchSingle = "pytorch_model.bin", *kTorchIndex = "pytorch_model.bin.index.json";

// Tensors of one file or several of the same kind.
template <class File>
class FilesSource : public TensorSource {
 public:
  explicit FilesSource(std::vector<File> files) : files_(std::move(files)) {
    for (const File& file : files_)
      for (const auto& [name, spec] : file.specs()) {
        if (!file_of_.emplace(name, &file).second)
          throw Error(ErrorKind::io, "tensor '" + name + "' stands in two shards", file.path().string());
        bytes_ += spec.bytes();
      }
  }
  std::vector<TensorSpec> specs() const override {
    std::vector<TensorSpec> all;
    for (const auto& [name, file] : file_of_) all.push_back(file->specs().at(name));
    return all;
  }
  bool has(const std::string& name) const override { return file_of_.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override {
    const auto found = file_of_.find(name);
    if (found == file_of_.end())
      throw Error(ErrorKind::io, "the checkpoint has no tensor '" + name + "'",
                  files_.front().path().parent_path().string());
    return found->second->tensor(name);
  }
  void advise(const std::string& name, bool needed) const override {
    const auto found = file_of_.find(name);
    if (found != file_of_.end()) found->second->advise(name, needed);
  }
  std::int64_t bytes() const override { return bytes_; }

 private:
  std::vector<File> files_;
  std::map<std::string, const File*> file_of_;
  std::int64_t bytes_ = 0;
};

template <class File>
std::shared_ptr<TensorSource> open_single(const fs::path& path) {
  std::vector<File> files;
  files.push_back(File::open(path));
  return std::make_shared<FilesSource<File>>(std::move(files));
}

// The tensors of each shard that an index names: shard -> tensors.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const nlohmann::json index = parse_json(read_file(path, 1 << 28), path.string());
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    throw Error(ErrorKind::io, "the index has no weight_map", path.string());
  std::map<std::string, std::vector<std::string>> tensors_of;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    // A shard is a plain file name: an index must not lead out of its folder.
    if (!shard.is_string() || fs::path(shard.get<std::string>()).filename() != shard.get<std::string>())
      throw Error(ErrorKind::io, "weight_map of '" + name + "' is not a file name", path.string());
    tensors_of[shard.get<std::string>()].push_back(name);
  }
  if (tensors_of.empty()) throw Error(ErrorKind::io, "the index names no tensor", path.string());
  return tensors_of;
}

template <class File>
std::shared_ptr<TensorSource> open_sharded(const fs::path& index) {
  const fs::path folder = index.parent_path();
  std::vector<File> files;
  for (const auto& [shard, names] : read_index(index)) {
    if (!fs::exists(folder / shard))
      throw Error(ErrorKind::io, "a shard of the checkpoint is missing", (folder / shard).string(),
                  "the download is incomplete: fetch " + shard + " into the folder");
    files.push_back(File::open(folder / shard));
    for (const std::string& name : names)
      if (!files.back().has(name))
        throw Error(ErrorKind::io, "the index places tensor '" + name + "' in this shard, which lacks it",
                    (folder / shard).string());
  }
  return std::make_shared<FilesSource<File>>(std::move(files));
}

bool is_torch_name(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth";
}

}  // namespace

bool has_checkpoint(const fs::path& folder) {
  std::error_code problem;
  for (const char* name : {kSingle, kIndex, kTorchSingle, kTorchIndex})
    if (fs::exists(folder / name, problem)) return true;
  return false;
}

std::vector<fs::path> checkpoint_files(const fs::path& path) {
  std::error_code problem;
  const auto status = fs::status(path, problem);
  if (!fs::exists(status)) throw_system_error("open", path, problem ? problem.value() : ENOENT);
  if (!fs::is_directory(status)) return {path};
  if (const auto gguf = find_gguf(path)) return {*gguf};
  for (const auto& [single, index] : {std::pair(kSingle, kIndex), std::pair(kTorchSingle, kTorchIndex)}) {
    if (fs::exists(path / single, problem)) return {path / single};
    if (!fs::exists(path / index, problem)) continue;
    std::vector<fs::path> files;
    for (const auto& [shard, names] : read_index(path / index)) files.push_back(path / shard);
    return files;
  }
  return {};
}

std::shared_ptr<TensorSource> open_checkpoint(const fs::path& path) {
  std::error_code problem;
  const auto status = fs::status(path, problem);
  if (!fs::exists(status)) throw_system_error("open", path, problem ? problem.value() : ENOENT);
  if (!fs::is_directory(status))
    return is_torch_name(path) ? open_single<TorchFile>(path) : open_single<SafetensorsFile>(path);
  if (fs::exists(path / kSingle, problem)) return open_single<SafetensorsFile>(path / kSingle);
  if (fs::exists(path / kIndex, problem)) return open_sharded<SafetensorsFile>(path / kIndex);
  if (fs::exists(path / kTorchSingle, problem)) return open_single<TorchFile>(path / kTorchSingle);
  if (fs::exists(path / kTorchIndex, problem)) return open_sharded<TorchFile>(path / kTorchIndex);
  throw Error(ErrorKind::io,
              std::string("no weights here: none of ") + kSingle + ", " + kTorchSingle + " and their indices",
              path.string(), "give the folder of a Hugging Face checkpoint");
}

CheckpointWriter::CheckpointWriter(fs::path folder, std::int64_t tensors, std::int64_t bytes, std::int64_t shard_bytes)
    : folder_(std::move(folder)), tensors_(tensors), bytes_(bytes), shard_bytes_(shard_bytes) {
  std::error_code problem;
  const fs::space_info space = fs::space(folder_, problem);
  if (!problem && space.available < static_cast<std::uintmax_t>(bytes)) throw_system_error("write", folder_, ENOSPC);
  open_shard();
}

void CheckpointWriter::open_shard() {
  shards_.push_back(folder_ / ("model-" + std::to_string(shards_.size()) + ".partial"));
  shard_.emplace(shards_.back(), std::max<std::int64_t>(tensors_ - static_cast<std::int64_t>(shard_of_.size()), 16),
                 std::clamp<std::int64_t>(bytes_ - written_, 0, shard_bytes_));
}

void CheckpointWriter::write(const std::string& name, const at::Tensor& tensor) {
  const auto size = static_cast<std::int64_t>(tensor.nbytes());
  if (shard_->bytes() > 0 && (shard_->bytes() + size > shard_bytes_ || !shard_->has_room_for(name))) {
    shard_->finish();
    open_shard();
  }
  if (!shard_of_.emplace(name, shards_.size() - 1).second) throw Error(ErrorKind::internal, "tensor '" + name + "' comes twice", folder_.string());
  shard_->write(name, tensor);
  written_ += size;
}

void CheckpointWriter::finish() {
  shard_->finish();
  const auto rename = [](const fs::path& from, const fs::path& to) {
    std::error_code problem;
    fs::rename(from, to, problem);
    if (problem) throw_system_error("rename", from, problem.value());
  };
  if (shards_.size() == 1) return rename(shards_.front(), folder_ / kSingle);
  std::vector<std::string> names;
  for (size_t i = 0; i < shards_.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards_.size());
    rename(shards_[i], folder_ / name);
    names.push_back(name);
  }
  nlohmann::json weight_map = nlohmann::json::object();
  for (const auto& [name, shard] : shard_of_) weight_map[name] = names[shard];
  const nlohmann::json index = {{"metadata", {{"total_size", written_}}}, {"weight_map", weight_map}};
  write_file_atomically(folder_ / kIndex, index.dump(2) + "\n");
}

}  // namespace miq
