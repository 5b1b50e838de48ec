// What the parts of the compressed-tensors format share.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "miq/format/format.h"
#include "reading.h"

namespace miq::format::ct {

/// `targets` of a configuration: exact names, "re:" patterns, the class Linear.
class Targets {
 public:
  Targets(const std::vector<std::string>& entries, const std::string& where);
  /// 0: named, 1: by a pattern, 2: by its class; nullopt: not meant.
  std::optional<int> match(const std::string& linear) const;

 private:
  std::set<std::string> exact_;
  std::vector<NamePattern> patterns_;
  bool class_ = false;
};

/// The rotations at run time of a transform_config (compressed-tensors 0.19 transform/), read.
class Rotations {
 public:
  /// @throws Error{io, unsupported}
  Rotations(const Contents& contents, const nlohmann::json& quantization);
  /// The matrix tensors.
  const std::set<std::string>& tensors() const { return tensors_; }
  /// Whether one applies at "input" or "output". @throws Error{unsupported} for two.
  bool rotates(const std::string& linear, const std::string& location) const { return find(linear, location) != nullptr; }
  /// V of order n (location "input"), U ("output"); null: none. @throws Error{io}
  std::shared_ptr<const quantizer::Orthogonal> rotation(const Contents& contents, const std::string& linear, const std::string& location,
                                                        std::int64_t n) const;

 private:
  struct Application {
    std::string scheme, type, location;
    std::int64_t block;  // 0: the whole dimension
    bool inverse;
    Targets targets, ignore;
  };
  const Application* find(const std::string& linear, const std::string& location) const;
  std::string matrix_of(const Contents& contents, const Application& application, const std::string& linear, std::int64_t order) const;

  std::vector<Application> applications_;
  std::set<std::string> tensors_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<const quantizer::Orthogonal>> made_;  // by tensor, direction and order
};

/// The matrices of the linears' rotations that are not yet in `stored`, each under the first linear that has it.
std::vector<NamedTensor> encode_rotations(const std::vector<NamedLinear>& linears, std::set<std::string>& stored);
/// transform_config; an empty object when nothing is rotated.
nlohmann::ordered_json declare_rotations(const std::vector<Scheme>& schemes);

/// What vLLM, SGLang, transformers, TensorRT-LLM and llama.cpp refuse.
std::vector<std::string> warnings(const std::vector<Scheme>& schemes, const FormatOptions& options);

/// How the weight of a linear is stored.
enum class Storage { packed, integers, floats };
Storage storage_of(const Scheme& scheme);
/// "channel", "group", ...
std::string strategy_of(const Scheme& scheme);
/// An entry of config_groups without its targets.
nlohmann::ordered_json declared_group_of(const Scheme& scheme);

std::unique_ptr<Decoder> open(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const nlohmann::json& config,
                              const std::string& where);

}  // namespace miq::format::ct
