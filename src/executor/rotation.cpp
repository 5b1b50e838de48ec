#include "rotation.h"

#include <ATen/ATen.h>

#include <cmath>

#include "miq/core/error.h"
#include "scale_group.h"

namespace miq::executor {
namespace {

using quantizer::Orthogonal;

// Columns of a writer go through q.
at::Tensor through_columns(const Orthogonal& q, const at::Tensor& weight_OI) { return q.apply(weight_OI.t().contiguous()).t().contiguous(); }

}  // namespace

Rotation::Rotation(const model::Architecture& architecture, const quantizer::Transform& transform)
    : Rotation(architecture, quantizer::random_orthogonal(transform.orthogonal, architecture.hidden_size, static_cast<std::uint64_t>(transform.seed)),
               transform.online) {}

Rotation::Rotation(const model::Architecture& architecture, std::shared_ptr<const Orthogonal> residual, bool online)
    : a_(architecture), residual_(std::move(residual)) {
  if (!a_.names.attention_out_norm.empty() || !a_.names.mlp_out_norm.empty())
    throw Error(ErrorKind::unsupported, "the residual stream of the family " + a_.family + " cannot be rotated: norms stand between attention, MLP and their sum",
                "transform", "use a method without rotation, for example gptq or quip");
  if (quantizer::has_hadamard(a_.head_dim)) head_ = quantizer::hadamard(a_.head_dim);
  if (!online) return;
  down_[a_.intermediate_size] = quantizer::hadamard(a_.intermediate_size);
  if (a_.experts.count > 0) down_[a_.experts.intermediate_size] = quantizer::hadamard(a_.experts.intermediate_size);
  const std::int64_t k = quantizer::hadamard_order(a_.num_heads);
  if (head_ && k > 0) {  // the factor of a full Hadamard matrix over all heads that v cannot take
    const at::Tensor heads = quantizer::hadamard(a_.num_heads)->apply(at::eye(a_.num_heads)).t().contiguous();
    across_heads_ = quantizer::make_kronecker({{}, {}, heads, at::eye(a_.head_dim)});
  }
}

at::Tensor Rotation::turn_heads(const at::Tensor& rows) const {
  if (!head_) return rows;
  return head_->apply(rows.unflatten(-1, {rows.size(-1) / a_.head_dim, a_.head_dim})).flatten(-2);
}

at::Tensor Rotation::turn_rows(const at::Tensor& rows, std::int64_t first, std::int64_t count) const {
  at::Tensor turned = rows.clone();
  const at::Tensor part = rows.narrow(0, first, count);
  turned.narrow(0, first, count).copy_(rows.dim() == 1 ? turn_heads(part) : turn_heads(part.t().contiguous()).t());
  return turned;
}

std::shared_ptr<const Orthogonal> Rotation::online_input(std::int64_t stage, std::int64_t in_features) const {
  if (stage == kOut) return across_heads_;
  const auto found = down_.find(in_features);
  return stage == kDown && found != down_.end() ? found->second : nullptr;
}

void Rotation::rotate_ends(model::LanguageModel& model) const {
  const at::Tensor norm = model.final_norm_H().to(at::kFloat);
  const at::ScalarType dtype = model.embedding_VH().scalar_type();
  // In pieces: a vocabulary is large.
  const auto rotate_rows = [&](const at::Tensor& matrix_VH, const at::Tensor& scale_H) {
    at::Tensor out = at::empty_like(matrix_VH);
    constexpr std::int64_t kRows = 8192;
    for (std::int64_t v = 0; v < matrix_VH.size(0); v += kRows) {
      const std::int64_t rows = std::min(kRows, matrix_VH.size(0) - v);
      at::Tensor part = matrix_VH.narrow(0, v, rows).to(at::kFloat);
      if (scale_H.defined()) part = part * scale_H;
      out.narrow(0, v, rows).copy_(residual_->apply(part));
    }
    return out;
  };
  model.replace_ends(rotate_rows(model.embedding_VH(), {}), at::ones_like(norm).to(dtype), rotate_rows(model.function_head_VH(), norm));
}

std::map<std::string, at::Tensor> Rotation::rotate_block(model::Block& block) const {
  std::map<std::string, at::Tensor> weights;
  const at::Tensor input_norm = block.input_norm_H, mlp_norm = block.post_attention_norm_H;
  for (std::int64_t s = 0; s < block.num_stages(); ++s)
    for (model::Linear* linear : block.stage(s)) {
      at::Tensor weight = linear->weight_OI.to(at::kFloat);
      at::Tensor bias = linear->bias_O.defined() ? linear->bias_O.to(at::kFloat) : at::Tensor();
      if (follows_norm(s)) {  // readers
        weight = residual_->apply(weight * (s == kQkv ? input_norm : mlp_norm));
        if (const FoldTarget v = fold_target(block, a_, kOut, 0); linear == v.linear) {
          weight = turn_rows(weight, v.first_row, v.rows);
          if (bias.defined()) bias = turn_rows(bias, v.first_row, v.rows);
        }
      } else {  // writers
        if (s == kOut) weight = turn_heads(weight);
        weight = through_columns(*residual_, weight);
        if (bias.defined()) bias = residual_->apply(bias);
      }
      linear->weight_OI = weights[linear->name] = weight.contiguous();
      linear->bias_O = bias;
    }
  if (block.router_EH.defined()) block.router_EH = residual_->apply(block.router_EH * mlp_norm);
  block.input_norm_H = at::ones_like(input_norm);
  block.post_attention_norm_H = at::ones_like(mlp_norm);
  return weights;
}

}  // namespace miq::executor
