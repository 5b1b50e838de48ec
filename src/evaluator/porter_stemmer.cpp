#include "porter_stemmer.h"

#include <string_view>
#include <utility>
#include <vector>

namespace miq::evaluator {
namespace {

bool is_vowel_letter(char c) { return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u'; }

// A consonant is a letter other than a, e, i, o, u, and other than a y after a consonant.
std::vector<bool> consonants(std::string_view word) {
  std::vector<bool> result;
  for (size_t i = 0; i < word.size(); ++i)
    result.push_back(word[i] == 'y' ? i == 0 || !result[i - 1] : !is_vowel_letter(word[i]));
  return result;
}

// The m of [C](VC)^m[V].
int measure(std::string_view stem) {
  const std::vector<bool> is_consonant = consonants(stem);
  int count = 0;
  for (size_t i = 1; i < is_consonant.size(); ++i) count += !is_consonant[i - 1] && is_consonant[i];
  return count;
}

bool contains_vowel(std::string_view stem) {
  for (const bool is_consonant : consonants(stem))
    if (!is_consonant) return true;
  return false;
}

bool ends_with(std::string_view word, std::string_view suffix) { return word.size() >= suffix.size() && word.substr(word.size() - suffix.size()) == suffix; }

bool ends_double_consonant(std::string_view word) {
  return word.size() >= 2 && word.back() == word[word.size() - 2] && consonants(word).back();
}

// *o: consonant, vowel, consonant other than w, x, y; or (NLTK) the two letters vowel, consonant.
bool ends_consonant_vowel_consonant(std::string_view word) {
  const std::vector<bool> is_consonant = consonants(word);
  const size_t n = word.size();
  if (n == 2) return !is_consonant[0] && is_consonant[1];
  return n >= 3 && is_consonant[n - 3] && !is_consonant[n - 2] && is_consonant[n - 1] && word.back() != 'w' && word.back() != 'x' && word.back() != 'y';
}

struct Rule {
  std::string_view suffix, replacement;
};

// The first rule whose suffix the word ends with decides; it applies where the stem's measure is above `least`.
std::string apply(const std::string& word, const std::vector<Rule>& rules, int least) {
  for (const Rule& rule : rules) {
    if (!ends_with(word, rule.suffix)) continue;
    const std::string stem = word.substr(0, word.size() - rule.suffix.size());
    if (least >= 0 && measure(stem) <= least) return word;
    return stem + std::string(rule.replacement);
  }
  return word;
}

// Plurals.
std::string step_1a(const std::string& word) {
  if (word.size() == 4 && ends_with(word, "ies")) return word.substr(0, 1) + "ie";
  return apply(word, {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}}, -1);
}

// Past tense and participles.
std::string step_1b(const std::string& word) {
  if (ends_with(word, "ied")) return word.substr(0, word.size() - 3) + (word.size() == 4 ? "ie" : "i");
  if (ends_with(word, "eed")) return apply(word, {{"eed", "ee"}}, 0);
  std::string stem;
  for (const std::string_view suffix : {"ed", "ing"})
    if (stem.empty() && ends_with(word, suffix) && contains_vowel(std::string_view(word).substr(0, word.size() - suffix.size())))
      stem = word.substr(0, word.size() - suffix.size());
  if (stem.empty()) return word;
  for (const std::string_view suffix : {"at", "bl", "iz"})
    if (ends_with(stem, suffix)) return stem + "e";
  if (ends_double_consonant(stem)) {
    const char last = stem.back();
    return last == 'l' || last == 's' || last == 'z' ? stem : stem.substr(0, stem.size() - 1);
  }
  return measure(stem) == 1 && ends_consonant_vowel_consonant(stem) ? stem + "e" : stem;
}

// y after a consonant that does not begin the word.
std::string step_1c(const std::string& word) {
  if (!ends_with(word, "y")) return word;
  const std::string stem = word.substr(0, word.size() - 1);
  return stem.size() > 1 && consonants(stem).back() ? stem + "i" : word;
}

// Double suffixes.
std::string step_2(const std::string& word) {
  if (ends_with(word, "alli") && measure(std::string_view(word).substr(0, word.size() - 4)) > 0) return step_2(word.substr(0, word.size() - 2));
  static const std::vector<Rule> rules = {
      {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},  {"anci", "ance"},   {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},
      {"entli", "ent"},   {"eli", "e"},       {"ousli", "ous"},  {"ization", "ize"}, {"ation", "ate"},   {"ator", "ate"},    {"alism", "al"},
      {"iveness", "ive"}, {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},   {"iviti", "ive"},   {"biliti", "ble"},  {"fulli", "ful"}};
  for (const Rule& rule : rules)
    if (ends_with(word, rule.suffix)) return apply(word, rules, 0);
  // The l counts with the stem, so that theo- and geo- are long enough.
  if (ends_with(word, "logi") && measure(std::string_view(word).substr(0, word.size() - 3)) > 0) return word.substr(0, word.size() - 1);
  return word;
}

std::string step_3(const std::string& word) {
  return apply(word, {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""}, {"ness", ""}}, 0);
}

std::string step_4(const std::string& word) {
  for (const std::string_view suffix : {"al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous",
                                        "ive", "ize"}) {
    if (!ends_with(word, suffix)) continue;
    const std::string stem = word.substr(0, word.size() - suffix.size());
    const bool fits = measure(stem) > 1 && (suffix != "ion" || stem.back() == 's' || stem.back() == 't');
    return fits ? stem : word;
  }
  return word;
}

std::string step_5(std::string word) {
  if (ends_with(word, "e")) {
    const std::string stem = word.substr(0, word.size() - 1);
    const int m = measure(stem);
    if (m > 1 || (m == 1 && !ends_consonant_vowel_consonant(stem))) word = stem;
  }
  if (ends_with(word, "ll") && measure(std::string_view(word).substr(0, word.size() - 1)) > 1) word.pop_back();
  return word;
}

}  // namespace

std::string porter_stem(const std::string& word) {
  static const std::vector<std::pair<std::string_view, std::string_view>> irregular = {
      {"skies", "sky"},     {"sky", "sky"},       {"dying", "die"},      {"lying", "lie"},     {"tying", "tie"},       {"news", "news"},     {"innings", "inning"},
      {"inning", "inning"}, {"outings", "outing"}, {"outing", "outing"}, {"cannings", "canning"}, {"canning", "canning"}, {"howe", "howe"}, {"proceed", "proceed"},
      {"exceed", "exceed"}, {"succeed", "succeed"}};
  for (const auto& [form, stem] : irregular)
    if (word == form) return std::string(stem);
  if (word.size() <= 2) return word;
  return step_5(step_4(step_3(step_2(step_1c(step_1b(step_1a(word)))))));
}

}  // namespace miq::evaluator
