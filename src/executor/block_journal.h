// What solving has settled, block by block, on disk: so that a run that was interrupted goes on behind its last finished block.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "miq/executor/pipeline.h"
#include "scale_group.h"

namespace miq::executor {

/// A block's quantized linears before transforms are folded. From these and the checkpoint follow, to the last bit, what the block
/// does to the calibration samples and what is exported of it.
struct SolvedBlock {
  QuantizedLinears linears;
  std::map<std::pair<std::int64_t, size_t>, at::Tensor> divisors;  ///< that are folded at the block's end, by stage and group
  Effort effort;                                                   ///< that it took
};

/// One file for each finished block.
class BlockJournal {
 public:
  /// Makes the folder. @throws Error{io}
  explicit BlockJournal(std::filesystem::path folder);

  std::int64_t finished_blocks() const;  ///< the first so many are there
  /// The file is there whole or not at all. @throws Error{io}
  void write(std::int64_t layer, const SolvedBlock& block) const;
  /// Grids, activations and what else the recipe says stand in the linears too. @throws Error{io} for a damaged file.
  SolvedBlock read(std::int64_t layer) const;

 private:
  std::filesystem::path file_of(std::int64_t layer) const;
  std::filesystem::path folder_;
};

/// The same with its tensors on `device`.
SolvedBlock to_device(SolvedBlock block, const at::Device& device);

/// The same as bytes, for another process of this machine's kind, and back. @throws Error{io} for what is none.
std::string to_bytes(const SolvedBlock& block);
SolvedBlock solved_block(const std::string& bytes);

}  // namespace miq::executor
