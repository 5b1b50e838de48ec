// miq completion: what a shell may offer, from the commands and options themselves.
#include <sstream>

#include "commands.h"
#include "miq/core/error.h"
#include "miq/dataset/chat.h"
#include "miq/dataset/corpus.h"
#include "miq/dataset/task.h"
#include "miq/format/format.h"
#include "miq/format/gguf.h"
#include "miq/model/architecture.h"
#include "miq/quantizer/recipe.h"

namespace miq::tools {
namespace {

using Words = std::vector<std::string>;

// Every key with a '=', and with its values where there are names for them.
Words assignments() {
  Words words;
  const nlohmann::ordered_json defaults = executor::to_json(executor::read_job_config(ConfigSource::empty()));
  const nlohmann::ordered_json flat = defaults.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    std::string key = pointer.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    if (key.find("recipe.rules") != 0) words.push_back(key + "=");
  }
  for (const quantizer::PresetInfo& info : quantizer::presets()) words.push_back("recipe.preset=" + std::string(info.name));
  for (const std::string& format : format::export_names()) words.push_back("export.format=" + format);
  for (const std::string& corpus : dataset::corpus_names()) words.push_back("calibration.dataset=" + corpus);
  return words;
}

Words variants() {
  Words words = format::gguf_variants();
  for (const format::Format* format : format::formats()) words.insert(words.end(), format->variants.begin(), format->variants.end());
  return words;
}

Words tasks() {
  Words words = dataset::task_names();
  for (const std::string& suite : dataset::suite_names())
    if (std::find(words.begin(), words.end(), suite) == words.end()) words.push_back(suite);
  return words;
}

Words with_auto(Words words) {
  words.insert(words.begin(), "auto");
  return words;
}

// What stands for a value of an option's type; of no other type there are words.
Words words_of_type(const std::string& type) {
  if (type == "DEVICE") return {"auto", "cpu", "cuda"};
  if (type == "DTYPE") return {"auto", "float32", "bfloat16", "float16"};
  if (type == "FORMAT") return format::export_names();
  if (type == "VARIANT") return variants();
  if (type == "FAMILY") return with_auto(model::family_names());
  if (type == "KIND") return with_auto(dataset::chat_kinds());
  if (type == "TASKS") return tasks();
  if (type == "KEY=VALUE") return assignments();
  return {};
}

struct Value {
  bool taken = false;             ///< the option takes one
  bool files = false, folders = false, list = false;
  Words words;
  std::string type;
};

struct Option {
  Words names;                    ///< "--config", "-v"; empty: stands by its place
  std::string description;
  Value value;
  bool repeats = false;
};

struct Command {
  std::string path, name, description;  ///< path: "miq list tasks"
  std::vector<Option> options;
  std::vector<Command> commands;
  std::optional<Value> positional;
};

// "TEXT:{auto,float32}": the choices of a checked option are the end of its type's name.
Value value_of(const CLI::Option& option) {
  Value value;
  value.taken = option.get_items_expected_max() > 0;
  value.type = option.get_type_name();
  value.list = option.get_delimiter() != '\0';
  if (const size_t open = value.type.find('{'); open != std::string::npos) {
    std::istringstream list(value.type.substr(open + 1, value.type.find('}', open) - open - 1));
    for (std::string word; std::getline(list, word, ',');) value.words.push_back(word);
    return value;
  }
  value.type = value.type.substr(0, value.type.find(':'));
  const std::string place = option.get_positional() ? option.get_name(/*positional=*/true) : "";
  value.files = value.type == "FILE" || value.type == "PATH" || place == "FILE" || place == "PATH";
  value.folders = value.type == "DIR";
  value.words = words_of_type(value.type);
  return value;
}

Command read(CLI::App& app, const std::string& before) {
  Command command{before + app.get_name(), app.get_name(), app.get_description(), {}, {}, {}};
  for (const CLI::Option* option : app.get_options()) {
    Option read{{}, option->get_description(), value_of(*option), option->get_items_expected_max() > 1 || option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll};
    for (const std::string& name : option->get_snames()) read.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) read.names.push_back("--" + name);
    if (option->get_positional()) command.positional = read.value;
    if (!read.names.empty()) command.options.push_back(std::move(read));
  }
  for (CLI::App* child : app.get_subcommands([](CLI::App*) { return true; })) command.commands.push_back(read(*child, command.path + " "));
  return command;
}

