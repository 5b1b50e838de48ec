// The run directory of a job: what it is a run of, and how far it has come.
//   manifest.json  the configuration, and digests of the model and the data: the same command on the same inputs goes on, another is refused
//   results.json   there when the run is complete
//   resume/        what is finished of a run that is not
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace miq::executor {

enum class RunState { fresh, interrupted, finished };

/// What stands in a folder of the run with this manifest. Changes nothing.
/// @throws Error{config} with the differences when it is another run's folder.
RunState state_of(const std::filesystem::path& folder, const nlohmann::ordered_json& manifest);

class RunFolder {
 public:
  /// Makes the folder and takes it for this process until the end of its life.
  /// @throws Error{io} when it cannot be made, Error{config} while another process works in it.
  explicit RunFolder(std::filesystem::path path);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path resume() const { return path_ / "resume"; }

  /// What stands there of a run with this manifest. `overwrite`: whatever stands there, it begins anew.
  /// @throws Error{config} with the differences when it is another run's folder.
  RunState begin(const nlohmann::ordered_json& manifest, bool overwrite);
  /// Writes results.json and forgets what only an interrupted run needs.
  void finish(const nlohmann::ordered_json& results);

 private:
  void remove_abandoned() const;
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// results.json (or sweep.json) of a folder. @throws Error{io} when there is none, or it is no object.
nlohmann::ordered_json read_results(const std::filesystem::path& file);

/// Digest of the content of each file of a checkpoint: by name, {"bytes", "sha256"}. SHA-256 over the SHA-256 of each 16 MiB, so that
/// all processors can work at it.
nlohmann::ordered_json checkpoint_digests(const std::filesystem::path& checkpoint);

/// Lines "key: was -> is" of what differs between two JSON trees.
std::vector<std::string> differences(const nlohmann::ordered_json& was, const nlohmann::ordered_json& is);

}  // namespace miq::executor
