// Chat templates: a conversation as the token ids that a family's chat models were trained on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "miq/dataset/tokenizer.h"

namespace miq::dataset {

struct ChatMessage {
  std::string role;  ///< "system" (the first alone), "user" or "assistant", these two by turns
  std::string content;
};

struct ChatKind {
  std::string name;            ///< one of chat_kinds()
  std::string default_system;  ///< the system message of a conversation that has none; "": none
};

/// The names there are: chatml, llama3 and the other rows of chat_templates.def.
std::vector<std::string> chat_kinds();

/// By the chat template of a checkpoint (tokenizer_config.json, chat_template.jinja, a GGUF file's key), known by its
/// marks; without one by the special tokens and config.json's model_type.
/// @throws Error{unsupported} naming the known kinds when none fits, Error{io} for malformed files.
ChatKind detect_chat_kind(const std::filesystem::path& folder);

/// As Hugging Face's apply_chat_template(tokenize=True) or the authors' own code does. `add_generation_prompt`:
/// with what opens the answer. Literals of special tokens in a content count as the tokenizer's encode() has it.
/// @throws Error{config} for roles out of order or an unknown kind, Error{unsupported} for a system message
/// where the kind knows none, or a tokenizer that lacks a token of the kind.
std::vector<std::int64_t> encode_chat(const Tokenizer& tokenizer, const ChatKind& kind,
                                      const std::vector<ChatMessage>& messages, bool add_generation_prompt);

/// The same as a text, special tokens by name (`#195` for one that the authors know by its id alone).
std::string render_chat(const ChatKind& kind, const std::vector<ChatMessage>& messages, bool add_generation_prompt);

/// The tokens that end an answer, the tokenizer's EOS among them.
std::vector<std::int64_t> chat_stop_ids(const Tokenizer& tokenizer, const ChatKind& kind);

}  // namespace miq::dataset
