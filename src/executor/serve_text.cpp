#include "serve_text.h"

#include <algorithm>

namespace miq::executor {
namespace {

const std::string kReplacement = "\xEF\xBF\xBD";
constexpr size_t kContext = 8;  // tokens in front whose text tells how the next one reads

// Where `text` goes on behind `known`: not inside a character.
size_t common_prefix(const std::string& known, const std::string& text) {
  size_t at = 0;
  while (at < known.size() && at < text.size() && known[at] == text[at]) ++at;
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::int64_t count_code_points(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

IncrementalDecoder::IncrementalDecoder(const dataset::Tokenizer& tokenizer, std::vector<std::int64_t> before, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), ids_(std::move(before)) {
  if (ids_.size() > 4 * kContext) ids_.erase(ids_.begin(), ids_.end() - 4 * kContext);
  context_ = ids_.size();
  context_text_ = tokenizer_.decode(ids_, skip_special_);
}

std::string IncrementalDecoder::unsettled() const {
  const std::string all = tokenizer_.decode(ids_, skip_special_);
  return all.substr(common_prefix(context_text_, all));
}

std::string IncrementalDecoder::append(std::int64_t id) {
  ids_.push_back(id);
  const std::string text = unsettled();
  if (text.empty()) return "";
  if (ends_with(text, kReplacement)) return "";  // it may be the beginning of a character
  return finish();
}

std::string IncrementalDecoder::finish() {
  const std::string text = unsettled();
  if (ids_.size() > 4 * kContext) ids_.erase(ids_.begin(), ids_.end() - kContext);
  context_ = ids_.size();
  context_text_ = tokenizer_.decode(ids_, skip_special_);
  return text;
}

CompletionText::CompletionText(const dataset::Tokenizer& tokenizer, const std::vector<std::int64_t>& prompt, std::vector<std::string> stops)
    : decoder_(tokenizer, prompt, /*skip_special=*/true), stops_(std::move(stops)) {}

bool CompletionText::append(std::int64_t id) {
  text_ += decoder_.append(id);
  return cut();
}

bool CompletionText::finish() {
  if (!stopped_) text_ += decoder_.finish();
  finished_ = true;
  return cut();
}

// Cuts at the first stop string. Text before `searched_` holds the beginning of none.
bool CompletionText::cut() {
  if (stopped_) return true;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, text_.find(stop, searched_));
  if (first != std::string::npos) {
    text_.resize(first);
    searched_ = first;
    return stopped_ = true;
  }
  searched_ = text_.size();
  for (const std::string& stop : stops_)
    for (size_t length = std::min(stop.size() - 1, text_.size()); length > 0; --length)
      if (text_.compare(text_.size() - length, length, stop, 0, length) == 0) {
        searched_ = std::min(searched_, text_.size() - length);
        break;
      }
  return false;
}

std::string CompletionText::take() {
  const size_t end = finished_ ? text_.size() : searched_;
  const std::string part = text_.substr(taken_, end - taken_);
  taken_ = std::max(taken_, end);
  return part;
}

}  // namespace miq::executor
