#include "serve_protocol.h"

#include <cmath>

#include "miq/core/error.h"
#include "miq/core/text.h"

namespace miq::executor {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxPrompts = 1024, kMaxStops = 64, kMaxStopBytes = 1024, kMaxLogprobs = 20, kMaxChoices = 128;
constexpr std::int64_t kMaxLogprobEntries = 1 << 20;  // what an answer may hold: more would be hundreds of megabytes of JSON

[[noreturn]] void refuse(const std::string& field, const std::string& what) { throw RequestError(400, "'" + field + "' " + what, field); }

// A request's fields. Each is asked for by name; what was not asked for at the end is unknown.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  /// The field, or null where it is absent or null.
  const Json* find(const std::string& name) {
    known_.push_back(name);
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  bool flag(const std::string& name, bool otherwise = false) {
    const Json* const value = find(name);
    if (!value) return otherwise;
    if (!value->is_boolean()) refuse(name, "must be true or false, not " + kind(*value));
    return value->get<bool>();
  }
  std::optional<std::int64_t> integer(const std::string& name, std::int64_t least, std::int64_t most) {
    const Json* const value = find(name);
    if (!value) return std::nullopt;
    if (!value->is_number_integer()) refuse(name, "must be a whole number, not " + kind(*value));
    const bool too_large = value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(most);
    if (too_large || value->get<std::int64_t>() < least || value->get<std::int64_t>() > most)
      refuse(name, "is " + value->dump() + ", not between " + std::to_string(least) + " and " + std::to_string(most));
    return value->get<std::int64_t>();
  }
  double number(const std::string& name, double least, double most, double otherwise) {
    const Json* const value = find(name);
    if (!value) return otherwise;
    if (!value->is_number()) refuse(name, "must be a number, not " + kind(*value));
    const double number = value->get<double>();
    if (!(number >= least && number <= most)) refuse(name, "is " + value->dump() + ", not between " + Json(least).dump() + " and " + Json(most).dump());
    return number;
  }
  std::string text(const std::string& name, const std::string& otherwise) {
    const Json* const value = find(name);
    if (!value) return otherwise;
    if (!value->is_string()) refuse(name, "must be a string, not " + kind(*value));
    return value->get<std::string>();
  }
  /// Fields that may only say what is done anyway.
  void only(const std::string& name, const std::vector<Json>& allowed, const std::string& why) {
    const Json* const value = find(name);
    if (value && std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) refuse(name, why);
  }
  void ignore(const std::vector<std::string>& names) { known_.insert(known_.end(), names.begin(), names.end()); }
  void refuse_unknown() const {
    for (const auto& [name, value] : object_.items())
      if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
        const std::string near = nearest_name(name, known_);
        throw RequestError(400, "unknown field '" + name + "'" + (near.empty() ? "" : "; did you mean '" + near + "'?"), name);
      }
  }
  static std::string kind(const Json& value) {
    if (value.is_number_float()) return "a number with a fraction";
    if (value.is_number_integer()) return "a number";
    if (value.is_boolean()) return "true or false";
    return value.is_string() ? "a string" : value.is_array() ? "a list" : value.is_object() ? "an object" : "null";
  }

 private:
  const Json& object_;
  std::vector<std::string> known_;
};

Json parse_object(const std::string& body) {
  Json parsed;
  try {
    parsed = parse_json(body, "the body");
  } catch (const Error& error) {
    throw RequestError(400, "the body is " + error.message());
  }
  if (!parsed.is_object()) throw RequestError(400, "the body must be a JSON object, not " + Fields::kind(parsed));
  return parsed;
}

void check_name(Fields& fields, const ServedModel& model) {
  const std::string name = fields.text("model", model.names[0]);
  if (std::find(model.names.begin(), model.names.end(), name) == model.names.end())
    throw RequestError(404, "the model '" + name + "' is not served here; '" + model.names[0] + "' is", "model", "model_not_found");
}

