// Where hidden states wait between their uses: on the device, in the CPU's memory, or in files.
#pragma once

#include <filesystem>

#include "miq/executor/job_config.h"
#include "miq/model/block.h"

namespace miq::executor {

class RestingPlace {
 public:
  /// `offload`: where, decided (not automatic). `folder`: of the files of Offload::disk; they have no name any more once they are open, so nothing is
  /// left behind by a run that is killed.
  RestingPlace(Offload offload, const at::Device& device, std::filesystem::path folder);

  at::Tensor rest(const at::Tensor& t) const;
  void rest(model::BlockState& state) const;
  void wake(model::BlockState& state) const;

 private:
  at::Tensor in_file(const at::Tensor& t) const;
  at::Tensor in_host_memory(const at::Tensor& t) const;
  Offload offload_;
  at::Device device_;
  std::filesystem::path folder_;
};

}  // namespace miq::executor
