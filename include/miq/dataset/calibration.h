// Calibration samples: windows of a corpus, or given ids.
#pragma once

#include "miq/dataset/corpus.h"

namespace miq {
class FieldVisitor;
}

namespace miq::dataset {

enum class Sampling { random, consecutive };

struct CalibrationConfig {
  std::string dataset = "wikitext2";
  std::string split = "validation";
  std::int64_t samples = 128;
  std::int64_t seqlen = 2048;
  Sampling sampling = Sampling::random;
  std::int64_t seed = 42;
  std::string ids;  ///< path of a safetensors file with `ids` [samples, seqlen] int64; replaces all above
};

/// `ids` [samples, seqlen] int64 of a safetensors file. @throws Error{io} for anything else.
at::Tensor read_calibration_ids(const std::filesystem::path& path);

/// ids [samples, seqlen] int64. random: as the GPTQ reference draws (random.seed(seed), then
/// i = randint(0, n - seqlen - 1) per sample; c4: a document with at least seqlen tokens first).
/// @throws Error{config} when the corpus has fewer tokens than asked for, Error{io}.
at::Tensor calibration_ids(const CalibrationConfig& config, const Tokenizer& tokenizer,
                           const std::filesystem::path& data_dir);

/// The keys of `calibration`.
void visit_fields(FieldVisitor& visitor, CalibrationConfig& config);

}  // namespace miq::dataset
