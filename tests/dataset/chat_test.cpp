// Chat templates: the texts that jinja renders from the families' templates, the ids of the authors' code.
#include "miq/dataset/chat.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<ChatMessage> kShort = {{"user", "Hi"}};
const std::vector<ChatMessage> kTurns = {{"user", "Hi there"}, {"assistant", "Hello!"}, {"user", "Bye"}};
const std::vector<ChatMessage> kLong = {
    {"system", "Be brief."}, {"user", " Hi there "}, {"assistant", "Hello!"}, {"user", "Bye"}};

std::string render(const std::string& kind, const std::vector<ChatMessage>& messages) {
  return render_chat({kind, ""}, messages, true);
}

TEST(Chat, Llama2) {
  EXPECT_EQ(render("llama2", kShort), "<s>[INST] Hi [/INST]");
  EXPECT_EQ(render("llama2", kLong),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi there [/INST] Hello! </s><s>[INST] Bye [/INST]");
}

TEST(Chat, Llama3) {
  EXPECT_EQ(render("llama3", kShort),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|"
            "end_header_id|>\n\n");
  EXPECT_EQ(render("llama3", kLong),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe "
            "brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "Hi "
            "there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|><|start_header_id|>user<|"
            "end_header_id|>\n\n"
            "Bye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(render_chat({"llama3", ""}, kShort, false),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");
}

TEST(Chat, Mistral) {
  EXPECT_EQ(render("mistral", kLong), "<s> [INST] Be brief.\n\n Hi there  [/INST] Hello!</s> [INST] Bye [/INST]");
  EXPECT_EQ(render("mistral_v3", kLong), "<s>[INST]  Hi there [/INST] Hello!</s>[INST] Be brief.\n\nBye[/INST]");
}

TEST(Chat, ChatMl) {
  EXPECT_EQ(render("chatml", kShort), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render_chat({"chatml", "Be kind."}, kShort, true),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render_chat({"chatml", "Be kind."}, kLong, true),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi there "
            "<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Chat, Glm) {
  EXPECT_EQ(render("chatglm2", kTurns),
            "[gMASK]sop[Round 1]\n\n问：Hi there\n\n答：Hello!\n\n[Round 2]\n\n问：Bye\n\n答：");
  EXPECT_EQ(render("chatglm3", kLong),
            "[gMASK]sop<|system|>\n Be brief.<|user|>\n  Hi there <|assistant|>\n Hello!<|user|>\n Bye<|assistant|>");
  EXPECT_EQ(render("glm4", kLong),
            "[gMASK]<sop><|system|>\nBe brief.<|user|>\n Hi there <|assistant|>\nHello!<|user|>\nBye<|assistant|>");
}

TEST(Chat, ZephyrAndBaichuan) {
  EXPECT_EQ(render("zephyr", kLong),
            "<|system|>\nBe brief.</s>\n<|user|>\n Hi there "
            "</s>\n<|assistant|>\nHello!</s>\n<|user|>\nBye</s>\n<|assistant|>\n");
  EXPECT_EQ(render("baichuan", kTurns), "#195Hi there#196Hello!#195Bye#196");
}

TEST(Chat, WrongConversationsAreRefused) {
  const auto error_of = [](const std::string& kind, const std::vector<ChatMessage>& messages) {
    try {
      render(kind, messages);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::internal;
  };
  EXPECT_EQ(error_of("llama2", {}), ErrorKind::config);
  EXPECT_EQ(error_of("llama2", {{"system", "x"}}), ErrorKind::config);
  EXPECT_EQ(error_of("llama2", {{"assistant", "x"}}), ErrorKind::config);
  EXPECT_EQ(error_of("llama2", {{"user", "x"}, {"user", "y"}}), ErrorKind::config);
  EXPECT_EQ(error_of("llama2", {{"user", "x"}, {"system", "y"}}), ErrorKind::config);
  EXPECT_EQ(error_of("chatglm2", kLong), ErrorKind::unsupported);
  EXPECT_EQ(error_of("nonsense", kShort), ErrorKind::config);
}

class ChatKinds : public testing::Test {
 protected:
  ChatKind detect(const std::string& text) {
    std::ofstream(folder_.path() / "tokenizer_config.json") << Json{{"chat_template", text}}.dump();
    return detect_chat_kind(folder_.path());
  }
  test::TempFolder folder_;
};

TEST_F(ChatKinds, AreKnownByTheirTemplates) {
  EXPECT_EQ(detect("{{ bos_token + '[INST] <<SYS>>' }} [/INST]").name, "llama2");
  EXPECT_EQ(detect("{{ '<|start_header_id|>' }}").name, "llama3");
  EXPECT_EQ(detect("{{ ' [INST] ' + message['content'] + ' [/INST]' }}").name, "mistral");
  EXPECT_EQ(detect("{{ '[INST] ' + message['content'] + '[/INST]' }}").name, "mistral_v3");
  EXPECT_EQ(
      detect("{% if loop.first %}[gMASK]sop<|{{ message['role'] }}|>\\n {{ message['content'] }}{% endif %}").name,
      "chatglm3");
  EXPECT_EQ(detect("[gMASK]<sop>{% for item in messages %}").name, "glm4");
  EXPECT_EQ(detect("{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}").name, "zephyr");
  try {
    detect("{{ '<|user|>\\n' + message['content'] + '<|end|>' }}{{ '<|assistant|>' }}{{ eos_token }}");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_THAT(error.fix(), HasSubstr("chatml"));
  }
}

TEST_F(ChatKinds, ChatMlTellsItsSystemMessage) {
  EXPECT_EQ(detect("{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}").default_system, "You help.");
  EXPECT_EQ(
      detect("{{- '<|im_start|>system\\n' + x + '<|im_end|>\\n' }}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}")
          .default_system,
      "You help.");
  EXPECT_EQ(detect("{{- '<|im_start|>system\\n' + x + '<|im_end|>\\n' }}").default_system, "");
}

TEST_F(ChatKinds, TemplatesInFilesAndLists) {
  std::ofstream(folder_.path() / "chat_template.jinja") << "<|im_start|>";
  EXPECT_EQ(detect_chat_kind(folder_.path()).name, "chatml");
  std::ofstream(folder_.path() / "tokenizer_config.json")
      << R"({"chat_template": [{"name": "tool", "template": "<<SYS>>"},
      {"name": "default", "template": "<|start_header_id|>"}]})";
  EXPECT_EQ(detect_chat_kind(folder_.path()).name, "llama3");
}

