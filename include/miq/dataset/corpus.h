// Plain-text corpora: by name from the data folder, or the user's own file.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

#include "miq/dataset/tokenizer.h"

namespace miq::dataset {

/// A corpus as documents and the separator that joins them into one text.
struct Corpus {
  std::string name, split;
  std::vector<std::string> documents;
  std::string separator;  ///< "\n\n" for wikitext2, " " for ptb, "" for one text
  std::string joined() const;
};

/// Names that load_corpus finds in the data folder.
std::vector<std::string> corpus_names();

/// The splits of one of them that are there: train, validation, test.
std::vector<std::string> corpus_splits(const std::string& corpus, const std::filesystem::path& data_dir);

/// `corpus`: wikitext2, ptb, c4, or a path to .txt (one text) or .jsonl (field "text" or "content",
/// a document a line). `split` is ignored for paths.
/// @throws Error{io} when the data folder lacks it (the message names the folder and what is there),
/// Error{config} for an unknown name.
Corpus load_corpus(const std::string& corpus, const std::string& split, const std::filesystem::path& data_dir);

/// The corpus as one token stream, as the field does it: documents joined, encoded once, with the
/// tokenizer's BOS in front if it adds one. int64 [N].
at::Tensor tokenize(const Corpus& corpus, const Tokenizer& tokenizer);

}  // namespace miq::dataset
