// Scores of one model that are finished, on disk: perplexities, the distributions that others are compared with, tasks' records.
// Of several ranks, rank 0 has the files and tells the others what is in them: all ask for the same, at the same time.
#pragma once

#include <filesystem>
#include <optional>

#include "miq/evaluator/perplexity.h"
#include "task_evaluation.h"

namespace miq::executor {

class ScoreStore {
 public:
  /// Makes the folder. An empty path keeps nothing. @throws Error{io}
  explicit ScoreStore(std::filesystem::path folder);

  /// Of the i-th element of evaluation.perplexity; the divergence from the baseline where it was measured.
  struct Perplexity {
    evaluator::Perplexity score;
    std::optional<evaluator::Divergence> divergence;
  };
  std::optional<Perplexity> perplexity(size_t i) const;
  void put(size_t i, const Perplexity& perplexity) const;
  /// The distributions kept with the i-th perplexity of a baseline.
  std::optional<std::vector<evaluator::ReferenceDistributions::Kept>> distributions(size_t i) const;
  void put_distributions(size_t i, const std::vector<evaluator::ReferenceDistributions::Kept>& kept) const;
  /// By the name of its records.
  std::optional<TaskOutcome> task(const std::string& records) const;
  void put(const std::string& records, const TaskOutcome& outcome) const;

 private:
  std::string content(const std::filesystem::path& file) const;
  std::filesystem::path folder_;
};

}  // namespace miq::executor
