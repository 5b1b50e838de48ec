// The tolerances of the golden algorithm cases (golden/algorithms/cases.json, tolerance_kinds).
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace miq::test {

/// Looks up a tensor of the case by name: row margins and masks.
using TensorLookup = std::function<at::Tensor(const std::string&)>;

/// The tolerance of output `name`: its own entry, a `*` entry that matches, else `fallback`.
nlohmann::json tolerance_of(const nlohmann::json& tolerances, const std::string& name, const nlohmann::json& fallback);

/// Whether `actual`, of any device, agrees with `expected` (same number of elements) under one tolerance object. The message names the
/// worst element. A kind that is not known is a failure.
testing::AssertionResult within(const at::Tensor& actual, const at::Tensor& expected, const nlohmann::json& tolerance,
                                const TensorLookup& lookup);

}  // namespace miq::test
