// transform_config: rotations of a linear's input and output at run time. A row x becomes x T, T = M / sqrt(n), transposed if
// inverse; a matrix M stands once for each scheme and size, under the first linear that has it.
// Sources: compressed-tensors 0.19 transform/{transform_config,factory/hadamard}.py; vLLM 0.33 compressed_tensors/transform.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "compressed_tensors.h"

namespace miq::format::ct {
namespace {

using quantizer::Orthogonal;

std::string tensor_name(const std::string& linear, const std::string& scheme, const std::string& location) {
  return linear + "." + scheme + "_" + location + ".weight";
}

// The first rotation of each side is "v" or "u", as QuIP's modifier calls them; more of them tell themselves apart.
std::string scheme_name(const std::string& side, const std::string& rotation, bool first) { return first ? side : side + "_" + rotation; }

// Sylvester's matrix, +-1.
at::Tensor sylvester(std::int64_t n) { return quantizer::hadamard(n, 1)->apply(at::eye(n, at::kDouble)).sign(); }

// M of a rotation or of the block that it repeats: sqrt(n) Q^T, whose rows are Q's images of the unit vectors.
at::Tensor matrix_of_rotation(const Orthogonal& rotation) {
  const quantizer::OrthogonalParts parts = rotation.parts();
  const auto block = parts.tensors.find("block");
  const at::Tensor turned = block != parts.tensors.end() ? block->second.to(at::kDouble).t() : rotation.apply(at::eye(rotation.order(), at::kDouble));
  const at::Tensor matrix = turned.contiguous() * std::sqrt(static_cast<double>(turned.size(0)));
  const bool signs = (matrix.abs() - 1).abs().max().item<double>() < 1e-5;  // a Hadamard matrix, exactly
  return signs ? matrix.sign() : matrix;
}

}  // namespace

Rotations::Rotations(const Contents& contents, const nlohmann::json& quantization) {
  const std::string& where = contents.where();
  for (const auto& [name, scheme] : member(member(quantization, "transform_config", where), "config_groups", where).items()) {
    const std::string type = text(scheme, "type", where);
    const std::int64_t block = whole_number(scheme, "head_dim", 1, kMaxGroup, where, 0);
    if (!scheme.contains("apply") || !scheme.at("apply").is_array())
      throw Error(ErrorKind::io, "quantization configuration: 'apply' of transform '" + name + "' is no list", where);
    for (const nlohmann::json& apply : scheme.at("apply")) {
      const std::string location = text(apply, "location", where);
      if (location == "weight_input" || location == "weight_output") continue;  // done to the stored weights
      if (location != "input" && location != "output")
        throw Error(ErrorKind::unsupported, "rotations at '" + location + "' cannot be read", where, "those of linears' inputs and outputs can");
      if (type != "hadamard" && type != "random-hadamard")
        throw Error(ErrorKind::unsupported, "transforms of type '" + type + "' cannot be read", where, "hadamard and random-hadamard can");
      applications_.push_back({name, type, location, block, flag(apply, "inverse", where, false), Targets(texts(apply, "targets", where), where),
                               Targets(texts(apply, "ignore", where), where)});
      for (const std::string& linear : contents.named("." + name + "_" + location + ".weight")) tensors_.insert(tensor_name(linear, name, location));
    }
  }
}

const Rotations::Application* Rotations::find(const std::string& linear, const std::string& location) const {
  const Application* found = nullptr;
  for (const Application& a : applications_) {
    if (a.location != location || !a.targets.match(linear) || a.ignore.match(linear)) continue;
    if (found != nullptr) throw Error(ErrorKind::unsupported, "two rotations of its " + location + " cannot be read", linear);
    found = &a;
  }
  return found;
}

// The linear's own, else the one of its scheme and order; "": none is stored.
std::string Rotations::matrix_of(const Contents& contents, const Application& a, const std::string& linear, std::int64_t order) const {
  const std::string own = tensor_name(linear, a.scheme, a.location), end = own.substr(linear.size());
  if (contents.has(own)) return own;
  for (const std::string& name : tensors_)
    if (name.ends_with(end) && contents.specs().at(name).shape == std::vector<std::int64_t>{order, order}) return name;
  return "";
}

std::shared_ptr<const Orthogonal> Rotations::rotation(const Contents& contents, const std::string& linear, const std::string& location,
                                                      std::int64_t n) const {
  const Application* a = find(linear, location);
  if (a == nullptr) return nullptr;
  const std::int64_t order = a->block == 0 ? n : a->block;
  if (n % order != 0)
    throw Error(ErrorKind::io, "rotations of " + std::to_string(order) + " do not divide its " + location + " of " + std::to_string(n), linear);
  const std::string stored = matrix_of(contents, *a, linear, order);
  if (stored.empty() && a->type != "hadamard")
    contents.refuse(tensor_name(linear, a->scheme, location),
                    "the tensor is missing, as is any other of this transform and order " + std::to_string(order));
  const std::string key = stored + (a->inverse ? " inverse " : " ") + location + " " + std::to_string(n);
  const std::lock_guard lock(mutex_);
  if (const auto found = made_.find(key); found != made_.end()) return found->second;
  if (stored.empty() && (order & (order - 1)) != 0)
    throw Error(ErrorKind::io, "there is no Sylvester matrix of order " + std::to_string(order) + " for the transform '" + a->scheme + "'", linear);
  at::Tensor matrix;
  if (stored.empty() && order == n) return made_[key] = quantizer::hadamard(n, 1);  // symmetric
  matrix =
      stored.empty() ? sylvester(order) : contents.read(stored, {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}, {order, order}).to(at::kDouble);
  const at::Tensor norms = matrix.square().sum(1) / static_cast<double>(order);
  if (!((norms - 1).abs() < 1e-2).all().item<bool>()) contents.refuse(stored, "the rows of a rotation are not of length sqrt(n)");
  // x T for rows is Q = T^T for columns; at the output the row y' T is U^T y': U = T.
  const bool transposed = (location == "input") != a->inverse;
  at::Tensor q = (transposed ? matrix.t() : matrix).div(std::sqrt(static_cast<double>(order))).to(at::kFloat).contiguous();
  return made_[key] = order == n ? quantizer::dense_orthogonal(q) : quantizer::block_diagonal(q, n);
}

std::vector<NamedTensor> encode_rotations(const std::vector<NamedLinear>& linears, std::set<std::string>& stored) {
  std::vector<NamedTensor> out;
  const auto store = [&](const std::string& linear, const std::string& side, const std::string& rotation, const char* location, const Orthogonal& matrix) {
    const bool first = std::none_of(stored.begin(), stored.end(), [&](const std::string& other) { return other[0] == side[0]; });
    if (stored.insert(side + "_" + rotation).second) out.push_back({tensor_name(linear, scheme_name(side, rotation, first), location), matrix_of_rotation(matrix)});
  };
  for (const NamedLinear& named : linears) {
    const auto& online = named.linear->online;
    if (!online.input && !online.output) continue;
    const Scheme s = scheme_of(named.name, *named.linear);
    if (online.input) store(named.name, "v", s.input_rotation, "input", *online.input);
    if (online.output) store(named.name, "u", s.output_rotation, "output", *online.output);
  }
  return out;
}

nlohmann::ordered_json declare_rotations(const std::vector<Scheme>& schemes) {
  using Json = nlohmann::ordered_json;
  Json groups = Json::object();
  std::map<std::string, std::string> first;  // of each side
  const auto apply = [](const char* location, bool inverse) {
    return Json{{"targets", Json::array()}, {"ignore", Json::array()}, {"location", location}, {"inverse", inverse}};
  };
  const auto add = [&](const Scheme& s, const std::string& side, const std::string& rotation) {
    if (rotation.empty()) return;
    const bool is_first = first.emplace(side, rotation).first->second == rotation;
    Json& group = groups[scheme_name(side, rotation, is_first)];
    if (group.is_null()) {
      group = {{"type", "random-hadamard"},
               {"head_dim", std::stoll(rotation)},
               {"randomize", false},
               {"requires_grad", false},
               {"precision", "torch.float64"}};
      group["apply"] = side == "v" ? Json::array({apply("input", false), apply("weight_input", true)})
                                   : Json::array({apply("weight_output", false), apply("output", true)});
    }
    for (Json& one : group["apply"]) one["targets"].push_back(s.name);
  };
  for (const Scheme& s : schemes) {
    if (s.rotated_input == s.input_rotation.empty() || s.rotated_output == s.output_rotation.empty())
      throw Error(ErrorKind::internal, "declared before its rotations are known", s.name);
    add(s, "v", s.input_rotation);
    add(s, "u", s.output_rotation);
  }
  return groups.empty() ? Json::object() : Json{{"config_groups", groups}};
}

}  // namespace miq::format::ct
