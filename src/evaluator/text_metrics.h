// Metrics of a text against references: overlap of tokens, ROUGE, BLEU.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq::evaluator {

/// F1 of the multisets of tokens; 0 without overlap.
double overlap_f1(const std::vector<std::string>& prediction, const std::vector<std::string>& reference);

/// Lower-case runs of [a-z0-9]; with `stem`, those of more than three letters as their Porter stems (rouge-score's tokens).
std::vector<std::string> rouge_tokens(std::string_view text, bool stem);

/// ROUGE-N and ROUGE-L, the F measures (rouge-score 0.1.2).
double rouge_n(const std::vector<std::string>& prediction, const std::vector<std::string>& reference, std::size_t n);
double rouge_l(const std::vector<std::string>& prediction, const std::vector<std::string>& reference);

/// Summary-level ROUGE-L ("rougeLsum"): sentences are lines; no stemming.
double rouge_l_summary(std::string_view prediction, std::string_view reference);

/// sacrebleu's tokenisations `13a` and `intl`.
std::vector<std::string> bleu_tokens_13a(std::string_view text);
std::vector<std::string> bleu_tokens_international(std::string_view text);

/// What BLEU is made of: length, length of the reference nearest in length, matches and number of the 1- to 4-grams. Sums of them are
/// those of a corpus.
using BleuCounts = std::array<double, 10>;
BleuCounts bleu_counts(const std::vector<std::string>& prediction, const std::vector<std::vector<std::string>>& references);

/// BLEU-4, 0 - 100, with sacrebleu's `exp` smoothing and no effective order.
double bleu_score(const double* counts);

}  // namespace miq::evaluator
