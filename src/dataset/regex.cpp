#define PCRE2_CODE_UNIT_WIDTH 8
#include "regex.h"

#include <pcre2.h>

#include "miq/core/error.h"

namespace miq::dataset {

struct Regex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

Regex::Regex(const std::string& pattern, const std::string& where) : code_(std::make_shared<Code>()), where_(where) {
  int problem = 0;
  PCRE2_SIZE offset = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                              &problem, &offset, nullptr);
  if (code_->code == nullptr) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(problem, text, sizeof text);
    throw Error(ErrorKind::io, "bad regular expression at character " + std::to_string(offset) + ": " + reinterpret_cast<char*>(text),
                where, "pattern: " + pattern);
  }
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);  // where it cannot, the interpreter serves
  code_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code_->context, 10'000'000);
}

template <class Visit>
void Regex::scan(std::string_view text, const Visit& visit) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create_from_pattern(code_->code, nullptr), pcre2_match_data_free);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t at = 0; at < text.size();) {
    const int count = pcre2_match(code_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), code_->context);
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0)
      throw Error(ErrorKind::unsupported, "a regular expression needs too many steps on this text (PCRE2 error " + std::to_string(count) + ")",
                  where_);
    const PCRE2_SIZE* const span = pcre2_get_ovector_pointer(data.get());
    if (span[1] > span[0]) {
      visit(span, static_cast<size_t>(count));
      at = span[1];
    } else {
      for (++at; at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;) ++at;
    }
  }
}

std::vector<std::pair<size_t, size_t>> Regex::matches(std::string_view text) const {
  std::vector<std::pair<size_t, size_t>> found;
  scan(text, [&](const PCRE2_SIZE* span, size_t) { found.emplace_back(span[0], span[1]); });
  return found;
}

std::vector<std::vector<std::pair<size_t, size_t>>> Regex::captures(std::string_view text) const {
  std::uint32_t groups = 0;
  pcre2_pattern_info(code_->code, PCRE2_INFO_CAPTURECOUNT, &groups);
  std::vector<std::vector<std::pair<size_t, size_t>>> found;
  scan(text, [&](const PCRE2_SIZE* span, size_t count) {
    found.emplace_back(groups + 1);
    for (size_t g = 0; g < count; ++g)
      if (span[2 * g] != PCRE2_UNSET) found.back()[g] = {span[2 * g], span[2 * g + 1]};
  });
  return found;
}

}  // namespace miq::dataset
