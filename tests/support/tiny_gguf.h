// A tiny llama as a GGUF file: linears and embedding in Q8_0 blocks, with a tokenizer in its metadata.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "core/archives.h"
#include "miq/core/file.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace miq::test {

/// Writes metadata and tensors one by one, then the file.
class GgufWriter {
 public:
  void number(const std::string& name, std::uint32_t value) { add_key(name, 4, bytes_of(value)); }
  void real(const std::string& name, float value) { add_key(name, 6, bytes_of(value)); }
  void text(const std::string& name, const std::string& value) { add_key(name, 8, string(value)); }
  void texts(const std::string& name, const std::vector<std::string>& values) {
    std::string all;
    for (const std::string& value : values) all += string(value);
    add_array(name, 8, values.size(), all);
  }
  void reals(const std::string& name, const std::vector<float>& values) {
    add_array(name, 6, values.size(), std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }
  void numbers(const std::string& name, const std::vector<std::int32_t>& values) {
    add_array(name, 5, values.size(), std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }
  /// float32, or with blocks = true Q8_0.
  void tensor(const std::string& name, const at::Tensor& values, bool blocks) {
    const at::Tensor flat = values.to(at::kFloat).contiguous();
    std::string data;
    if (!blocks) {
      data.assign(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
    } else {
      const at::Tensor rows = flat.view({-1, 32});
      const at::Tensor scales = (rows.abs().amax(1) / 127).to(at::kHalf);
      const at::Tensor codes = (rows / scales.to(at::kFloat).unsqueeze(1)).round().clamp(-127, 127).to(at::kChar).contiguous();
      for (std::int64_t b = 0; b < rows.size(0); ++b) {
        data.append(reinterpret_cast<const char*>(scales.const_data_ptr<at::Half>() + b), 2);
        data.append(reinterpret_cast<const char*>(codes.const_data_ptr<std::int8_t>() + 32 * b), 32);
      }
    }
    infos_ += string(name) + bytes_of(static_cast<std::uint32_t>(values.dim()));
    for (std::int64_t d = values.dim() - 1; d >= 0; --d) infos_ += bytes_of(static_cast<std::uint64_t>(values.size(d)));
    infos_ += bytes_of(std::int32_t{blocks ? 8 : 0}) + bytes_of(static_cast<std::uint64_t>(data_.size()));
    ++tensors_;
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
  }
  void write(const std::filesystem::path& path) const {
    std::string file = "GGUF" + bytes_of(std::uint32_t{3}) + bytes_of(tensors_) + bytes_of(count_) + keys_ + infos_;
    file.resize((file.size() + 31) / 32 * 32);
    write_file_atomically(path, file + data_);
  }

 private:
  static std::string string(const std::string& value) { return bytes_of(std::uint64_t{value.size()}) + value; }
  void add_key(const std::string& name, std::uint32_t type, const std::string& value) {
    keys_ += string(name) + bytes_of(type) + value;
    ++count_;
  }
  void add_array(const std::string& name, std::uint32_t type, std::uint64_t count, const std::string& elements) {
    add_key(name, 9, bytes_of(type) + bytes_of(count) + elements);
  }
  std::string keys_, infos_, data_;
  std::uint64_t count_ = 0, tensors_ = 0;
};

/// `tokenizer`: "llama" (sentencepiece), "gpt2" (byte-level BPE), or "" for none.
inline void write_tiny_gguf(const std::filesystem::path& path, const std::string& tokenizer) {
  const TempFolder folder;
  write_tiny_model(folder.path(), tiny_configs().at("llama"));
  const SafetensorsFile model = SafetensorsFile::open(folder.path() / "model.safetensors");
  GgufWriter gguf;
  gguf.text("general.architecture", "llama");
  gguf.number("llama.block_count", 2);
  gguf.number("llama.context_length", 128);
  gguf.number("llama.embedding_length", 64);
  gguf.number("llama.feed_forward_length", 96);
  gguf.number("llama.attention.head_count", 4);
  gguf.number("llama.attention.head_count_kv", 2);
  gguf.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  gguf.real("llama.rope.freq_base", 10000);
  if (!tokenizer.empty()) {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", tokenizer == "llama" ? "\xE2\x96\x81" : "\xC4\xA0"};  // a space
    std::vector<std::int32_t> types = {2, 3, 3, 1};
    for (char c = '!'; c <= '~' && tokens.size() < 94; ++c) tokens.emplace_back(1, c);
    tokens.emplace_back("ab");
    tokens.emplace_back(tokens[3] + "a");
    types.resize(tokens.size(), 1);
    std::vector<float> scores(tokens.size(), -10);
    scores[94] = -1;
    scores[95] = -2;
    gguf.text("tokenizer.ggml.model", tokenizer);
    gguf.text("tokenizer.ggml.pre", tokenizer == "llama" ? "default" : "gpt-2");
    gguf.texts("tokenizer.ggml.tokens", tokens);
    gguf.numbers("tokenizer.ggml.token_type", types);
    if (tokenizer == "llama")
      gguf.reals("tokenizer.ggml.scores", scores);
    else
      gguf.texts("tokenizer.ggml.merges", {"a b", tokens[3] + " a"});
    gguf.number("tokenizer.ggml.bos_token_id", 1);
    gguf.number("tokenizer.ggml.eos_token_id", 2);
    gguf.text("tokenizer.chat_template", "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}");
  }
  // llama.cpp keeps the rows of q and k in the order of interleaved rotation.
  const auto interleaved = [](const at::Tensor& weight, std::int64_t heads) {
    return weight.unflatten(0, {heads, 2, weight.size(0) / heads / 2}).transpose(1, 2).flatten(0, 2);
  };
  gguf.tensor("token_embd.weight", model.tensor("model.embed_tokens.weight"), true);
  gguf.tensor("output_norm.weight", model.tensor("model.norm.weight"), false);
  gguf.tensor("output.weight", model.tensor("lm_head.weight"), true);
  for (int l = 0; l < 2; ++l) {
    const std::string to = "blk." + std::to_string(l) + ".", from = "model.layers." + std::to_string(l) + ".";
    gguf.tensor(to + "attn_norm.weight", model.tensor(from + "input_layernorm.weight"), false);
    gguf.tensor(to + "ffn_norm.weight", model.tensor(from + "post_attention_layernorm.weight"), false);
    gguf.tensor(to + "attn_q.weight", interleaved(model.tensor(from + "self_attn.q_proj.weight"), 4), true);
    gguf.tensor(to + "attn_k.weight", interleaved(model.tensor(from + "self_attn.k_proj.weight"), 2), true);
    const std::pair<const char*, const char*> names[] = {{"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};
    for (const auto& [ours, theirs] : names) gguf.tensor(to + ours + ".weight", model.tensor(from + theirs + ".weight"), true);
  }
  gguf.write(path);
}

}  // namespace miq::test
