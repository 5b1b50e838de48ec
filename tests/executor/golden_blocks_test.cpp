// AWQ and QuaRot on a whole decoder layer, run by the original implementations.
#include <ATen/ATen.h>

#include "../../src/executor/rotation.h"
#include "../../src/executor/scale_group.h"
#include "../../src/executor/scale_search.h"
#include "../quantizer/golden_cases.h"

namespace miq::executor {
namespace {

using model::Block;
using model::BlockState;
using quantizer::Grid;
using quantizer::golden::Case;
using quantizer::golden::compare;
using quantizer::golden::json;

std::shared_ptr<model::Architecture> architecture_of(const Case& c) {
  const json& p = c.params();
  auto a = std::make_shared<model::Architecture>();
  a->family = "llama";
  a->hidden_size = p.at("hidden");
  a->intermediate_size = p.at("inter");
  a->num_layers = 1;
  a->num_heads = p.at("heads");
  a->num_kv_heads = p.at("kv_heads");
  a->head_dim = a->hidden_size / a->num_heads;
  a->rms_norm_eps = p.at("rms_eps");
  a->rope.theta = p.value("rope_theta", 10000.0);
  return a;
}

Block block_of(const Case& c, const std::shared_ptr<model::Architecture>& a) {
  Block block(a, 0);
  for (model::Linear* linear : block.linears()) {
    linear->name = linear->name.substr(a->block_name(0).size());
    linear->weight_OI = c.tensor("w." + linear->name + ".weight");
  }
  block.input_norm_H = c.tensor("w.input_layernorm.weight");
  block.post_attention_norm_H = c.tensor("w.post_attention_layernorm.weight");
  return block;
}

struct Search {
  std::vector<double> losses;
  at::Tensor scales;
  std::int64_t best = 0;
};

Search search(const Case& c, Block& block, std::int64_t stage, const BlockState& state, const model::RopeTable& rope) {
  Grid grid;
  grid.bits = c.bits();
  grid.group_size = c.group();
  grid.convention = quantizer::GridConvention::awq;
  std::vector<ScaledLinear> group;
  for (model::Linear* linear : block.stage(stage)) group.push_back({linear, linear->weight_OI, grid});
  const at::Tensor x = state.x[0].reshape({-1, state.x[0].size(-1)}), mean_abs = x.abs().mean(0);
  std::vector<at::Tensor> candidates;
  for (int i = 0; i < c.params().at("n_grid"); ++i) candidates.push_back(quantizer::awq_scales(mean_abs, {}, {i / 20.0, false}));
  Search found;
  if (stage == kQkv || stage == kGateUp) {
    found.losses = module_losses(group, candidates, {&block, stage, &rope, {state}});
  } else {
    found.losses = quantizer::awq_losses({group.front().weight_OI}, x.t().mm(x), candidates, {grid}, 0);
    for (double& loss : found.losses) loss /= static_cast<double>(x.size(0) * group.front().weight_OI.size(0));
  }
  found.best = std::min_element(found.losses.begin(), found.losses.end()) - found.losses.begin();
  found.scales = candidates[static_cast<size_t>(found.best)];
  return found;
}

void check_awq_layer(const Case& c, const json& fallback) {
  const auto a = architecture_of(c);
  Block block = block_of(c, a);
  const at::Tensor x = c.tensor("X");
  const model::RopeTable rope(*a, x.size(1), x.device());
  // Inputs of all stages of the unscaled layer.
  BlockState state{x.clone(), {}, {}};
  std::vector<BlockState> at_stage;
  for (std::int64_t s = 0; s < block.num_stages(); ++s) {
    block.begin_stage(s, state, at::kFloat);
    at_stage.push_back({state.hidden_BTH.clone(), {state.x[0].clone()}, {}});
    block.end_stage(s, state, rope);
  }
  std::map<std::string, at::Tensor> outputs;
  std::map<std::int64_t, at::Tensor> scales;
  const auto run = [&](const std::string& name, std::int64_t stage) {
    const Search found = search(c, block, stage, at_stage[static_cast<size_t>(stage)], rope);
    outputs["best_" + name] = at::scalar_tensor(found.best, at::kLong);
    outputs["scales_" + name] = found.scales;
    outputs["losses_" + name] = at::tensor(found.losses, at::kDouble);
    scales[stage] = found.scales;
  };
  run("qkv", kQkv);
  run("gate_up", kGateUp);
  run("down", kDown);
  if (a->num_heads == a->num_kv_heads) run("o", kOut);
  // All applied together: columns by the stage's scales, rows of v and up divided by what reads them.
  for (const auto& [stage, s] : scales) {
    const FoldTarget target = fold_target(block, *a, stage, 0);
    if (target.norm != nullptr) block.*target.norm = block.*target.norm / s;
    else target.linear->weight_OI = target.linear->weight_OI / s.unsqueeze(1);
    for (model::Linear* linear : block.stage(stage)) linear->weight_OI = linear->weight_OI * s;
  }
  outputs["out.input_layernorm.weight"] = block.input_norm_H;
  outputs["out.post_attention_layernorm.weight"] = block.post_attention_norm_H;
  Grid grid;
  grid.bits = c.bits();
  grid.group_size = c.group();
  grid.convention = quantizer::GridConvention::awq;
  for (std::int64_t s = 0; s < block.num_stages(); ++s) {
    at::Tensor input = at_stage[static_cast<size_t>(s)].x[0];
    input = input.reshape({-1, input.size(-1)});
    if (scales.count(s)) input = input / scales[s];
    for (model::Linear* linear : block.stage(s)) {
      quantizer::StageHessian hessian(input.t().mm(input), input.size(0));
      quantizer::Range range;
      if (c.flag("clip")) range.kind = quantizer::RangeKind::awq_clip;
      const auto done = round_linear({linear->name, linear->weight_OI, &hessian}, grid, range, quantizer::Rounding{});
      outputs["out." + linear->name + ".weight"] = dequantize(done, at::kFloat);
      if (c.file.has("clip_" + linear->name)) outputs["clip_" + linear->name] = awq_clip(linear->weight_OI, grid, range, hessian.matrix());
    }
  }
  compare(c, outputs, fallback, {});
}

// A product behind an online transform, as a kernel.
class Turned : public model::LinearKernel {
 public:
  Turned(std::shared_ptr<const quantizer::Orthogonal> input, at::Tensor weight) : input_(std::move(input)), weight_(std::move(weight)) {}
  at::Tensor forward(const at::Tensor& x) const override { return at::linear(input_->apply(x), weight_); }
  std::int64_t bytes() const override { return 0; }