template <class See>
void for_each(const Command& command, const See& see) {
  see(command);
  for (const Command& child : command.commands) for_each(child, see);
}

std::string joined(const Words& words, const std::string& between = " ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}
std::string quoted(const std::string& text) { return "'" + replaced(text, "'", "'\\''") + "'"; }

Words names_of(const std::vector<Command>& commands) {
  Words names;
  for (const Command& command : commands) names.push_back(command.name);
  return names;
}

// What a value may be, as assignments of the script's variables.
std::string bash_value(const Value& value) {
  std::string text = value.files ? "kind=file" : value.folders ? "kind=dir" : "kind=words";
  if (!value.words.empty()) text += "; words=" + quoted(joined(value.words));
  return value.list ? text + "; list=1" : text;
}

std::string bash(const Command& root) {
  std::string commands, values;
  for_each(root, [&](const Command& command) {
    Words options;
    for (const Option& option : command.options) {
      options.insert(options.end(), option.names.begin(), option.names.end());
      if (!option.value.taken) continue;
      Words cases;
      for (const std::string& name : option.names) cases.push_back(quoted(command.path + " " + name));
      values += "    " + joined(cases, "|") + ") " + bash_value(option.value) + " ;;\n";
    }
    commands += "    " + quoted(command.path) + ") commands=" + quoted(joined(names_of(command.commands))) + "; options=" + quoted(joined(options)) + (command.positional ? "; " + bash_value(*command.positional) : "") + " ;;\n";
  });
  return R"(# bash completion of miq, made by: miq completion bash
_miq_command() {
  case "$1" in
)" + commands + R"(    *) return 1 ;;
  esac
}
_miq_value() {
  case "$1" in
)" + values + R"(    *) return 1 ;;
  esac
}
_miq() {
  local line="${COMP_LINE:0:COMP_POINT}" path=miq commands= options= kind= words= list= word head=
  local cur="${line##*[[:space:]]}"
  local -a before
  read -ra before <<<"${line%"$cur"}"
  for word in "${before[@]:1}"; do
    _miq_command "$path $word" && path+=" $word"
  done
  kind= words= list=
  _miq_command "$path"
  local last="${before[${#before[@]} - 1]}"
  if [[ $cur == --*=* ]]; then
    last="${cur%%=*}" head="${cur%%=*}="
    cur="${cur#*=}"
  fi
  local own="$kind;$words;$list"
  if [[ $last == -* ]] && _miq_value "$path $last"; then
    :
  elif [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    return
  else
    words+=" $commands"
  fi
  if [[ -n $list && $cur == *,* ]]; then
    head+="${cur%,*},"
    cur="${cur##*,}"
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
  case "$kind" in
    file) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames ;;
    dir) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames ;;
  esac
  [[ ${#COMPREPLY[@]} -gt 0 && (${COMPREPLY[0]} == *= || -n $list) ]] && compopt -o nospace
  # Readline replaces only what stands behind the last of its own breaks.
  word="$head$cur"
  local break="${word%"${word##*[=:]}"}"
  [[ $COMP_WORDBREAKS == *=* && $COMP_WORDBREAKS == *:* ]] || break=
  local i
  for i in "${!COMPREPLY[@]}"; do
    word="$head${COMPREPLY[i]}"
    COMPREPLY[i]="${word#"$break"}"
  done
}
complete -F _miq miq
)";
}

std::string zsh_escaped(const std::string& text) { return replaced(replaced(replaced(replaced(text, "\\", "\\\\"), "[", "\\["), "]", "\\]"), ":", "\\:"); }

std::string zsh_action(const Value& value) {
  if (value.files && value.words.empty()) return "_files";
  if (value.folders) return "_files -/";
  if (value.words.empty()) return " ";
  const Words words = [&] {
    Words escaped;
    for (const std::string& word : value.words) escaped.push_back(zsh_escaped(word));
    return escaped;
  }();
  return value.list ? "_sequence compadd - " + joined(words) : "(" + joined(words) + ")";
}

std::string zsh_function(const Command& command) { return "_" + replaced(replaced(command.path, " ", "_"), "-", "_"); }

std::string zsh(const Command& root) {
  std::string text = "#compdef miq\n# zsh completion of miq, made by: miq completion zsh\n";
  for_each(root, [&](const Command& command) {
    text += zsh_function(command) + "() {\n";
    if (!command.commands.empty()) text += "  local context state state_descr line\n  typeset -A opt_args\n";
    text += "  _arguments -C";
    for (const Option& option : command.options)
      for (const std::string& name : option.names)
        text += " \\\n    " + quoted((option.repeats ? "*" : "") + name + "[" + zsh_escaped(option.description) + "]" + (option.value.taken ? ":" + zsh_escaped(option.value.type) + ":" + zsh_action(option.value) : ""));
    if (command.positional) text += " \\\n    " + quoted("*:" + zsh_escaped(command.positional->type) + ":" + zsh_action(*command.positional));
    if (command.commands.empty()) {
      text += "\n}\n";
      return;
    }
    text += " \\\n    '1: :->command' \\\n    '*::argument:->argument'\n  case \"$state\" in\n    command)\n      local -a commands=(\n";
    for (const Command& child : command.commands) text += "        " + quoted(child.name + ":" + zsh_escaped(child.description)) + "\n";
    text += "      )\n      _describe command commands ;;\n    argument)\n      case \"$line[1]\" in\n";
    for (const Command& child : command.commands) text += "        " + child.name + ") " + zsh_function(child) + " ;;\n";
    text += "      esac ;;\n  esac\n}\n";
  });
  return text + "if [[ $funcstack[1] == _miq ]]; then\n  _miq \"$@\"\nelse\n  compdef _miq miq\nfi\n";
}

std::string fish(const Command& root) {
  std::string paths, text;
  for_each(root, [&](const Command& command) {
    if (&command != &root) paths += "      case " + quoted(command.path) + "\n        set path $next\n";
    const std::string start = "complete -c miq -n " + quoted("__miq_at " + quoted(command.path));
    const auto value = [](const Value& v) {
      std::string out = v.folders ? " -x -a '(__fish_complete_directories)'" : v.files ? " -r -F" : " -x";
      if (!v.words.empty()) out += " -a " + quoted(v.list ? "(__fish_append , " + joined(v.words) + ")" : joined(v.words));
      return out;
    };
    for (const Command& child : command.commands) text += start + " -f -a " + child.name + " -d " + quoted(child.description) + "\n";
    for (const Option& option : command.options) {
      text += start;
      for (const std::string& name : option.names) text += name[1] == '-' ? " -l " + name.substr(2) : " -s " + name.substr(1);
      text += (option.value.taken ? value(option.value) : "") + " -d " + quoted(option.description) + "\n";
    }
    if (!command.positional || !command.positional->files) text += start + " -f\n";
    if (command.positional && !command.positional->words.empty()) text += start + " -a " + quoted(joined(command.positional->words)) + "\n";
  });
  return "# fish completion of miq, made by: miq completion fish\nfunction __miq_at\n  set -l path miq\n  set -l words (commandline -opc)\n  for word in $words[2..-1]\n    set -l next \"$path $word\"\n    switch $next\n" + paths +
         "    end\n  end\n  test \"$path\" = \"$argv[1]\"\nend\n" + text;
}

void add_shell(CLI::App& completion, const std::string& shell, const std::string& install, std::string (*script)(const Command&), CLI::App& program) {
  CLI::App* const command = completion.add_subcommand(shell, "the script for " + shell);
  const std::string example = "miq completion " + shell + " > " + install;
  add_examples(*command, {example});
  command->callback([script, &program] { print(script(read(program, ""))); });
}

}  // namespace

void add_completion_command(CLI::App& program) {
  CLI::App* const completion = program.add_subcommand("completion", "print a script that lets a shell complete commands, options and names");
  completion->require_subcommand(1);
  add_shell(*completion, "bash", "~/.local/share/bash-completion/completions/miq", bash, program);
  add_shell(*completion, "zsh", "~/.zfunc/_miq", zsh, program);
  add_shell(*completion, "fish", "~/.config/fish/completions/miq.fish", fish, program);
  add_examples(*completion, {"miq completion bash > ~/.local/share/bash-completion/completions/miq"});
}

}  // namespace miq::tools
