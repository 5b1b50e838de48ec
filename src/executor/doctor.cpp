#include "miq/executor/doctor.h"

#include <c10/core/InferenceMode.h>

#include "doctor_checks.h"
#include "miq/core/error.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

// What a part throws is what it found.
template <class Part>
void add(Json& all, const std::string& area, Part part) {
  try {
    for (Json& check : part()) all.push_back(std::move(check));
  } catch (const Error& error) {
    all.push_back(make_check(area, "problem", error.message() + (error.where().empty() ? "" : " (" + error.where() + ")"), error.fix()));
  } catch (const std::exception& error) {
    const std::string text = error.what();
    all.push_back(make_check(area, "problem", text.substr(0, text.find('\n'))));
  }
}

}  // namespace

Json make_check(const std::string& area, const std::string& status, const std::string& text, const std::string& fix, Json facts) {
  Json check = {{"area", area}, {"status", status}, {"text", text}};
  if (!fix.empty()) check["fix"] = fix;
  check.update(facts);
  return check;
}

Json diagnose(const DoctorConfig& config) {
  const c10::InferenceMode inference;
  Json checks = Json::array();
  add(checks, "libtorch", check_libtorch);
  add(checks, "cpu", check_cpu);
  add(checks, "gpu", check_gpus);
  add(checks, "memory", check_memory);
  add(checks, "disk", [&] { return check_disk(config); });
  add(checks, "data", [&] { return check_data(config); });
  if (!config.model.empty()) add(checks, "model", [&] { return check_model(config); });
  add(checks, "self-test", check_arithmetic);
  const bool ok = std::none_of(checks.begin(), checks.end(), [](const Json& check) { return check["status"] == "problem"; });
  return {{"ok", ok}, {"checks", checks}};
}

std::string format_diagnosis(const Json& diagnosis) {
  std::string text, last;
  size_t notes = 0, problems = 0;
  for (const Json& check : diagnosis.at("checks")) {
    const std::string area = check.at("area"), status = check.at("status");
    notes += status == "note";
    problems += status == "problem";
    const std::string shown = area == last ? "" : area;
    last = area;
    text += shown + std::string(shown.size() < 11 ? 11 - shown.size() : 1, ' ') + status + std::string(status.size() < 9 ? 9 - status.size() : 1, ' ') + check.at("text").get<std::string>() + "\n";
    if (check.contains("fix")) text += std::string(20, ' ') + "-> " + check.at("fix").get<std::string>() + "\n";
  }
  const auto count = [](size_t number, const std::string& what) { return std::to_string(number) + " " + what + (number == 1 ? "" : "s"); };
  return text + "\n" + (problems > 0 ? count(problems, "problem") : std::string("ready for work")) + ", " + count(notes, "note");
}

}  // namespace miq::executor
