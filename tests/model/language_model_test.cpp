// Opening, running and generating, on tiny random checkpoints made here.
#include "miq/model/language_model.h"

#include <gmock/gmock.h>

#include "miq/model/generate.h"
#include "support.h"

namespace miq::model::test {
namespace {
using testing::HasSubstr;

class Tiny : public testing::Test {
 protected:
  LanguageModel write_and_open(const nlohmann::json& config, at::ScalarType stored = at::kFloat,
                               at::ScalarType dtype = at::kFloat) {
    write_model(folder_.path(), config, tiny_tensors(config, stored));
    return open_model(folder_.path(), dtype);
  }
  std::pair<ErrorKind, std::string> open_error(const nlohmann::json& config,
                                               const std::map<std::string, at::Tensor>& tensors) {
    write_model(folder_.path(), config, tensors);
    return error_of([&] { open_model(folder_.path()); });
  }
  miq::test::TempFolder folder_;
};

// The decoder in a few float64 LibTorch ops, straight from the formulas.
at::Tensor plain_forward(const Architecture& a, const std::map<std::string, at::Tensor>& tensors,
                         const at::Tensor& ids_T) {
  const auto get = [&](const std::string& name) { return tensors.at(name).to(at::kDouble); };
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    return x * at::rsqrt(x.pow(2).mean(-1, true) + a.rms_norm_eps) * get(name + ".weight");
  };
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    const at::Tensor y = at::matmul(x, get(name + ".weight").t());
    return tensors.count(name + ".bias") ? y + get(name + ".bias") : y;
  };
  const std::int64_t tokens = ids_T.size(0), half = a.head_dim / 2;
  const at::Tensor angles = at::arange(tokens, at::kDouble).unsqueeze(1) * inverse_frequencies(a.rope, a.head_dim);
  const auto heads = [&](const at::Tensor& x, std::int64_t count) {
    return x.view({tokens, count, a.head_dim}).transpose(0, 1);
  };
  const auto rotate = [&](const at::Tensor& x) {
    const at::Tensor u = x.narrow(2, 0, half), v = x.narrow(2, half, half);
    return at::cat({u * angles.cos() - v * angles.sin(), v * angles.cos() + u * angles.sin()}, 2);
  };
  at::Tensor x = get("model.embed_tokens.weight").index_select(0, ids_T);
  for (std::int64_t l = 0; l < a.num_layers; ++l) {
    const std::string p = a.block_name(l);
    const at::Tensor in = norm(x, p + "input_layernorm");
    at::Tensor q = heads(linear(in, p + "self_attn.q_proj"), a.num_heads),
               k = heads(linear(in, p + "self_attn.k_proj"), a.num_kv_heads);
    const at::Tensor v = heads(linear(in, p + "self_attn.v_proj"), a.num_kv_heads);
    if (a.qk_norm) q = norm(q, p + "self_attn.q_norm"), k = norm(k, p + "self_attn.k_norm");
    const std::int64_t repeats = a.num_heads / a.num_kv_heads;
    const at::Tensor distance = at::arange(tokens).unsqueeze(1) - at::arange(tokens).unsqueeze(0);
    at::Tensor blocked = distance < 0;
    const std::int64_t window = a.sliding_window.empty() ? 0 : a.sliding_window[static_cast<size_t>(l)];
    if (window > 0) blocked = blocked.logical_or(distance >= window);
    const at::Tensor scores = at::matmul(rotate(q), rotate(k).repeat_interleave(repeats, 0).transpose(1, 2)) /
                              std::sqrt(static_cast<double>(a.head_dim));
    const at::Tensor context =
        at::matmul(scores.masked_fill(blocked, -INFINITY).softmax(2), v.repeat_interleave(repeats, 0));
    x = x + linear(context.transpose(0, 1).reshape({tokens, -1}), p + "self_attn.o_proj");
    const at::Tensor mid = norm(x, p + "post_attention_layernorm");
    x = x + linear(at::silu(linear(mid, p + "mlp.gate_proj")) * linear(mid, p + "mlp.up_proj"), p + "mlp.down_proj");
  }
  return linear(norm(x, "model.norm"), a.tie_word_embeddings ? "model.embed_tokens" : "lm_head");
}

