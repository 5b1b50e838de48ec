// The tolerance kinds of golden/algorithms/cases.json.
#pragma once

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace miq::test {

/// Why `got` does not match `want` under `tolerance`, or nullopt. `margin`: per row, for the *_rows
/// kinds; undefined where the case has none. An unknown kind is a mismatch.
std::optional<std::string> mismatch(const at::Tensor& got, const at::Tensor& want, const nlohmann::json& tolerance,
                                    const at::Tensor& margin);

}  // namespace miq::test
