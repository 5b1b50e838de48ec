// Steps that make a task's fields of a data set's row, as the reference harness does in code (`prepare` of a task file).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace miq::dataset {

/// The steps' names.
std::vector<std::string> prepare_steps();

/// Applies a step to a row. @throws Error{io} at `where` when the row is not what the step needs.
void prepare(const std::string& step, nlohmann::json& row, const std::string& where);

}  // namespace miq::dataset
