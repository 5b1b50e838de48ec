// What the golden tests of algorithms share: the cases, what is left out and why, the comparison.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iostream>
#include <map>
#include <set>

#include "miq/core/safetensors.h"
#include "miq/core/text.h"
#include "miq/quantizer/linear_problem.h"
#include "support/golden.h"
#include "support/test_device.h"
#include "support/tolerance.h"

namespace miq::quantizer::golden {

using nlohmann::json;

/// Conventions that miq leaves out on purpose; "family:algorithm" or "family".
inline const std::map<std::string, std::string> kLeftOut = {
    {"mi:rtn", "MI-optimize's grids: NaN for constant rows, unclamped zeros, products with the reciprocal scale"},
    {"mi:gptq", "MI-optimize's GPTQ takes torch's observer: products with the reciprocal scale"},
    {"deepspeed", "DeepSpeed's grids saturate the maximum"},
    {"quarot", "the awq convention without its zero point"},
    {"torch", "torch's observer: products with the reciprocal scale"},
};

struct Case {
  json data;
  SafetensorsFile file;

  const json& params() const { return data.at("params"); }
  std::string family() const { return params().value("family", std::string("ist")); }
  bool flag(const char* key) const { return params().contains(key) && params().at(key).is_boolean() && params().at(key).get<bool>(); }
  bool symmetric() const { return flag("symmetric") || flag("sym"); }
  int bits() const { return params().at("bits"); }
  std::int64_t group() const { return params().contains("group") ? params().at("group") : params().at("group_size"); }
  /// On the device that is tested; stored() on the CPU, to compare with.
  at::Tensor tensor(const std::string& name) const { return test::on_device(file.tensor(name).clone()); }
  at::Tensor stored(const std::string& name) const { return file.tensor(name).clone(); }
  // Signed codes and zeros are stored unsigned here.
  double code_offset() const { return params().value("code", std::string()) == "signed" ? 1 << (bits() - 1) : 0; }
};

inline json load_cases() {
  std::ifstream in(test::golden_dir() / "algorithms" / "cases.json");
  return parse_json({std::istreambuf_iterator<char>(in), {}}, "cases.json");
}

// Every output of the case that `outputs` holds, under the case's tolerance; the others are listed as
// not compared in `ignored`.
inline void compare(const Case& c, const std::map<std::string, at::Tensor>& outputs, const json& fallback, const std::set<std::string>& ignored) {
  const auto lookup = [&](const std::string& name) { return c.stored(name); };
  for (const std::string name : c.data.at("outputs")) {
    if (ignored.count(name)) continue;
    ASSERT_TRUE(outputs.count(name)) << "no output '" << name << "'";
    at::Tensor expected = c.stored(name);
    if (name == "codes" || name == "zero") expected = expected.to(at::kDouble) + c.code_offset();
    EXPECT_TRUE(test::within(outputs.at(name), expected, test::tolerance_of(c.data.at("tolerance"), name, fallback), lookup)) << name;
  }
}

template <class Check>
void for_each_case(const std::string& algorithm, const Check& check) {
  const json cases = load_cases();
  int checked = 0;
  std::map<std::string, std::vector<std::string>> skipped;
  for (const json& data : cases.at("cases")) {
    if (data.at("algorithm") != algorithm) continue;
    const std::string name = data.at("name"), family = data.at("params").value("family", std::string());
    SCOPED_TRACE(name);
    auto reason = kLeftOut.find(family + ":" + algorithm);
    if (reason == kLeftOut.end()) reason = kLeftOut.find(family);
    if (reason != kLeftOut.end()) {
      skipped["left out: " + reason->second].push_back(name);
    } else {
      check(Case{data, SafetensorsFile::open(test::golden_dir() / "algorithms" / data.at("file").get<std::string>())},
            cases.at("default_tolerance"));
      ++checked;
    }
  }
  for (const auto& [reason, names] : skipped) {
    std::cout << "[  skipped ] " << reason << ":";
    for (const std::string& name : names) std::cout << " " << name;
    std::cout << "\n";
  }
  std::cout << "[  checked ] " << checked << " cases\n";
  EXPECT_GT(checked + static_cast<int>(skipped.size()), 0);
}

}  // namespace miq::quantizer::golden
