// Layouts of quantized checkpoints. A format is one file with its encoder and decoder and one line in formats.def;
// everything else (which tensors stay, shards, companions, the linears as dense weights) is done once for all.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "miq/core/checkpoint.h"
#include "miq/quantizer/quantized_linear.h"

namespace miq::format {

/// What is settled of a linear before it is quantized: all that decides whether a format can hold it, and how.
struct Scheme {
  std::string name;  ///< "model.layers.0.mlp.down_proj"
  std::int64_t out_features = 0, in_features = 0;
  quantizer::Grid grid = {};
  quantizer::Activation activation = {};
  bool group_of_column = false;  ///< groups are not runs of columns (GPTQ's desc_act)
  bool outliers = false;
  bool zero_point_of_zero = false;  ///< there is one, or may be
  bool divisor = false;          ///< x is divided at run time (AWQ's scales that could not be folded)
  bool rotated_input = false, rotated_output = false;  ///< at run time (QuIP, online Hadamard)
  /// Fingerprints of these rotations, "<order of the block that repeats>_<hash>", equal for equal parts; "" where there is
  /// none, and before quantization.
  std::string input_rotation = {}, output_rotation = {};
};
Scheme scheme_of(const std::string& name, const quantizer::QuantizedLinear& linear);

/// What a user chooses of an export beside the format, and what of the model decides about types.
struct FormatOptions {
  at::ScalarType model_dtype = at::kBFloat16;  ///< config.json's
  std::string variant;  ///< gptq: "v1" (default), "v2"; gguf: a type or mix, "q4_k_m"; else ""
  /// Fingerprints of rotations that earlier calls of one export's encode have written: kept, so that one that many linears
  /// share is stored once. Null: each call stores its own.
  std::shared_ptr<std::set<std::string>> stored_rotations;
  nlohmann::json kv_cache_scheme = nullptr;  ///< passed on when a checkpoint is converted into its own format
};

struct NamedLinear {
  std::string name;
  std::shared_ptr<const quantizer::QuantizedLinear> linear;
};
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

/// What a checkpoint says of itself, filled in by Format::declare.
struct Declaration {
  nlohmann::ordered_json config;             ///< config.json; formats set its quantization_config
  std::map<std::string, std::string> files;  ///< name -> content, beside config.json
};

/// The quantized linears of a checkpoint, read on demand.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// The quantized linears with their schemes, from headers and the configuration alone.
  /// Tensors that belong to none of them are the model's own.
  virtual const std::vector<Scheme>& linears() const = 0;
  /// @throws Error{io} naming the tensor, for one that is missing, misshapen or of another type.
  virtual quantizer::QuantizedLinear linear(const std::string& name) const = 0;
  /// Whether the tensor is part of a quantized linear (not its bias), or of what only servers read (k_scale).
  virtual bool owns(const std::string& tensor) const = 0;
};

struct Format {
  const char* name;
  const char* summary;  ///< one line for `miq list formats`
  /// Why a linear cannot be written so, without loss; nullopt: it can.
  std::optional<std::string> (*why_not)(const Scheme&, const FormatOptions&);
  /// What is written, but not served everywhere: one sentence for each server that refuses. Looks at all linears.
  std::vector<std::string> (*warnings)(const std::vector<Scheme>&, const FormatOptions&);
  /// The type that scales are stored in: codes are rounded against scales of this type.
  at::ScalarType (*scale_dtype)(const quantizer::Grid&, const FormatOptions&);
  /// The tensors of linears that servers fuse (q, k, v; gate, up; else one), under full names; not the biases.
  std::vector<NamedTensor> (*encode)(const std::vector<NamedLinear>&, const FormatOptions&);
  /// Called when all linears are written. `kept`: linears of blocks and the head that stay in float.
  void (*declare)(const std::vector<Scheme>&, const std::vector<std::string>& kept, const FormatOptions&, Declaration&);
  /// Whether a checkpoint is of this format, from config.json's quantization_config (or the older files' content).
  bool (*recognises)(const nlohmann::json& quantization);
  /// `config`: all of config.json. @throws Error{io, unsupported}
  std::unique_ptr<Decoder> (*open)(std::shared_ptr<const TensorSource>, const nlohmann::json& quantization, const nlohmann::json& config,
                                   const std::string& where);
  /// Why these linears cannot stand in one checkpoint, each by itself could; null: any can.
  std::optional<std::string> (*why_not_together)(const std::vector<Scheme>&) = nullptr;
  std::vector<const char*> variants = {};  ///< what FormatOptions::variant may be
};

/// All of formats.def: gptq, awq, compressed-tensors, fp8, modelopt, miq. (dequantized and gguf are written otherwise.)
const std::vector<const Format*>& formats();
/// All names that an export may have: these, gguf and dequantized.
std::vector<std::string> export_names();
/// @throws Error{config} with the nearest name.
const Format& find_format(const std::string& name);

/// Whether float32 `values` are numbers of `dtype`, so that storing them so loses nothing.
bool holds(at::ScalarType dtype, const at::Tensor& values);

/// Of a linear with a plain grid: the words of `data` [rows, n] (codes below 2^bits) as a little-endian bit stream along each
/// row: int32 [rows, ceil(n * bits / 32)].
at::Tensor pack_bits(const at::Tensor& data, int bits);
/// The first `n` codes of each row, uint8 [rows, n]. @throws Error{io} when there are too few words.
at::Tensor unpack_bits(const at::Tensor& words, int bits, std::int64_t n);

}  // namespace miq::format
