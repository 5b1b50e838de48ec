// Whether this machine, its LibTorch, its disks and its data are fit for work: `miq doctor`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace miq::executor {

struct DoctorConfig {
  std::string data_dir;               ///< of corpora and tasks
  std::string output = ".";           ///< where runs would be written
  std::string model;                  ///< a checkpoint to look at too; "": none
  std::string architecture = "auto";  ///< of that
};

/// Looks at everything and computes a little. {"ok", "checks": [{"area", "status", "text", "fix", ...}]}: status "ok", "note" (something to
/// know or to improve) or "problem" (work cannot be done; `ok` is then false); beside them facts by name. Writes nothing but temporary files
/// without a name. Throws nothing of what it finds.
nlohmann::ordered_json diagnose(const DoctorConfig& config);

/// That for a terminal.
std::string format_diagnosis(const nlohmann::ordered_json& diagnosis);

}  // namespace miq::executor
