// The parts of `miq doctor`. Each returns its checks; what goes wrong in them is a check too.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "miq/executor/doctor.h"

namespace miq::executor {

using Checks = std::vector<nlohmann::ordered_json>;

/// A check: `facts` stand beside its text. status: ok, note, problem.
nlohmann::ordered_json make_check(const std::string& area, const std::string& status, const std::string& text, const std::string& fix = "", nlohmann::ordered_json facts = nlohmann::ordered_json::object());

Checks check_libtorch();      ///< versions, BLAS, gloo
Checks check_cpu();           ///< features, threads against cores and limits, settings that hurt
Checks check_gpus();          ///< what the drivers see and what LibTorch can use
Checks check_memory();
Checks check_disk(const DoctorConfig& config);
Checks check_data(const DoctorConfig& config);  ///< corpora, tasks, the hub's cache
Checks check_model(const DoctorConfig& config);
Checks check_arithmetic();    ///< products against double, a kernel of ours against its plain form

}  // namespace miq::executor
