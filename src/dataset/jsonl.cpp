#include "jsonl.h"

#include <sstream>

#include "miq/core/file.h"
#include "miq/core/text.h"

namespace miq::dataset {

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(std::move(line));
  return lines;
}

std::vector<JsonlRow> read_jsonl_rows(const std::filesystem::path& path) {
  std::vector<JsonlRow> rows;
  std::int64_t number = 0;
  for (const std::string& line : split_lines(read_file(path))) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = path.string() + ":" + std::to_string(number);
    rows.push_back({parse_json(line, where), where});
  }
  return rows;
}

}  // namespace miq::dataset