Prompt text_prompt(const std::string& text, bool special, const dataset::Tokenizer& tokenizer) {
  Prompt prompt;
  prompt.text = text;
  try {
    prompt.ids = special ? evaluator::encode_context(tokenizer, text) : tokenizer.encode(text, false);
  } catch (const Error& error) {
    throw RequestError(400, "the prompt cannot be encoded: " + error.message(), "prompt");
  }
  // What the tokenizer put in front of the text is no part of it.
  for (; prompt.unseen < static_cast<std::int64_t>(prompt.ids.size()); ++prompt.unseen) {
    const std::vector<std::int64_t> one = {prompt.ids[static_cast<size_t>(prompt.unseen)]};
    const std::string name = tokenizer.decode(one, /*skip_special=*/false);
    if (!special || !tokenizer.decode(one, /*skip_special=*/true).empty() || name.empty() || text.compare(0, name.size(), name) == 0) break;
  }
  if (prompt.ids.empty()) {  // as lm-evaluation-harness begins an empty context
    const auto begin = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id();
    if (!begin) throw RequestError(400, "the prompt is empty and the model has no token to begin with", "prompt");
    prompt.ids = {*begin};
    prompt.unseen = 1;
  }
  return prompt;
}

Prompt ids_prompt(const Json& list, const std::string& where, const ServedModel& model) {
  Prompt prompt;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string place = where + "[" + std::to_string(i) + "]";
    if (!list[i].is_number_integer()) throw RequestError(400, place + " must be a token id, not " + Fields::kind(list[i]), "prompt");
    if (list[i] < 0 || list[i] >= model.vocab_size)
      throw RequestError(400, place + " is " + list[i].dump() + "; the vocabulary has the ids 0 to " + std::to_string(model.vocab_size - 1), "prompt");
    prompt.ids.push_back(list[i].get<std::int64_t>());
  }
  if (prompt.ids.empty()) throw RequestError(400, where + " has no token ids", "prompt");
  prompt.text = model.tokenizer->decode(prompt.ids, /*skip_special=*/false);
  return prompt;
}

std::vector<Prompt> read_prompts(Fields& fields, const ServedModel& model) {
  const bool special = fields.flag("add_special_tokens", true);
  const Json* const value = fields.find("prompt");
  if (!value) refuse("prompt", "is missing: a string, a list of strings, a list of token ids, or a list of such lists");
  if (value->is_string()) return {text_prompt(value->get<std::string>(), special, *model.tokenizer)};
  if (!value->is_array()) refuse("prompt", "must be a string or a list, not " + Fields::kind(*value));
  if (value->empty()) refuse("prompt", "is an empty list");
  if (!value->front().is_string() && !value->front().is_array()) return {ids_prompt(*value, "prompt", model)};
  if (static_cast<std::int64_t>(value->size()) > kMaxPrompts) refuse("prompt", "has " + std::to_string(value->size()) + " entries, more than " + std::to_string(kMaxPrompts));
  std::vector<Prompt> prompts;
  for (size_t i = 0; i < value->size(); ++i) {
    const std::string place = "prompt[" + std::to_string(i) + "]";
    const Json& entry = (*value)[i];
    if (entry.type() != value->front().type()) throw RequestError(400, place + " is " + Fields::kind(entry) + ", the first entry is not", "prompt");
    prompts.push_back(entry.is_string() ? text_prompt(entry.get<std::string>(), special, *model.tokenizer) : ids_prompt(entry, place, model));
  }
  return prompts;
}

void read_stops(Fields& fields, const ServedModel& model, CompletionRequest& request) {
  const Json* const value = fields.find("stop");
  if (!value) return;
  if (!value->is_string() && !value->is_array()) refuse("stop", "must be a string or a list of strings, not " + Fields::kind(*value));
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (static_cast<std::int64_t>(list.size()) > kMaxStops) refuse("stop", "has " + std::to_string(list.size()) + " entries, more than " + std::to_string(kMaxStops));
  for (const Json& entry : list) {
    if (!entry.is_string()) refuse("stop", "must hold strings, not " + Fields::kind(entry));
    const std::string stop = entry.get<std::string>();
    if (stop.empty()) refuse("stop", "holds an empty string");
    if (static_cast<std::int64_t>(stop.size()) > kMaxStopBytes) refuse("stop", "holds a string of more than " + std::to_string(kMaxStopBytes) + " bytes");
    // The text of a special token never stands in the answer: the token itself ends it.
    if (const auto id = model.tokenizer->special_id(stop)) request.stop_ids.push_back(*id);
    request.stops.push_back(stop);
  }
}

