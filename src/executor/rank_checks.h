// Whether the ranks of a job do the same work.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "miq/executor/job_config.h"
#include "miq/model/language_model.h"

namespace miq::executor {

/// SHA-256 of a tensor's values as they lie in memory.
std::string digest_of(const at::Tensor& tensor);

/// Ranks with other settings, weights or texts would wait for each other in vain, or make one figure of different things. Paths may differ:
/// machines keep their files where they like. @throws Error{config} on all ranks, naming what differs, Error{unsupported} for what several ranks cannot
/// do (distillation); without a group it does nothing.
void check_ranks(const JobConfig& config, const model::LanguageModel& model, const std::vector<at::Tensor>& streams, const std::vector<at::Tensor>& calibration_ids);

}  // namespace miq::executor
