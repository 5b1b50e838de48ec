#include "miq/dataset/corpus.h"

#include "jsonl.h"
#include "miq/core/error.h"
#include "miq/core/file.h"

namespace miq::dataset {
namespace fs = std::filesystem;
namespace {

// A document a line, in the field "text", "content", "page" or "sentence".
std::vector<std::string> read_jsonl(const fs::path& path) {
  std::vector<std::string> documents;
  for (const auto& [row, where] : read_jsonl_rows(path)) {
    const char* found = nullptr;
    for (const char* key : {"text", "content", "page", "sentence"})
      if (found == nullptr && row.is_object() && row.contains(key) && row[key].is_string()) found = key;
    if (found == nullptr) throw Error(ErrorKind::io, "the row has no text field", where, "put each document under the key \"text\"");
    documents.push_back(row[found].get<std::string>());
  }
  return documents;
}

// wiki.*.raw: a row a line; the data set's own rows keep their newline, empty ones are "".
std::vector<std::string> read_wiki_raw(const fs::path& path) {
  std::vector<std::string> rows;
  for (const std::string& line : split_lines(read_file(path)))
    rows.push_back(line.find_first_not_of(' ') == std::string::npos ? "" : line + "\n");
  return rows;
}

// What a named corpus is: where its splits lie (relative to the data folder, first that exists) and
// how its documents are read and joined.
struct NamedCorpus {
  const char* name;
  const char* separator;
  struct Place {
    const char* path;  // %s: the split
    std::vector<std::string> (*read)(const fs::path&);
  };
  std::vector<Place> places;
};

std::vector<std::string> read_sentences(const fs::path& path) { return split_lines(read_file(path)); }

const std::vector<NamedCorpus>& named_corpora() {
  static const std::vector<NamedCorpus> table = {
      {"wikitext2", "\n\n",
       {{"wikitext2/%s.jsonl", read_jsonl}, {"wikitext2/%s.raw.txt", read_wiki_raw}, {"wikitext2_%s/%s.txt", read_wiki_raw}}},
      {"ptb", " ", {{"ptb/%s.txt", read_sentences}}},
      {"c4", " ", {{"c4/%s.jsonl", read_jsonl}}},
  };
  return table;
}

std::string with_split(std::string pattern, const std::string& split) {
  for (size_t at; (at = pattern.find("%s")) != std::string::npos;) pattern.replace(at, 2, split);
  return pattern;
}

[[noreturn]] void throw_missing(const NamedCorpus& corpus, const std::string& split, const fs::path& data_dir) {
  std::string present;
  for (const std::string& candidate : corpus_splits(corpus.name, data_dir)) present += (present.empty() ? "" : ", ") + candidate;
  throw Error(ErrorKind::io, std::string("no split '") + split + "' of " + corpus.name, (data_dir / corpus.name).string(),
              present.empty() ? "give the folder that holds it with --data-dir or MIQ_DATA, or name your own .txt or .jsonl"
                              : "there are: " + present);
}

}  // namespace

std::string Corpus::joined() const {
  std::string text;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (i > 0) text += separator;
    text += documents[i];
  }
  return text;
}

std::vector<std::string> corpus_names() {
  std::vector<std::string> names;
  for (const NamedCorpus& corpus : named_corpora()) names.push_back(corpus.name);
  return names;
}

std::vector<std::string> corpus_splits(const std::string& corpus, const fs::path& data_dir) {
  std::vector<std::string> splits;
  std::error_code problem;
  for (const NamedCorpus& named : named_corpora())
    for (const char* split : {"train", "validation", "test"})
      if (corpus == named.name && std::any_of(named.places.begin(), named.places.end(), [&](const auto& place) { return fs::exists(data_dir / with_split(place.path, split), problem); }))
        splits.emplace_back(split);
  return splits;
}

Corpus load_corpus(const std::string& corpus, const std::string& split, const fs::path& data_dir) {
  for (const NamedCorpus& named : named_corpora()) {
    if (corpus != named.name) continue;
    if (split.find_first_of("/\\%") != std::string::npos || split.empty())
      throw Error(ErrorKind::config, "'" + split + "' is not the name of a split", corpus, "use train, validation or test");
    for (const auto& place : named.places)
      if (const fs::path path = data_dir / with_split(place.path, split); fs::exists(path))
        return {corpus, split, place.read(path), named.separator};
    throw_missing(named, split, data_dir);
  }
  const fs::path path = corpus;
  if (path.extension() == ".jsonl") return {corpus, split, read_jsonl(path), "\n\n"};
  if (path.extension() == ".txt") return {corpus, split, {read_file(path)}, ""};
  const std::string nearest = nearest_name(corpus, corpus_names());
  throw Error(ErrorKind::config, "unknown corpus '" + corpus + "'", "",
              nearest.empty() ? "use wikitext2, ptb, c4, or a path that ends in .txt or .jsonl" : "did you mean " + nearest + "?");
}

at::Tensor tokenize(const Corpus& corpus, const Tokenizer& tokenizer) {
  return at::tensor(tokenizer.encode(corpus.joined(), /*special=*/true), at::kLong);
}

}  // namespace miq::dataset