TEST_F(Tiny, AgreesWithThePlainFormulas) {
  std::vector<nlohmann::json> configs(5, tiny_config());
  configs[1].update({{"model_type", "mistral"}, {"sliding_window", 70}, {"head_dim", 12}, {"num_key_value_heads", 1}});
  configs[2].update({{"model_type", "qwen2"},
                     {"tie_word_embeddings", true},
                     {"use_sliding_window", true},
                     {"sliding_window", 5},
                     {"max_window_layers", 1}});
  configs[3].update({{"model_type", "qwen3"}, {"head_dim", 16}});
  configs[4].update({{"attention_bias", true},
                     {"mlp_bias", true},
                     {"num_key_value_heads", 4},
                     {"rope_scaling", {{"rope_type", "linear"}, {"factor", 4.0}}}});
  const at::Tensor ids = at::randint(0, 64, {300}, at::kLong);  // several tiles and chunks of the attention
  for (nlohmann::json& config : configs) {
    config["max_position_embeddings"] = 512;
    LanguageModel model = write_and_open(config);
    model.hold_blocks();
    const at::Tensor expected = plain_forward(model.architecture(), tiny_tensors(config), ids);
    EXPECT_LT(miq::test::relative_difference(model.forward(ids.unsqueeze(0))[0], expected), 1e-5) << config;
    LanguageModel half = open_model(folder_.path(), at::kBFloat16);
    half.hold_blocks();
    EXPECT_LT((half.forward(ids.unsqueeze(0))[0] - expected).abs().mean().item<double>() /
                  expected.abs().mean().item<double>(),
              0.03);
  }
}

TEST_F(Tiny, CacheBehindAWindowAndLastOnly) {
  nlohmann::json config = tiny_config();
  config.update({{"model_type", "mistral"}, {"sliding_window", 9}});
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    LanguageModel model = write_and_open(config, at::kFloat, dtype);
    model.hold_blocks();
    const at::Tensor ids = at::randint(0, 64, {2, 40}, at::kLong);
    const at::Tensor whole = model.forward(ids);
    KvCache cache(2);
    model.forward(ids.narrow(1, 0, 25), &cache);
    model.forward(ids.narrow(1, 25, 3), &cache);
    for (std::int64_t t = 28; t < 40; ++t) {
      const at::Tensor last = model.forward(ids.narrow(1, t, 1), &cache, /*last_only=*/true);
      EXPECT_LT((last.select(1, 0) - whole.select(1, t)).abs().max().item<double>(), dtype == at::kFloat ? 1e-4 : 0.15)
          << t;
    }
    EXPECT_TRUE(model.forward(ids, nullptr, true)
                    .select(1, 0)
                    .allclose(whole.select(1, -1), 1e-3, dtype == at::kFloat ? 1e-4 : 0.1));
  }
}

TEST_F(Tiny, WeightsStayViewsUnlessConverted) {
  const LanguageModel model = write_and_open(tiny_config(), at::kBFloat16);
  const Block stored = model.load_block(1, false), converted = model.load_block(1, true);
  EXPECT_EQ(stored.mlps[0].gate.weight_OI.scalar_type(), at::kBFloat16);
  EXPECT_EQ(converted.mlps[0].gate.weight_OI.scalar_type(), at::kFloat);
  EXPECT_EQ(stored.mlps[0].gate.weight_OI.const_data_ptr(),
            model.source().tensor(stored.mlps[0].gate.name + ".weight").const_data_ptr());
  EXPECT_EQ(stored.q.name, "model.layers.1.self_attn.q_proj");
  const at::Tensor x = at::randn({3, 32});
  EXPECT_TRUE(stored.mlps[0].gate.forward(x).equal(converted.mlps[0].gate.forward(x)));
  EXPECT_EQ(model.num_parameters(), 2 * 64 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32));
}

TEST_F(Tiny, LinearTakesAKernelInPlaceOfItsWeight) {
  struct Doubling : LinearKernel {
    at::Tensor forward(const at::Tensor& x) const override { return 2 * x; }
    std::int64_t bytes() const override { return 0; }
  };
  Linear linear;
  linear.bias_O = at::ones({4}, at::kBFloat16);
  linear.kernel = std::make_shared<Doubling>();
  EXPECT_TRUE(linear.forward(at::full({2, 4}, 3.0f)).equal(at::full({2, 4}, 7.0f)));
}

