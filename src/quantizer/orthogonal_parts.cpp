// Orthogonal matrices from their stored parts.
#include <ATen/ATen.h>

#include "miq/core/error.h"
#include "miq/quantizer/orthogonal.h"

namespace miq::quantizer {
namespace {

[[noreturn]] void refuse(const OrthogonalParts& parts, const std::string& what) {
  throw Error(ErrorKind::io, "an orthogonal matrix of kind '" + parts.kind + "' " + what);
}

at::Tensor optional_part(const OrthogonalParts& parts, const std::string& name) {
  const auto found = parts.tensors.find(name);
  return found == parts.tensors.end() ? at::Tensor() : found->second;
}

at::Tensor part(const OrthogonalParts& parts, const std::string& name) {
  at::Tensor tensor = optional_part(parts, name);
  if (!tensor.defined()) refuse(parts, "has no part '" + name + "'");
  return tensor;
}

at::Tensor matrix_part(const OrthogonalParts& parts, const std::string& name) {
  at::Tensor tensor = part(parts, name);
  if (tensor.dim() < 2 || !tensor.is_floating_point()) refuse(parts, "has a part '" + name + "' that is no matrix of floating-point numbers");
  return tensor;
}

std::int64_t whole_part(const OrthogonalParts& parts, const std::string& name) {
  const at::Tensor tensor = part(parts, name);
  if (tensor.numel() != 1 || tensor.scalar_type() != at::kLong) refuse(parts, "has a part '" + name + "' that is not one int64");
  return tensor.item<std::int64_t>();
}

std::shared_ptr<const Orthogonal> rebuild(const OrthogonalParts& parts) {
  if (parts.kind == "dense") return dense_orthogonal(matrix_part(parts, "matrix"));
  if (parts.kind == "block_diagonal") return block_diagonal(matrix_part(parts, "block"), parts.order);
  if (parts.kind == "random_kronecker") return random_kronecker(parts.order, static_cast<std::uint64_t>(whole_part(parts, "seed")));
  if (parts.kind == "random_hadamard") return random_hadamard(parts.order, static_cast<std::uint64_t>(whole_part(parts, "seed")));
  if (parts.kind == "kronecker")
    return make_kronecker(
        {optional_part(parts, "perm_in"), optional_part(parts, "perm_out"), matrix_part(parts, "first"), matrix_part(parts, "second")});
  if (parts.kind == "hadamard") {
    if (const at::Tensor signs = optional_part(parts, "signs"); signs.defined()) return signed_hadamard(signs, parts.order);
    const std::int64_t k = whole_part(parts, "k");
    if (k < 1) refuse(parts, "has K = " + std::to_string(k));
    return hadamard(parts.order, k);
  }
  refuse(parts, "is not known");
}

}  // namespace

std::shared_ptr<const Orthogonal> make_orthogonal(const OrthogonalParts& parts) {
  if (parts.order <= 0) refuse(parts, "has order " + std::to_string(parts.order));
  std::shared_ptr<const Orthogonal> made;
  try {
    made = rebuild(parts);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::internal) throw;
    refuse(parts, "cannot be made: " + error.message());  // what would be a bug of a caller is a damaged file here
  }
  if (made->order() != parts.order) refuse(parts, "is of order " + std::to_string(made->order()) + ", not " + std::to_string(parts.order));
  return made;
}

}  // namespace miq::quantizer
