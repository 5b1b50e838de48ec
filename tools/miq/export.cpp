// miq export: a quantized checkpoint in another format.
#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/convert.h"

namespace miq::tools {

void add_export_command(CLI::App& program) {
  struct Options {
    CommonOptions common;
    executor::ConvertConfig config;
    std::string shard_size;
  };
  CLI::App* const app = program.add_subcommand("export", "write a quantized checkpoint in another format, where its codes allow that without loss");
  const auto options = std::make_shared<Options>();
  executor::ConvertConfig& config = options->config;
  app->add_option("--from,--model", config.from, "a quantized checkpoint of any format (for gguf and dequantized also a plain one)")->required()->type_name("PATH");
  app->add_option("--format", config.target.format, "see miq list formats")->required()->type_name("FORMAT");
  app->add_option("--output", config.output, "the folder to make")->required()->type_name("DIR");
  app->add_option("--variant", config.target.variant, "gptq: v1 or v2; gguf: a type or mix (q4_0, q4_k_m ...)")->type_name("VARIANT");
  app->add_option("--dtype", config.dtype, "of what is stored in plain numbers: auto (as it is), float32, bfloat16, float16")->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}));
  app->add_option("--shard-size", options->shard_size, "largest shard, for example 5GiB")->type_name("SIZE");
  app->add_option("--architecture", config.architecture, "auto, a family's name, or a YAML description")->type_name("FAMILY");
  add_common(*app, options->common);
  add_examples(*app, {"miq export --from runs/rtn/model --format compressed-tensors --output runs/ct", "miq export --from MODEL --format gguf --variant q8_0 --output runs/gguf"});
  app->callback([options] {
    set_verbosity(options->common.verbosity());
    if (!options->shard_size.empty()) options->config.target.shard_size = bytes_of(options->shard_size, "--shard-size");
    const nlohmann::ordered_json done = executor::convert_checkpoint(options->config);
    if (options->common.json) return print(to_text(done));
    std::string text = done["output"].get<std::string>() + ": " + std::to_string(done["linears"].get<std::int64_t>()) + " quantized linears, " +
                       done["from"].get<std::string>() + " -> " + done["format"].get<std::string>() + ", " + format_bytes(done["bytes"].get<std::int64_t>());
    for (const auto& warning : done["warnings"]) text += "\nnote: " + warning.get<std::string>();
    print(text);
  });
}

}  // namespace miq::tools
