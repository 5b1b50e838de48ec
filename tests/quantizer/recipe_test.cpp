#include "miq/quantizer/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "miq/core/error.h"

namespace miq::quantizer {
namespace {

using testing::HasSubstr;

const std::vector<std::string> kLayers = {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj",
                                          "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"};

Rule rule(const std::string& match, int bits) {
  Rule r;
  r.match = match;
  r.layer.grid.bits = bits;
  r.where = "job.yaml:7:5";
  return r;
}

TEST(Recipe, FirstRuleThatMatchesTheWholeNameWins) {
  Recipe recipe;
  recipe.rules = {rule(R"(model\.layers\.1\..*)", 8), rule(R"(.*\.down_proj)", 3), rule("lm_head", 2)};
  const std::vector<Choice> choices = choose(recipe, kLayers);
  std::vector<int> rules;
  for (const Choice& c : choices) rules.push_back(c.rule);
  EXPECT_THAT(rules, testing::ElementsAre(-1, 1, 0, 0, 2));
  EXPECT_EQ(choices[0].layer, &recipe.otherwise);
  EXPECT_EQ(choices[1].layer->grid.bits, 3);
  EXPECT_EQ(choices[3].layer->grid.bits, 8);
}

void expect_error(const Recipe& recipe, const std::vector<std::string>& layers, std::initializer_list<std::string> parts) {
  try {
    choose(recipe, layers);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    for (const std::string& part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(Recipe, RuleThatMatchesNothingIsAnErrorWithAHint) {
  Recipe recipe;
  recipe.rules = {rule(R"(model\.layers\.0\.mlp\.dwn_proj)", 3)};
  expect_error(recipe, kLayers, {R"(model\.layers\.0\.mlp\.dwn_proj)", "job.yaml:7:5", "model.layers.0.mlp.down_proj"});
  recipe.rules = {rule("down_proj", 3)};  // a part of a name is not a match
  expect_error(recipe, kLayers, {"down_proj", "whole name"});
  expect_error(recipe, {}, {"down_proj"});
}

TEST(Recipe, ARuleHiddenByAnEarlierOneStillMatches) {
  Recipe recipe;
  recipe.rules = {rule(".*", 8), rule("lm_head", 2)};
  EXPECT_EQ(choose(recipe, kLayers)[4].rule, 0);
}

TEST(Recipe, BadRegexIsAnError) {
  for (const std::string pattern : {"(", "[z-a]", "*x", "a{2,1}"}) {
    Recipe recipe;
    recipe.rules = {rule(pattern, 3)};
    expect_error(recipe, kLayers, {pattern, "job.yaml:7:5"});
  }
}

TEST(Preset, TableHoldsRtnAndGptq) {
  EXPECT_THAT(preset_names(), testing::IsSupersetOf({"rtn", "gptq"}));
  EXPECT_EQ(preset("rtn").rounding.kind, "nearest");
  EXPECT_EQ(preset("gptq").rounding.kind, "error_feedback");
  for (const PresetInfo& info : presets()) {
    EXPECT_THAT(rounding_names(), testing::Contains(preset(info.name).rounding.kind)) << info.name;
    EXPECT_FALSE(info.summary.empty()) << info.name;
    EXPECT_EQ(preset(info.name).preset, info.name);
    EXPECT_EQ(why_not(preset(info.name), 64, 128), std::nullopt) << info.name;
  }
}

TEST(Preset, UnknownNameGetsTheNearest) {
  try {
    preset("gtpq");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_THAT(error.what(), HasSubstr("gtpq"));
    EXPECT_THAT(error.what(), HasSubstr("did you mean gptq?"));
  }
}

std::string refused(const std::vector<std::string>& names) {
  try {
    preset(names);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(Preset, ListsCompose) {
  const LayerRecipe both = preset(std::vector<std::string>{"gptq", "awq"});  // in any order
  EXPECT_EQ(both.preset, "awq+gptq");
  EXPECT_EQ(both.transform.kind, TransformKind::awq);
  EXPECT_EQ(both.rounding.kind, "error_feedback");
  EXPECT_EQ(both.range.kind, RangeKind::mse);
  const LayerRecipe smooth = preset(std::vector<std::string>{"smoothquant", "gptq"});
  EXPECT_EQ(smooth.grid.bits, 8);
  EXPECT_EQ(smooth.activation.bits, 8);
  EXPECT_EQ(smooth.rounding.kind, "error_feedback");
  const LayerRecipe quip = preset(std::vector<std::string>{"quip", "gptq"});  // its transform only
  EXPECT_EQ(quip.transform.kind, TransformKind::incoherence);
  EXPECT_EQ(quip.grid.convention, GridConvention::miq);
  EXPECT_EQ(quip.rounding.greedy_passes, 0);
  EXPECT_THAT(refused({"awq", "smoothquant"}), HasSubstr("transform"));
  EXPECT_THAT(refused({"gptq", "spqr"}), HasSubstr("rounding"));
  for (const PresetInfo& one : presets())
    for (const PresetInfo& other : presets())
      if (refused({one.name, other.name}).empty()) {
        EXPECT_EQ(why_not(preset(std::vector<std::string>{one.name, other.name}), 64, 128), std::nullopt) << one.name << "+" << other.name;
      }
}

TEST(WhyNot, NamesWhatCannotBe) {
  const auto reason = [](auto change) {
    LayerRecipe layer = preset("gptq");
    change(layer);
    return why_not(layer, 64, 128).value_or("");
  };
  EXPECT_EQ(reason([](LayerRecipe&) {}), "");
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.bits = 1; }), HasSubstr("bits"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.bits = 9; }), HasSubstr("bits"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.group_size = 0; }), HasSubstr("group_size"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.rounding.block_size = 0; }), HasSubstr("block_size"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.rounding.percdamp = -1; }), HasSubstr("percdamp"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.rounding.damp_auto_increment = 1e-9; }), HasSubstr("damp_auto_increment"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.rounding.kind = "gptq"; }), HasSubstr("gptq"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.type = GridType::fp8_e4m3; }), HasSubstr("8 bits"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.bilevel.scale_bits = 3; }), HasSubstr("bilevel"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.real_zeros = true; }), HasSubstr("real_zeros"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.rounding.kind = "spqr"; }), HasSubstr("spqr"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.rounding.kind = "hqq"; }), HasSubstr("hqq"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.grid.convention = GridConvention::absmax; }), HasSubstr("symmetric"));
  EXPECT_THAT(reason([](LayerRecipe& l) { l.activation.bits = 12; }), HasSubstr("2 .. 8"));
  const auto uneven = [](LayerRecipe& l) {
    l.activation.bits = 8;
    l.activation.granularity = ActivationGranularity::group;
    l.activation.group_size = 48;
  };
  EXPECT_THAT(reason(uneven), HasSubstr("48"));
  const auto turned = [](LayerRecipe& l) {
    l.transform.kind = TransformKind::incoherence;
    l.activation.bits = 8;
    l.activation.granularity = ActivationGranularity::tensor;
    l.activation.dynamic = false;
  };
  EXPECT_THAT(reason(turned), HasSubstr("static"));
  const auto kept = [](LayerRecipe& l) {
    l.grid.bits = 77;
    l.keep_float = true;
  };
  EXPECT_EQ(reason(kept), "");
}

}  // namespace
}  // namespace miq::quantizer
