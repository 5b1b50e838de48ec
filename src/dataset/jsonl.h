// Files of one JSON value a line.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace miq::dataset {

struct JsonlRow {
  nlohmann::json value;
  std::string where;  ///< "file:line"
};

/// The lines of a text, without their ends.
std::vector<std::string> split_lines(const std::string& text);

/// The rows of a .jsonl file; empty lines are passed over. @throws Error{io} with file and line.
std::vector<JsonlRow> read_jsonl_rows(const std::filesystem::path& path);

}  // namespace miq::dataset
