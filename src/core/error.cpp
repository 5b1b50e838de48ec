#include "miq/core/error.h"

#include <algorithm>

namespace miq {
namespace {

std::string full_text(ErrorKind kind, const std::string& what, const std::string& where, const std::string& fix) {
  std::string text = std::string("error[") + name(kind) + "]: " + what;
  if (!where.empty()) text += "\n  where: " + where;
  if (!fix.empty()) text += "\n  fix:   " + fix;
  return text;
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

Error::Error(ErrorKind kind, std::string what, std::string where, std::string fix)
    : std::runtime_error(full_text(kind, what, where, fix)),
      kind_(kind),
      message_(std::move(what)),
      where_(std::move(where)),
      fix_(std::move(fix)) {}

const char* name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::config: return "config";
    case ErrorKind::unsupported: return "unsupported";
    case ErrorKind::io: return "io";
    case ErrorKind::numeric: return "numeric";
    case ErrorKind::internal: return "internal";
  }
  return "internal";
}

std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace miq