void read_sampling(Fields& fields, CompletionRequest& request) {
  request.n = fields.integer("n", 1, kMaxChoices).value_or(1);
  request.temperature = fields.number("temperature", 0, 2, 1);
  request.top_p = fields.number("top_p", 0, 1, 1);
  request.top_k = std::max<std::int64_t>(fields.integer("top_k", -1, 1 << 30).value_or(0), 0);
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) request.seed = static_cast<std::uint64_t>(*seed);
  if (const Json* const sampled = fields.find("do_sample"); sampled && !fields.flag("do_sample")) request.temperature = 0;
  request.ignore_eos = fields.flag("ignore_eos");
  request.stream = fields.flag("stream");
  if (const Json* const options = fields.find("stream_options")) {
    if (!options->is_object()) refuse("stream_options", "must be an object, not " + Fields::kind(*options));
    Fields inner(*options);
    request.include_usage = inner.flag("include_usage");
    inner.ignore({"include_obfuscation"});
    inner.refuse_unknown();
  }
  const std::string unsupported = "is not supported: only its neutral value is taken";
  for (const char* name : {"presence_penalty", "frequency_penalty"}) fields.only(name, {0}, unsupported);
  fields.only("num_beams", {1}, unsupported);
  fields.only("logit_bias", {Json::object()}, unsupported);
  fields.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"});
}

// Prompt and completion together within the context; the answer within what one may hold.
void check_lengths(CompletionRequest& request, const ServedModel& model, std::optional<std::int64_t> max_tokens, const std::string& field) {
  std::int64_t entries = 0;
  if (request.choices() > kMaxPrompts) throw RequestError(400, "'n' times the prompts are " + std::to_string(request.choices()) + " choices, more than " + std::to_string(kMaxPrompts), "n");
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(request.prompts[i].ids.size());
    const std::int64_t wanted = max_tokens.value_or(request.chat ? 1 : std::min<std::int64_t>(request.max_tokens, std::max<std::int64_t>(model.max_context - length, 1)));
    if (length > model.max_context || wanted > model.max_context - length)
      throw RequestError(400, "the model's context is " + std::to_string(model.max_context) + " tokens; " + (request.prompts.size() > 1 ? "prompt[" + std::to_string(i) + "]" : "the prompt") +
                                  " has " + std::to_string(length) + " and " + std::to_string(wanted) + " more are asked for",
                         field, "context_length_exceeded");
  }
  std::int64_t longest = 0;
  for (const Prompt& prompt : request.prompts) longest = std::max(longest, static_cast<std::int64_t>(prompt.ids.size()));
  request.max_tokens = max_tokens.value_or(request.chat ? model.max_context - longest : std::min(request.max_tokens, model.max_context - longest));
  if (request.logprobs < 0) return;
  for (const Prompt& prompt : request.prompts)
    entries += request.n * (request.max_tokens + (request.echo ? static_cast<std::int64_t>(prompt.ids.size()) : 0)) * (request.logprobs + 1);
  if (entries > kMaxLogprobEntries)
    throw RequestError(400, "the answer could hold " + std::to_string(entries) + " log-probabilities, more than " + std::to_string(kMaxLogprobEntries) + ": ask for fewer prompts or alternatives, or for a lower max_tokens", "logprobs");
}

std::string message_text(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) throw RequestError(400, where + " must be a string or a list of text parts, not " + Fields::kind(content), "messages");
  std::string text;
  for (const Json& part : content) {
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.value("text", Json()).is_string())
      throw RequestError(400, where + " has a part that is not {\"type\": \"text\", \"text\": ...}: only text is understood", "messages");
    text += part["text"].get<std::string>();
  }
  return text;
}

