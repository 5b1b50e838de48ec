// The text of tokens that come one by one: whole characters, without what a stop string cuts off.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "miq/dataset/tokenizer.h"

namespace miq::executor {

/// Code points of valid UTF-8.
std::int64_t count_code_points(const std::string& text);

/// Decodes ids one by one behind others. A few tokens are decoded again for each, however long the text is.
class IncrementalDecoder {
 public:
  IncrementalDecoder(const dataset::Tokenizer& tokenizer, std::vector<std::int64_t> before, bool skip_special);
  /// The text that `id` settles: "" while a character is not complete.
  std::string append(std::int64_t id);
  /// What is left, incomplete characters as U+FFFD.
  std::string finish();

 private:
  std::string unsettled() const;
  const dataset::Tokenizer& tokenizer_;
  bool skip_special_;
  std::vector<std::int64_t> ids_;  // context, then those whose text is not settled
  size_t context_ = 0;
  std::string context_text_;
};

/// The text of a completion. Text is given out only when no stop string can begin in it any more.
class CompletionText {
 public:
  CompletionText(const dataset::Tokenizer& tokenizer, const std::vector<std::int64_t>& prompt, std::vector<std::string> stops);
  /// True when a stop string is complete: the text ends before it.
  bool append(std::int64_t id);
  /// The text that is certain by now and was not yet taken.
  std::string take();
  /// The end of the text was reached: what is left can be taken. True when that completes a stop string.
  bool finish();
  bool stopped() const { return stopped_; }
  const std::string& decoded() const { return text_; }  ///< all so far, cut where a stop string began
  size_t taken_bytes() const { return taken_; }

 private:
  bool cut();
  IncrementalDecoder decoder_;
  std::vector<std::string> stops_;
  std::string text_;
  size_t taken_ = 0, searched_ = 0;
  bool stopped_ = false, finished_ = false;
};

}  // namespace miq::executor