TEST_F(ChatKinds, BaichuanByItsModelType) {
  std::ofstream(folder_.path() / "config.json") << R"({"model_type": "baichuan"})";
  EXPECT_EQ(detect_chat_kind(folder_.path()).name, "baichuan");
}

fs::path golden(const std::string& name) { return test::golden_dir() / "tokenizers" / name; }

TEST(GoldenChat, ChatGlm3TakesItsSpecialTokensByTheirIds) {
  MIQ_REQUIRE_GOLDEN("tokenizers/chatglm3");
  const auto tokenizer = load_tokenizer(golden("chatglm3"));
  const ChatKind kind = detect_chat_kind(golden("chatglm3"));
  EXPECT_EQ(kind.name, "chatglm3");
  // [gMASK] sop <|user|> \n Hello, world! <|assistant|>; 13 is the newline, 30910 the space in front of a text
  EXPECT_THAT(encode_chat(*tokenizer, kind, {{"user", "Hello, world!"}}, true),
              ElementsAre(64790, 64792, 64795, 30910, 13, 13755, 30932, 993, 30992, 64796));
  EXPECT_THAT(chat_stop_ids(*tokenizer, kind), ElementsAre(2, 64795, 64797));
}

TEST(GoldenChat, Baichuan2) {
  MIQ_REQUIRE_GOLDEN("tokenizers/baichuan2");
  const auto tokenizer = load_tokenizer(golden("baichuan2"));
  EXPECT_THAT(encode_chat(*tokenizer, {"baichuan", ""}, {{"user", "Hello, world!"}}, true),
              ElementsAre(195, 23160, 92323, 2063, 73, 196));
}

TEST(GoldenChat, Qwen2_5AndLlama3) {
  MIQ_REQUIRE_GOLDEN("tokenizers/qwen2_5");
  const auto qwen = load_tokenizer(golden("qwen2_5"));
  const ChatKind chatml = detect_chat_kind(golden("qwen2_5"));
  EXPECT_EQ(chatml.name, "chatml");
  EXPECT_EQ(chatml.default_system, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
  const auto ids = encode_chat(*qwen, {"chatml", ""}, kShort, true);
  EXPECT_THAT(ids, ElementsAre(151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198));
  EXPECT_THAT(chat_stop_ids(*qwen, chatml), ElementsAre(151645, 151643));
  EXPECT_EQ(detect_chat_kind(golden("smollm2")).default_system,
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
  const auto llama3 = load_tokenizer(golden("llama3"));
  EXPECT_EQ(detect_chat_kind(golden("llama3")).name, "llama3");
  EXPECT_THAT(encode_chat(*llama3, {"llama3", ""}, kShort, true),
              ElementsAre(128000, 128006, 882, 128007, 271, 13347, 128009, 128006, 78191, 128007, 271));
}

TEST(GoldenChat, Llama2AndWhatItsTokenizerLacks) {
  MIQ_REQUIRE_GOLDEN("tokenizers/llama2");
  const auto tokenizer = load_tokenizer(golden("llama2"));
  const auto ids = encode_chat(*tokenizer, {"llama2", ""}, kTurns, true);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 2);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 1);
  EXPECT_EQ(ids.front(), 1);
  try {
    encode_chat(*tokenizer, {"chatml", ""}, kShort, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_THAT(error.message(), HasSubstr("im_start"));
  }
  EXPECT_THROW(detect_chat_kind(golden("llama2")), Error);
}

}  // namespace
}  // namespace miq::dataset