std::vector<dataset::ChatMessage> read_messages(Fields& fields) {
  const Json* const value = fields.find("messages");
  if (!value) refuse("messages", "is missing");
  if (!value->is_array() || value->empty()) refuse("messages", "must be a list with at least one message");
  std::vector<dataset::ChatMessage> messages;
  for (size_t i = 0; i < value->size(); ++i) {
    const std::string where = "messages[" + std::to_string(i) + "]";
    const Json& entry = (*value)[i];
    if (!entry.is_object()) throw RequestError(400, where + " must be an object, not " + Fields::kind(entry), "messages");
    const Json role = entry.value("role", Json()), content = entry.value("content", Json());
    if (role != "system" && role != "developer" && role != "user" && role != "assistant")
      throw RequestError(400, where + ".role must be \"system\", \"user\" or \"assistant\"", "messages");
    messages.push_back({role == "developer" ? "system" : role.get<std::string>(), message_text(content, where + ".content")});
  }
  return messages;
}

}  // namespace

CompletionRequest parse_completion(const std::string& body, const ServedModel& model) {
  const Json object = parse_object(body);
  Fields fields(object);
  check_name(fields, model);
  CompletionRequest request;
  read_sampling(fields, request);
  read_stops(fields, model, request);
  request.echo = fields.flag("echo");
  request.logprobs = fields.integer("logprobs", 0, kMaxLogprobs).value_or(-1);
  std::optional<std::int64_t> max_tokens = fields.integer("max_tokens", 0, INT64_MAX);
  if (const auto new_tokens = fields.integer("max_new_tokens", 0, INT64_MAX)) max_tokens = std::min(max_tokens.value_or(*new_tokens), *new_tokens);
  fields.only("best_of", {1, request.n}, "is not supported: only as many as 'n'");
  fields.only("suffix", {""}, "is not supported");
  request.prompts = read_prompts(fields, model);
  fields.refuse_unknown();
  check_lengths(request, model, max_tokens, "max_tokens");
  return request;
}

CompletionRequest parse_chat(const std::string& body, const ServedModel& model) {
  const Json object = parse_object(body);
  Fields fields(object);
  check_name(fields, model);
  CompletionRequest request;
  request.chat = true;
  read_sampling(fields, request);
  read_stops(fields, model, request);
  const std::int64_t alternatives = fields.integer("top_logprobs", 0, kMaxLogprobs).value_or(0);
  if (fields.flag("logprobs")) request.logprobs = alternatives;
  if (request.logprobs < 0 && alternatives > 0) refuse("top_logprobs", "needs 'logprobs': true");
  std::optional<std::int64_t> max_tokens = fields.integer("max_tokens", 0, INT64_MAX);
  if (const auto more = fields.integer("max_completion_tokens", 0, INT64_MAX)) max_tokens = more;
  fields.only("response_format", {Json{{"type", "text"}}}, "is not supported: only {\"type\": \"text\"}");
  fields.only("tools", {Json::array()}, "is not supported");
  fields.only("functions", {Json::array()}, "is not supported");
  fields.only("tool_choice", {"none", "auto"}, "is not supported");
  fields.only("modalities", {Json::array({"text"})}, "is not supported: only text is given");
  fields.ignore({"parallel_tool_calls"});
  const std::vector<dataset::ChatMessage> messages = read_messages(fields);
  fields.refuse_unknown();
  if (!model.chat) throw RequestError(400, "the model has no chat template that is known: " + model.no_chat + "; use /v1/completions", "messages");
  Prompt prompt;
  try {
    prompt.ids = dataset::encode_chat(*model.tokenizer, *model.chat, messages, /*add_generation_prompt=*/true);
    const std::vector<std::int64_t> ends = dataset::chat_stop_ids(*model.tokenizer, *model.chat);
    if (!request.ignore_eos) request.stop_ids.insert(request.stop_ids.end(), ends.begin(), ends.end());
  } catch (const Error& error) {
    throw RequestError(400, error.message() + (error.fix().empty() ? "" : "; " + error.fix()), "messages");
  }
  if (prompt.ids.empty()) throw RequestError(400, "the conversation has no tokens", "messages");
  request.prompts.push_back(std::move(prompt));
  check_lengths(request, model, max_tokens, "messages");
  return request;
}

}  // namespace miq::executor
