// miq generate: continue a prompt, or answer it as a chat model does.
#include "miq/model/generate.h"

#include "commands.h"
#include "miq/core/device.h"
#include "miq/core/error.h"
#include "miq/core/hub_cache.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/dataset/chat.h"
#include "miq/dataset/tokenizer.h"
#include "miq/executor/open_model.h"

namespace miq::tools {
namespace {

struct GenerateCommand {
  CommonOptions common;
  std::string model, prompt, dtype = "auto", device = "auto", architecture = "auto", memory;
  std::string chat;  // a kind, "auto", or "": the prompt is a text to continue
  std::string system;
  bool has_system = false;
  model::GenerateOptions options;
};

// The part of `text` behind `shown` that later tokens cannot change: not an unfinished character.
std::string settled_tail(const std::string& text, size_t shown) {
  static const std::string kReplacement = "\xEF\xBF\xBD";
  std::string tail = text.substr(std::min(shown, text.size()));
  while (tail.size() >= 3 && tail.compare(tail.size() - 3, 3, kReplacement) == 0) tail.resize(tail.size() - 3);
  return tail;
}

// The ids to continue; with a chat template also the tokens that end the answer.
std::vector<std::int64_t> encode_prompt(const GenerateCommand& command, const dataset::Tokenizer& tokenizer,
                                        model::GenerateOptions& options) {
  if (command.chat.empty()) {
    if (command.has_system) throw Error(ErrorKind::config, "--system is of chats alone", "", "add --chat");
    return tokenizer.encode(command.prompt, /*special=*/true);
  }
  const dataset::ChatKind kind =
      command.chat == "auto" ? dataset::detect_chat_kind(command.model) : dataset::ChatKind{command.chat, ""};
  std::vector<dataset::ChatMessage> messages;
  if (command.has_system) messages.push_back({"system", command.system});
  messages.push_back({"user", command.prompt});
  if (options.stop_at_eos) options.stop_ids = dataset::chat_stop_ids(tokenizer, kind);
  return dataset::encode_chat(tokenizer, kind, messages, /*add_generation_prompt=*/true);
}

void run(GenerateCommand command) {
  const c10::InferenceMode inference;
  command.model = resolve_model_path(command.model).string();
  set_verbosity(command.common.verbosity());
  const at::Device device = parse_device(command.device);
  const auto tokenizer = dataset::load_tokenizer(command.model);
  model::LanguageModel model = executor::open_model(command.model, command.architecture, device);
  if (!command.memory.empty() && command.memory != "auto") model.set_memory_budget(bytes_of(command.memory, "--memory"));
  model.set_compute_dtype(model::resolve_compute_dtype(command.dtype, model.architecture(), device));
  model::GenerateOptions options = command.options;
  const std::vector<std::int64_t> prompt = encode_prompt(command, *tokenizer, options);
  // Text is decoded from the prompt on, so that a space between both is kept.
  std::vector<std::int64_t> ids = prompt;
  size_t shown = tokenizer->decode(prompt, /*skip_special=*/true).size();
  const size_t prompt_end = shown;
  const auto stream = [&](std::int64_t id) {
    ids.push_back(id);
    if (command.common.json) return;
    const std::string tail = settled_tail(tokenizer->decode(ids, true), shown);
    shown += tail.size();
    std::fwrite(tail.data(), 1, tail.size(), stdout);
    std::fflush(stdout);
  };
  const std::vector<std::int64_t> generated = model::generate(model, prompt, options, stream);
  const std::string text =
      tokenizer->decode(ids, true).substr(std::min(prompt_end, tokenizer->decode(ids, true).size()));
  if (command.common.json)
    print(to_text({{"prompt_ids", prompt}, {"ids", generated}, {"text", text}}));
  else
    print(prompt_end + text.size() > shown ? text.substr(shown - prompt_end) : "");
}

}  // namespace

void add_generate_command(CLI::App& program) {
  CLI::App* const app = program.add_subcommand("generate", "continue a prompt");
  const auto command = std::make_shared<GenerateCommand>();
  app->add_option("--model", command->model, "a Hugging Face folder, a .gguf file, or an id in the local cache")->required()->type_name("PATH");
  app->add_option("--prompt", command->prompt, "the text to continue")->required()->type_name("TEXT");
  app->add_option("--chat", command->chat,
                  "answer the prompt as a chat; KIND where the checkpoint does not tell its template")
      ->expected(0, 1)
      ->default_str("auto")
      ->type_name("KIND");
  CLI::Option* const system =
      app->add_option("--system", command->system, "the system message of a chat")->type_name("TEXT");
  app->add_option("--max-new-tokens", command->options.max_new_tokens, "tokens at most")->check(CLI::Range(1, 1 << 24));
  app->add_option("--temperature", command->options.temperature, "0: greedy")->check(CLI::Range(0.0, 100.0));
  app->add_option("--top-k", command->options.top_k, "sample from so many; 0: all")->check(CLI::NonNegativeNumber);
  app->add_option("--top-p", command->options.top_p, "sample from this share of the mass")->check(CLI::Range(0.0, 1.0));
  app->add_option("--seed", command->options.seed, "of the sampling");
  app->add_option("--architecture", command->architecture, "auto, a family's name, or a YAML description")->type_name("FAMILY");
  app->add_option("--memory", command->memory, "what weights may take beside the page cache; more is read from the files for each token")->type_name("SIZE");
  app->add_option("--dtype", command->dtype, "auto, float32, bfloat16 or float16")->type_name("DTYPE");
  app->add_option("--device", command->device, "cpu, cuda, cuda:N or auto")->type_name("DEVICE");
  app->add_flag("!--ignore-eos", command->options.stop_at_eos, "go on behind the end-of-sequence token");
  add_common(*app, command->common);
  add_examples(*app, {"miq generate --model MODEL --prompt 'Once upon a time' --max-new-tokens 64", "miq generate --model MODEL --prompt 'Name three colours:' --temperature 0.7 --top-p 0.9 --seed 1"});
  app->callback([command, system] {
    command->has_system = system->count() > 0;
    run(*command);
  });
}

}  // namespace miq::tools