 private:
  std::shared_ptr<const quantizer::Orthogonal> input_;
  at::Tensor weight_;
};

void check_quarot(const Case& c, const json& fallback) {
  const auto a = architecture_of(c);
  Block block = block_of(c, a);
  const auto residual = quantizer::signed_hadamard(c.tensor("sign").to(at::kFloat), a->hidden_size);
  EXPECT_LT((residual->apply_transposed(test::on_device(at::eye(a->hidden_size))).t() - c.tensor("Q").to(at::kFloat)).abs().max().item<double>(), 1e-5);
  const Rotation rotation(*a, residual, /*online=*/true);
  rotation.rotate_block(block);
  std::map<std::string, at::Tensor> outputs = {{"out.input_layernorm.weight", block.input_norm_H},
                                               {"out.post_attention_layernorm.weight", block.post_attention_norm_H}};
  for (std::int64_t s = 0; s < block.num_stages(); ++s)
    for (model::Linear* linear : block.stage(s)) {
      if (const auto online = rotation.online_input(s, linear->in_features)) {
        linear->weight_OI = online->apply(linear->weight_OI);
        linear->kernel = std::make_shared<Turned>(online, linear->weight_OI);
      }
      outputs["out." + linear->name + ".weight"] = linear->weight_OI;
    }
  const at::Tensor x = c.tensor("X");
  const model::RopeTable rope(*a, x.size(1), x.device());
  // hidden rows h -> h Q, through the layer, and back.
  outputs["Y"] = residual->apply_transposed(block.forward(residual->apply(x), at::kFloat, rope));
  compare(c, outputs, fallback, {});
}

TEST(GoldenBlocks, Awq) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  quantizer::golden::for_each_case("awq_layer", check_awq_layer);
}

TEST(GoldenBlocks, QuaRot) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  quantizer::golden::for_each_case("quarot", check_quarot);
}

}  // namespace
}  // namespace miq::executor
