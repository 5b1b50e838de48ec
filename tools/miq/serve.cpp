// miq serve: the model behind the OpenAI completions protocol.
#include "miq/executor/serve.h"

#include <csignal>

#include "commands.h"
#include "miq/core/device.h"
#include "miq/core/error.h"
#include "miq/core/hub_cache.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/executor/open_model.h"

namespace miq::tools {
namespace {

struct ServeCommand {
  CommonOptions common;
  std::string model, served_name, dtype = "auto", device = "auto", architecture = "auto", memory, chat = "auto", max_body = "4MiB";
  executor::ServeOptions options;
};

volatile std::sig_atomic_t interrupts = 0;
void count_interrupt(int) { interrupts = interrupts + 1; }

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

void run(ServeCommand command) {
  const c10::InferenceMode inference;
  set_verbosity(command.common.verbosity());
  executor::ServeOptions& options = command.options;
  const std::filesystem::path path = resolve_model_path(command.model);
  options.names = {command.served_name.empty() ? command.model : command.served_name};
  options.max_body = bytes_of(command.max_body, "--max-body");
  const at::Device device = parse_device(command.device);
  const auto tokenizer = dataset::load_tokenizer(path);
  model::LanguageModel model = executor::open_model(path, command.architecture, device);
  if (!command.memory.empty() && command.memory != "auto") model.set_memory_budget(bytes_of(command.memory, "--memory"));
  model.set_compute_dtype(model::resolve_compute_dtype(command.dtype, model.architecture(), device));
  if (command.chat != "auto") {
    options.chat = dataset::ChatKind{command.chat, ""};
    dataset::render_chat(*options.chat, {{"user", ""}}, true);  // an unknown name is an error now
  } else {
    try {
      options.chat = dataset::detect_chat_kind(path);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      options.no_chat = error.message();
    }
  }
  if (options.api_key.empty() && !is_loopback(options.host))
    log_warning("serving on " + options.host + " without --api-key: whoever reaches this address may use the model");
  std::signal(SIGINT, count_interrupt);
  std::signal(SIGTERM, count_interrupt);
  const bool is_ipv6 = options.host.find(':') != std::string::npos;
  const std::string host = is_ipv6 ? "[" + options.host + "]" : options.host;
  const auto listening = [&](int port) {
    const std::string url = "http://" + host + ":" + std::to_string(port);
    print(command.common.json ? to_text({{"listening", url}, {"model", options.names[0]}}) : "listening on " + url);
  };
  executor::serve(model, *tokenizer, options, listening, [] { return static_cast<int>(interrupts); });
}

}  // namespace

void add_serve_command(CLI::App& program) {
  CLI::App* const app = program.add_subcommand("serve", "answer the OpenAI completions protocol over HTTP");
  const auto command = std::make_shared<ServeCommand>();
  executor::ServeOptions& options = command->options;
  app->add_option("--model", command->model, "a Hugging Face folder, a .gguf file, or an id in the local cache")->required()->type_name("PATH");
  app->add_option("--host", options.host, "the address to listen on")->capture_default_str();
  app->add_option("--port", options.port, "0: a free one")->check(CLI::Range(0, 65535))->capture_default_str();
  app->add_option("--served-name", command->served_name, "what requests call the model; else PATH as it was given")->type_name("NAME");
  app->add_option("--api-key", options.api_key, "that requests must send as a bearer token")->envname("MIQ_API_KEY")->type_name("KEY");
  app->add_option("--max-queue", options.max_queue, "requests that wait or run; one more is answered 429")->check(CLI::Range(1, 512))->capture_default_str();
  app->add_option("--max-body", command->max_body, "of a request")->type_name("SIZE")->capture_default_str();
  app->add_option("--max-context", options.max_context, "tokens of prompt and completion; 0: what the model was trained on")->check(CLI::Range(0, 1 << 24));
  app->add_option("--timeout", options.timeout, "seconds that an answer may take")->check(CLI::Range(1e-3, 1e6))->capture_default_str();
  app->add_option("--chat", command->chat, "the chat template, where the checkpoint does not tell it")->type_name("KIND");
  app->add_option("--architecture", command->architecture, "auto, a family's name, or a YAML description")->type_name("FAMILY");
  app->add_option("--memory", command->memory, "what weights may take beside the page cache; more is read from the files for each token")->type_name("SIZE");
  app->add_option("--dtype", command->dtype, "auto, float32, bfloat16 or float16")->type_name("DTYPE");
  app->add_option("--device", command->device, "cpu, cuda, cuda:N or auto")->type_name("DEVICE");
  add_common(*app, command->common);
  add_examples(*app, {"miq serve --model MODEL --port 8000", "miq serve --model MODEL --port 0 --api-key SECRET --max-queue 16"});
  app->callback([command] { run(*command); });
}

}  // namespace miq::tools
