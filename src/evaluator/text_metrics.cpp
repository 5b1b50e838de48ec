#include "text_metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "miq/dataset/python_text.h"
#include "porter_stemmer.h"

namespace miq::evaluator {
namespace {

using Tokens = std::vector<std::string>;

double f_measure(double matches, double predicted, double expected) {
  if (matches == 0) return 0;
  const double precision = matches / predicted, recall = matches / expected;
  return 2 * precision * recall / (precision + recall);
}

std::map<Tokens, std::int64_t> ngrams(const Tokens& tokens, size_t n) {
  std::map<Tokens, std::int64_t> counts;
  for (size_t at = 0; at + n <= tokens.size(); ++at)
    ++counts[Tokens(tokens.begin() + static_cast<std::ptrdiff_t>(at), tokens.begin() + static_cast<std::ptrdiff_t>(at + n))];
  return counts;
}

std::int64_t common(const std::map<Tokens, std::int64_t>& a, const std::map<Tokens, std::int64_t>& b) {
  std::int64_t sum = 0;
  for (const auto& [key, count] : a)
    if (const auto found = b.find(key); found != b.end()) sum += std::min(count, found->second);
  return sum;
}

// [i][j]: length of the longest common subsequence of the first i and the first j tokens.
std::vector<std::vector<std::int32_t>> common_subsequences(const Tokens& a, const Tokens& b) {
  std::vector<std::vector<std::int32_t>> table(a.size() + 1, std::vector<std::int32_t>(b.size() + 1));
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) table[i][j] = a[i - 1] == b[j - 1] ? table[i - 1][j - 1] + 1 : std::max(table[i - 1][j], table[i][j - 1]);
  return table;
}

// Places in `reference` of one longest common subsequence; which one is rouge-score's choice.
void add_common_places(const Tokens& reference, const Tokens& prediction, std::set<size_t>& places) {
  const std::vector<std::vector<std::int32_t>> table = common_subsequences(reference, prediction);
  for (size_t i = reference.size(), j = prediction.size(); i > 0 && j > 0;) {
    if (reference[i - 1] == prediction[j - 1]) {
      places.insert(i - 1);
      --i;
      --j;
    } else if (table[i][j - 1] > table[i - 1][j]) {
      --j;
    } else {
      --i;
    }
  }
}

std::vector<Tokens> sentences(std::string_view text) {
  std::vector<Tokens> result;
  for (const std::string& line : dataset::split_at(text, "\n"))
    if (!line.empty()) result.push_back(rouge_tokens(line, false));
  return result;
}

}  // namespace

double overlap_f1(const Tokens& prediction, const Tokens& reference) {
  return f_measure(static_cast<double>(common(ngrams(prediction, 1), ngrams(reference, 1))), static_cast<double>(prediction.size()),
                   static_cast<double>(reference.size()));
}

Tokens rouge_tokens(std::string_view text, bool stem) {
  Tokens tokens;
  bool inside = false;
  for (const char c : dataset::lower(text)) {
    const bool part = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (part && !inside) tokens.emplace_back();
    if (part) tokens.back() += c;
    inside = part;
  }
  if (stem)
    for (std::string& token : tokens)
      if (token.size() > 3) token = porter_stem(token);
  return tokens;
}

double rouge_n(const Tokens& prediction, const Tokens& reference, size_t n) {
  const auto total = [&](const Tokens& tokens) { return static_cast<double>(tokens.size() >= n ? tokens.size() - n + 1 : 0); };
  return f_measure(static_cast<double>(common(ngrams(prediction, n), ngrams(reference, n))), total(prediction), total(reference));
}

double rouge_l(const Tokens& prediction, const Tokens& reference) {
  if (prediction.empty() || reference.empty()) return 0;
  return f_measure(common_subsequences(reference, prediction).back().back(), static_cast<double>(prediction.size()), static_cast<double>(reference.size()));
}