TEST_F(Tiny, MissingMisshapenAndUnreadableTensors) {
  const nlohmann::json config = tiny_config();
  for (const char* name : {"model.norm.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight",
                           "model.layers.0.input_layernorm.weight"}) {
    auto tensors = tiny_tensors(config);
    tensors.erase(name);
    const auto [kind, text] = open_error(config, tensors);
    EXPECT_EQ(kind, ErrorKind::io);
    EXPECT_THAT(text, HasSubstr(name));
    tensors[name] = at::zeros({3, 5});
    const auto [shape_kind, shape_text] = open_error(config, tensors);
    EXPECT_EQ(shape_kind, ErrorKind::io);
    EXPECT_THAT(shape_text, testing::AllOf(HasSubstr(name), HasSubstr("[3, 5]")));
  }
  auto tensors = tiny_tensors(config);
  tensors["lm_head.weight"] = at::zeros({64, 32}, at::kInt);
  EXPECT_EQ(open_error(config, tensors).first, ErrorKind::unsupported);
  nlohmann::json deep = config;
  deep["num_hidden_layers"] = 9999;
  EXPECT_THAT(open_error(deep, tiny_tensors(config)).second, HasSubstr("model.layers.2."));
}

TEST_F(Tiny, BuffersThatAreNotWeightsAreIgnored) {
  auto tensors = tiny_tensors(tiny_config());
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::zeros({4});
  write_model(folder_.path(), tiny_config(), tensors);
  EXPECT_NO_THROW(open_model(folder_.path()));
}

TEST_F(Tiny, IdsOutsideTheVocabulary) {
  LanguageModel model = write_and_open(tiny_config());
  EXPECT_EQ(error_of([&] { model.embed(at::full({1, 2}, 64, at::kLong)); }).first, ErrorKind::config);
  EXPECT_EQ(error_of([&] { model.embed(at::full({1, 2}, -1, at::kLong)); }).first, ErrorKind::config);
}

TEST_F(Tiny, GenerationStopsAtEosAndRepeatsWithTheSeed) {
  LanguageModel model = write_and_open(tiny_config());
  GenerateOptions options;
  options.max_new_tokens = 12;
  options.stop_at_eos = false;
  const auto greedy = generate(model, {1, 5, 9}, options);
  ASSERT_EQ(greedy.size(), 12u);
  options.top_k = 1;
  options.temperature = 0.7;
  EXPECT_EQ(generate(model, {1, 5, 9}, options), greedy);
  options.top_k = 0;
  options.top_p = 1e-9;
  EXPECT_EQ(generate(model, {1, 5, 9}, options), greedy);
  options.top_p = 0.95;
  options.temperature = 5;
  std::vector<std::int64_t> streamed;
  const auto sampled = generate(model, {1, 5, 9}, options, [&](std::int64_t id) { streamed.push_back(id); });
  EXPECT_EQ(sampled, streamed);
  EXPECT_EQ(generate(model, {1, 5, 9}, options), sampled);
  options.seed = 43;
  EXPECT_NE(generate(model, {1, 5, 9}, options), sampled);
  EXPECT_EQ(error_of([&] { generate(model, {}, options); }).first, ErrorKind::config);

  // An EOS id that the greedy text meets ends it, itself left out.
  const size_t stop = 3;
  nlohmann::json config = tiny_config();
  config["eos_token_id"] = {63, greedy[stop]};
  LanguageModel ending = write_and_open(config);
  const auto first = std::find(greedy.begin(), greedy.end(), greedy[stop]);
  GenerateOptions plain;
  plain.max_new_tokens = 12;
  const auto ended = generate(ending, {1, 5, 9}, plain);
  const auto limit = std::min(first, std::find(greedy.begin(), greedy.end(), 63));
  EXPECT_EQ(ended, std::vector<std::int64_t>(greedy.begin(), limit));
  // So does a stop token of the caller.
  GenerateOptions stopped;
  stopped.max_new_tokens = 12;
  stopped.stop_at_eos = false;
  stopped.stop_ids = {greedy[stop]};
  EXPECT_EQ(generate(model, {1, 5, 9}, stopped), std::vector<std::int64_t>(greedy.begin(), first));
}

TEST_F(Tiny, ComputeTypes) {
  Architecture a;
  a.torch_dtype = "bfloat16";
  EXPECT_EQ(resolve_compute_dtype("auto", a, at::kCPU), at::kBFloat16);
  EXPECT_EQ(resolve_compute_dtype("float32", a, at::kCPU), at::kFloat);
  a.torch_dtype = "float64";
  EXPECT_EQ(resolve_compute_dtype("auto", a, at::kCPU), at::kFloat);
  for (const char* name : {"int8", "bf17", "float64"})
    EXPECT_EQ(error_of([&] { resolve_compute_dtype(name, a, at::kCPU); }).first, ErrorKind::config) << name;
}

}  // namespace
}  // namespace miq::model::test
