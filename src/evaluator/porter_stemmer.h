// English suffix stripping, as the ROUGE references do it.
#pragma once

#include <string>

namespace miq::evaluator {

/// The stem of a lower-case word of [a-z0-9]: Porter's algorithm (1980) with the departures of NLTK, which rouge-score uses.
std::string porter_stem(const std::string& word);

}  // namespace miq::evaluator