double rouge_l_summary(std::string_view prediction, std::string_view reference) {
  const std::vector<Tokens> predicted = sentences(prediction), expected = sentences(reference);
  std::map<std::string, std::int64_t> left_predicted, left_expected;  // so that no token counts twice
  double predicted_size = 0, expected_size = 0, hits = 0;
  for (const Tokens& sentence : predicted)
    for (const std::string& token : sentence) ++left_predicted[token], ++predicted_size;
  for (const Tokens& sentence : expected)
    for (const std::string& token : sentence) ++left_expected[token], ++expected_size;
  for (const Tokens& sentence : expected) {
    std::set<size_t> places;
    for (const Tokens& other : predicted) add_common_places(sentence, other, places);
    for (const size_t place : places) {
      std::int64_t& in_predicted = left_predicted[sentence[place]];
      std::int64_t& in_expected = left_expected[sentence[place]];
      if (in_predicted == 0 || in_expected == 0) continue;
      --in_predicted;
      --in_expected;
      ++hits;
    }
  }
  return f_measure(hits, predicted_size, expected_size);
}

Tokens bleu_tokens_13a(std::string_view text) {
  // mteval-v13a: a line's end in a word is undone, entities are characters, punctuation stands alone unless between digits.
  std::string line = dataset::strip(text);
  line = dataset::replace(line, "<skipped>", "");
  line = dataset::replace(line, "-\n", "");
  line = dataset::replace(line, "\n", " ");
  line = dataset::replace(line, "&quot;", "\"");
  line = dataset::replace(line, "&amp;", "&");
  line = dataset::replace(line, "&lt;", "<");
  line = " " + dataset::replace(line, "&gt;", ">") + " ";
  line = dataset::substitute(R"(([{-~\[-` -&(-+:-@/]))", " \\1 ", line);
  line = dataset::substitute(R"(([^0-9])([.,]))", "\\1 \\2 ", line);
  line = dataset::substitute(R"(([.,])([^0-9]))", " \\1 \\2", line);
  line = dataset::substitute(R"(([0-9])(-))", "\\1 \\2 ", line);
  return dataset::split_words(line);
}

Tokens bleu_tokens_international(std::string_view text) {
  std::string line = dataset::substitute(R"((\P{N})(\p{P}))", "\\1 \\2 ", text);
  line = dataset::substitute(R"((\p{P})(\P{N}))", " \\1 \\2", line);
  line = dataset::substitute(R"((\p{S}))", " \\1 ", line);
  return dataset::split_words(line);
}

BleuCounts bleu_counts(const Tokens& prediction, const std::vector<Tokens>& references) {
  BleuCounts counts{};
  counts[0] = static_cast<double>(prediction.size());
  double nearest = -1;
  for (const Tokens& reference : references) {
    const double length = static_cast<double>(reference.size()), distance = std::abs(length - counts[0]);
    if (nearest < 0 || distance < nearest || (distance == nearest && length < counts[1])) {
      nearest = distance;
      counts[1] = length;
    }
  }
  for (size_t n = 1; n <= 4; ++n) {
    std::map<Tokens, std::int64_t> most;  // of an n-gram in any one reference
    for (const Tokens& reference : references)
      for (const auto& [key, count] : ngrams(reference, n)) most[key] = std::max(most[key], count);
    counts[1 + n] = static_cast<double>(common(ngrams(prediction, n), most));
    counts[5 + n] = prediction.size() >= n ? static_cast<double>(prediction.size() - n + 1) : 0;
  }
  return counts;
}

double bleu_score(const double* counts) {
  const double length = counts[0], reference = counts[1];
  if (counts[2] + counts[3] + counts[4] + counts[5] == 0) return 0;
  double logarithms = 0, smoothing = 1;
  for (int n = 0; n < 4; ++n) {
    const double matches = counts[2 + n], total = counts[6 + n];
    if (total == 0) return 0;
    if (matches == 0) smoothing *= 2;
    logarithms += std::log(100 * (matches == 0 ? 1 / smoothing : matches) / total);
  }
  const double brevity = length < reference ? std::exp(1 - reference / length) : 1;
  return brevity * std::exp(logarithms / 4);
}

}  // namespace miq::evaluator
