// A checkpoint as a language model: embedding, blocks (loaded one at a time or held), head.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "miq/core/checkpoint.h"
#include "miq/model/block.h"

namespace miq::model {

/// The tensors of a Hugging Face folder, or of a .gguf file under Hugging Face's names.
std::shared_ptr<TensorSource> open_tensors(const std::filesystem::path& path);
/// Every tensor that the architecture needs, with its shape.
std::vector<std::pair<std::string, std::vector<std::int64_t>>> required_tensors(const std::shared_ptr<const Architecture>& architecture);
/// @throws Error{io} for one that the source lacks or has in another shape, Error{unsupported} for another type than plain
/// floats. `where` names the checkpoint.
void check_tensors(const TensorSource& source, const std::shared_ptr<const Architecture>& architecture, const std::string& where);

/// Where a model's tensors come from, when not from open_tensors().
struct Weights {
  std::shared_ptr<const TensorSource> tensors;   ///< every tensor dense, made on demand where it is not stored so
  std::shared_ptr<const KernelSource> kernels;   ///< or null: used instead of a linear's tensor when the model is run
};

class BlockReader;

class LanguageModel {
 public:
  /// Opens a Hugging Face folder or a .gguf file. Nothing but the embedding's place is looked up; blocks come from
  /// the mapped files when asked for. All tensors and their shapes are checked here, so that a
  /// missing one is found before any work. `compute_dtype`: of products; residuals are float32.
  /// @throws Error{io} naming a missing or misshapen tensor.
  static LanguageModel open(const std::filesystem::path& path, const std::string& family,
                            at::ScalarType compute_dtype, const at::Device& device, Weights weights = {});

  const Architecture& architecture() const { return *architecture_; }
  const TensorSource& source() const { return *source_; }
  at::ScalarType compute_dtype() const { return compute_dtype_; }
  void set_compute_dtype(at::ScalarType dtype) { compute_dtype_ = dtype; }
  const at::Device& device() const { return device_; }
  std::int64_t num_parameters() const;

  const at::Tensor& embedding_VH() const { return embedding_VH_; }
  const at::Tensor& final_norm_H() const { return final_norm_H_; }
  const at::Tensor& head_VH() const;
  /// The head as the function has it: with normalised rows where the family normalises them.
  at::Tensor function_head_VH() const;
  /// Other ends, for example rotated ones; a tied head becomes one of its own, and no head is normalised
  /// any more.
  void replace_ends(at::Tensor embedding_VH, at::Tensor final_norm_H, at::Tensor head_VH);

  /// Another form of the head as the function has it (function_head_VH), for example a quantized one.
  void replace_head(std::shared_ptr<const LinearKernel> head) { head_kernel_ = std::move(head); }
  std::int64_t head_bytes() const;  ///< that a token's logits read

  /// ids [B, T] int64 -> [B, T, H] float32.
  at::Tensor embed(const at::Tensor& ids_BT) const;
  /// Reads block `layer`: weights as stored (views of the file on a CPU); convert = true, for running it, casts them
  /// to the compute type once, and takes kernels where there are any.
  Block load_block(std::int64_t layer, bool convert) const;
  /// Reads block `layer` ahead: the file's pages (madvise), or, where a GPU computes, the whole way to it, beside what it does (block_reader.h).
  /// Takes as much of its memory as a block; to be called behind load_block() of the block before. load_block() tells of errors.
  void prefetch_block(std::int64_t layer) const;
  void release_block(std::int64_t layer) const;   ///< let the pages of the file go
  /// Final norm and head: [..., H] float32 -> [..., V] float32.
  at::Tensor logits(const at::Tensor& hidden) const;

  /// The blocks held in memory; empty until hold_blocks() or replace_blocks().
  std::vector<Block>& blocks() { return blocks_; }
  void hold_blocks();                              ///< loads all, converted
  /// Memory that weights may take beside the page cache; 0 (the start): any. Where the blocks do not fit, or fill more than four fifths of a GPU,
  /// hold_blocks_if_they_fit() leaves them in the files, from where forward() reads them one by one.
  void set_memory_budget(std::int64_t bytes) { memory_budget_ = bytes; }
  std::int64_t memory_budget() const { return memory_budget_; }
  void hold_blocks_if_they_fit();
  void replace_blocks(std::vector<Block> blocks);  ///< for example quantized ones
  /// Calls `visit` with each block in order: held ones, or loaded and dropped one by one.
  void for_each_block(const std::function<void(Block&)>& visit);
  const RopeTable& rope(std::int64_t positions) const;  ///< a table of at least so many positions

  /// ids [B, T] -> logits [B, T, V] float32 (last_only: [B, 1, V]), with the held blocks or with blocks
  /// read one by one. With a cache, ids follow the tokens in it.
  at::Tensor forward(const at::Tensor& ids_BT, KvCache* cache = nullptr, bool last_only = false);

 private:
  LanguageModel() = default;
  at::Tensor logits_in_parts(const at::Tensor& x) const;
  at::Tensor run(const at::Tensor& hidden, std::int64_t tokens, KvCache* cache, bool last_only);
  bool records_steps(const KvCache& cache) const;
  at::Tensor recorded_step(const at::Tensor& ids_B1, KvCache& cache);
  void advise_block(std::int64_t layer, bool needed) const;
  bool normalises_head() const { return architecture_->normalised_head && !head_is_normalised_; }
  std::shared_ptr<const Architecture> architecture_;
  std::shared_ptr<const TensorSource> source_;
  std::shared_ptr<const KernelSource> kernels_;
  at::ScalarType compute_dtype_ = at::kFloat;
  at::Device device_ = at::kCPU;
  at::Tensor embedding_VH_, final_norm_H_;
  mutable at::Tensor head_VH_;  // undefined until asked for, where a kernel stands in
  bool head_is_normalised_ = false;
  std::shared_ptr<const LinearKernel> head_kernel_;
  mutable at::Tensor normalised_head_;  // in the compute type
  std::vector<Block> blocks_;
  std::int64_t memory_budget_ = 0;
  mutable std::unique_ptr<RopeTable> rope_;
  mutable std::shared_ptr<BlockReader> reader_;  // where a GPU computes, from the first prefetch_block() on
};

/// model.dtype ("auto", "float32", ...) as the type products run in. auto = the checkpoint's, but a
/// float16 checkpoint on a device without fast float16 products is computed in float32, which a log
/// line says.
at::ScalarType resolve_compute_dtype(const std::string& dtype, const Architecture& architecture,
                                     const at::Device& device);

}  // namespace miq::model
