// Whether an export is what was written, can be read, runs, and how far it is from the original.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace miq::executor {

struct VerifyConfig {
  std::string path;                   ///< the export
  std::string against;                ///< the original; "": not compared
  std::string text;                   ///< a file whose text both are compared on; "": a page of English of our own
  std::int64_t tokens = 512;          ///< of the comparison, at most
  std::string architecture = "auto";
  std::string logits;                 ///< a safetensors file to write: ids, logits, logits_fp32 (inputs not quantized); "": none
  double kl_max = -1;                 ///< a larger mean KL divergence is a failure; < 0: any will do
  double agreement_min = -1;          ///< so is a smaller share of equal first choices
};

/// Compares every tensor with the manifest (where miq wrote one), decodes every quantized linear, generates 16 tokens, and, given
/// the original, computes mean KL(original || export) and the share of positions with the same first choice, both in float32.
/// Returns manifest, linears, generated, against, problems (sentences; empty: all is well).
/// @throws Error{io, unsupported} for what cannot be opened.
nlohmann::ordered_json verify_export(const VerifyConfig& config);

}  // namespace miq::executor
