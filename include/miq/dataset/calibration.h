// Calibration samples: windows of a corpus, documents of a task, or given ids.
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
  /// Tasks with subjects: "all", a category such as Humanities, or subjects ("arts, law=4").
  std::string subjects = "all";
  std::int64_t per_subject = 4;  ///< documents of each subject, where it states no number of its own
  bool shuffle = false;          ///< documents drawn by the seed, instead of the first ones
  std::int64_t shots = 0;        ///< documents with answers before each, as the task is asked
  bool pack = false;             ///< documents joined and cut to windows of seqlen, instead of a sample each
  std::string ids;  ///< path of a safetensors file with `ids` [samples, seqlen] int64; replaces all above
};

/// `ids` [samples, seqlen] int64 of a safetensors file. @throws Error{io} for anything else.
at::Tensor read_calibration_ids(const std::filesystem::path& path);

/// The samples as batches of equal length, int64 [S, T]. Text: one batch of `samples` windows, drawn as
/// in calibration_ids. Tasks: each document is a sample of its own, cut to seqlen (MI-optimize), or with `pack` they are joined by
/// empty lines, encoded once and cut to windows of seqlen. @throws Error{config, io} as calibration_ids.
std::vector<at::Tensor> calibration_samples(const CalibrationConfig& config, const Tokenizer& tokenizer,
                                            const std::filesystem::path& data_dir);

/// Whether `dataset` is to be found among the tasks: it is no corpus by name and no .txt or .jsonl.
bool is_task_calibration(const std::string& dataset);

/// The samples of tasks as text. config.dataset: tasks or suites, separated by commas, each with its own number if wanted
/// ("boss/QuestionAnswering/advqa=64, mmlu/anatomy"); a path that ends in .yaml. `samples` documents of a task without subjects or of the
/// subject that the name carries, else per_subject of each subject. @throws Error{io, config}
std::vector<std::string> task_samples(const CalibrationConfig& config, const std::filesystem::path& data_dir);

/// ids [samples, seqlen] int64. random: as the GPTQ reference draws (random.seed(seed), then
/// i = randint(0, n - seqlen - 1) per sample; c4: a document with at least seqlen tokens first).
/// @throws Error{config} when the corpus has fewer tokens than asked for, Error{io}.
at::Tensor calibration_ids(const CalibrationConfig& config, const Tokenizer& tokenizer,
                           const std::filesystem::path& data_dir);

/// The keys of `calibration`.
void visit_fields(FieldVisitor& visitor, CalibrationConfig& config);

}  // namespace miq::dataset
