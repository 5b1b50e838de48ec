// miq verify: whether an export is what was written, and how far it is from the original.
#include "miq/executor/verify.h"

#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/text.h"

namespace miq::tools {
namespace {

std::string format_verification(const nlohmann::ordered_json& found) {
  const auto& manifest = found["manifest"];
  char line[256];
  std::string text = manifest.is_null() ? "manifest   none: not compared with what was written\n"
                                        : "manifest   " + std::to_string(manifest["tensors"].get<std::int64_t>()) + " tensors compared, " + std::to_string(manifest["different"].get<std::int64_t>()) + " differ\n";
  text += "linears    " + std::to_string(found["linears"]["decoded"].get<std::int64_t>()) + " decoded (" + found["linears"]["format"].get<std::string>() + ")\n";
  const auto& generated = found["generated"];
  text += "generated  " + (generated.contains("text") ? printable(generated["text"].get<std::string>()) : generated["ids"].dump()) + "\n";
  if (const auto& against = found["against"]; !against.is_null()) {
    std::snprintf(line, sizeof line, "original   KL %.3e, the same first choice at %.2f %% of %lld tokens\n", against["kl"].get<double>(), 100 * against["top1_agreement"].get<double>(),
                  static_cast<long long>(against["tokens"].get<std::int64_t>()));
    text += line;
  }
  for (const auto& problem : found["problems"]) text += "problem    " + problem.get<std::string>() + "\n";
  return text + (found["problems"].empty() ? "all is well" : "");
}

}  // namespace

void add_verify_command(CLI::App& program) {
  struct Options {
    CommonOptions common;
    executor::VerifyConfig config;
  };
  CLI::App* const app = program.add_subcommand("verify", "compare an export with what was written, run it, and measure how far it is from the original");
  const auto options = std::make_shared<Options>();
  executor::VerifyConfig& config = options->config;
  app->add_option("PATH", config.path, "the export: a folder, or a .gguf file")->required();
  app->add_option("--against", config.against, "the original")->type_name("PATH");
  app->add_option("--text", config.text, "a file whose text both are compared on")->type_name("FILE");
  app->add_option("--tokens", config.tokens, "of the comparison, at most")->check(CLI::Range(2, 1 << 20));
  app->add_option("--write-logits", config.logits, "a safetensors file: ids, logits, and logits_fp32 without quantized inputs")->type_name("FILE");
  app->add_option("--kl-max", config.kl_max, "a larger mean KL divergence is a failure")->check(CLI::NonNegativeNumber);
  app->add_option("--agreement-min", config.agreement_min, "a smaller share of equal first choices is a failure")->check(CLI::Range(0.0, 1.0));
  app->add_option("--architecture", config.architecture, "auto, a family's name, or a YAML description")->type_name("FAMILY");
  add_common(*app, options->common);
  add_examples(*app, {"miq verify runs/rtn/model", "miq verify runs/rtn/model --against MODEL --kl-max 5 --agreement-min 0.01"});
  app->callback([options] {
    set_verbosity(options->common.verbosity());
    const nlohmann::ordered_json found = executor::verify_export(options->config);
    print(options->common.json ? to_text(found) : format_verification(found));
    if (!found["problems"].empty())
      throw Error(ErrorKind::numeric, std::to_string(found["problems"].size()) + " problems; the first: " + found["problems"][0].get<std::string>(), options->config.path, "export it again, or look at the recipe");
  });
}

}  // namespace miq::tools
