// miq bench: tokens a second, beside what the machine allows.
#include "miq/executor/bench.h"

#include "commands.h"
#include "miq/core/log.h"
#include "miq/core/text.h"

namespace miq::tools {

void add_bench_command(CLI::App& program) {
  struct Options {
    CommonOptions common;
    executor::BenchConfig config;
  };
  CLI::App* const app = program.add_subcommand("bench", "prefill and decode speed, time to first token and memory, beside what the machine allows");
  const auto options = std::make_shared<Options>();
  executor::BenchConfig& config = options->config;
  app->add_option("PATH,--model", config.model, "a checkpoint, plain or quantized, or a .gguf file")->required();
  app->add_option("--batch", config.batch, "sequences at once, for example 1,4")->delimiter(',')->check(CLI::Range(1, 4096));
  app->add_option("--context", config.context, "tokens of the prompt, for example 128,512")->delimiter(',')->check(CLI::Range(1, 1 << 20));
  app->add_option("--new-tokens", config.new_tokens, "decoded after each prompt")->check(CLI::Range(1, 1 << 20));
  app->add_option("--runs", config.runs, "of each; the best counts")->check(CLI::Range(1, 1000));
  app->add_option("--dtype", config.dtype, "auto, float32, bfloat16 or float16")->type_name("DTYPE");
  app->add_option("--device", config.device, "cpu, cuda, cuda:N or auto")->type_name("DEVICE");
  app->add_option("--architecture", config.architecture, "auto, a family's name, or a YAML description")->type_name("FAMILY");
  add_common(*app, options->common);
  add_examples(*app, {"miq bench MODEL", "miq bench MODEL --context 128,512 --batch 1,4 --new-tokens 32 --json"});
  app->callback([options] {
    set_verbosity(options->common.verbosity());
    const nlohmann::ordered_json measured = executor::bench_model(options->config);
    print(options->common.json ? to_text(measured) : executor::format_bench(measured));
  });
}

}  // namespace miq::tools
