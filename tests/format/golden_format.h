// A golden checkpoint through a format: its decoder gives the reference's weights to the bit, encoding them again gives the
// file's tensors, and what is declared of them says the same as the file's configuration.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "memory_source.h"
#include "miq/core/digest.h"
#include "miq/core/dtype.h"
#include "miq/core/safetensors.h"
#include "miq/core/text.h"
#include "miq/format/format.h"
#include "support/golden.h"
#include "support/test_device.h"

namespace miq::format::test {

using nlohmann::json;

struct GoldenCase {
  std::string folder, format;
  bool half_products = false;  ///< the reference rounded scale * (code - zero) to float16
  std::string version = {};    ///< of the format, for encoding
  std::set<std::string> keys =
      {};  ///< of quantization_config that are compared; the rest carries no meaning, or is compared by the schemes that it gives
  std::set<std::string> lost = {};   ///< ends of names that the decoder owns and no encoder writes (k_scale)
  std::set<std::string> apart = {};  ///< parts of names of tensors compared elsewhere
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline json golden_json(const std::string& folder, const std::string& file) {
  const auto path = miq::test::golden_dir() / "formats" / folder / file;
  return parse_json(read_text(path), path.string());
}

inline std::string sha256_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.cpu().contiguous();
  return miq::sha256({static_cast<const char*>(values.const_data_ptr()), values.nbytes()});
}

inline testing::AssertionResult same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes())
    return testing::AssertionFailure() << a.toString() << a.sizes() << " is not " << b.toString() << b.sizes();
  if (sha256_of(a) != sha256_of(b)) return testing::AssertionFailure() << "the bytes differ";
  return testing::AssertionSuccess();
}

/// Those that servers fuse together, each once, in the order of a block.
inline std::vector<std::vector<NamedLinear>> fused_linears(const std::vector<NamedLinear>& linears) {
  std::map<std::string, std::vector<NamedLinear>> sets;
  for (const NamedLinear& linear : linears) {
    const size_t dot = linear.name.rfind('.');
    const std::string prefix = linear.name.substr(0, dot), own = linear.name.substr(dot + 1);
    const char* stage = own == "q_proj" || own == "k_proj" || own == "v_proj" ? "1" : own == "o_proj" ? "2" : own == "gate_proj" || own == "up_proj" ? "3" : "4";
    std::vector<NamedLinear>& set = sets[prefix.substr(0, prefix.rfind('.')) + "." + stage];
    set.insert(own == "q_proj" ? set.begin() : set.end(), linear);
  }
  std::vector<std::vector<NamedLinear>> list;
  for (auto& [name, set] : sets) list.push_back(std::move(set));
  return list;
}

/// What must be known before a linear is read.
inline void expect_same_scheme(const Scheme& a, const Scheme& b) {
  SCOPED_TRACE(a.name);
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.out_features, b.out_features);
  EXPECT_EQ(a.in_features, b.in_features);
  EXPECT_EQ(a.grid.type, b.grid.type);
  EXPECT_EQ(a.grid.bits, b.grid.bits);
  EXPECT_EQ(a.grid.symmetric, b.grid.symmetric);
  EXPECT_EQ(a.grid.granularity, b.grid.granularity);
  if (a.grid.granularity == quantizer::Granularity::group || a.grid.granularity == quantizer::Granularity::block) {
    EXPECT_EQ(a.grid.group_size, b.grid.group_size);
  }
  EXPECT_EQ(a.grid.scale_dtype, b.grid.scale_dtype);
  EXPECT_EQ(a.activation.bits, b.activation.bits);
  if (a.activation.enabled()) {
    EXPECT_EQ(a.activation.type, b.activation.type);
    EXPECT_EQ(a.activation.granularity, b.activation.granularity);
    EXPECT_EQ(a.activation.dynamic, b.activation.dynamic);
    EXPECT_EQ(a.activation.symmetric, b.activation.symmetric);
    if (a.activation.granularity == quantizer::ActivationGranularity::group) {
      EXPECT_EQ(a.activation.group_size, b.activation.group_size);
    }
  }
  EXPECT_EQ(a.group_of_column, b.group_of_column);
  EXPECT_EQ(a.rotated_input, b.rotated_input);
  EXPECT_EQ(a.rotated_output, b.rotated_output);
}

inline bool ends_in_any(const std::string& name, const std::set<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) { return name.ends_with(end); });
}

/// Linears of blocks and the head that the file keeps in float: two-dimensional weights that are no embedding.
inline std::vector<std::string> kept_linears(const TensorSource& source, const Decoder& decoder) {
  std::vector<std::string> out;
  for (const TensorSpec& spec : source.specs())
    if (spec.shape.size() == 2 && spec.name.ends_with(".weight") && !decoder.owns(spec.name) && spec.name.find("embed") == std::string::npos)
      out.push_back(spec.name.substr(0, spec.name.size() - 7));
  return out;
}

inline void check_golden(const GoldenCase& c) {
  SCOPED_TRACE(c.folder);
  const auto folder = miq::test::golden_dir() / "formats" / c.folder;
  const json config = golden_json(c.folder, "config.json"), reference = golden_json(c.folder, "reference.json"),
             quantization = config.at("quantization_config");
  for (const Format* format : formats()) EXPECT_EQ(format->recognises(quantization), format->name == c.format) << format->name;
  const Format& format = find_format(c.format);
  const std::shared_ptr<const TensorSource> source = open_checkpoint(folder);
  const auto decoder = format.open(source, quantization, config, folder.string());

  // The weights.
  const json& digests = reference.at("sha256_of_fp32_weights");
  const SafetensorsFile expected = SafetensorsFile::open(folder / "expected.safetensors");
  EXPECT_EQ(decoder->linears().size(), digests.size());
  std::vector<NamedLinear> linears;
  for (const Scheme& scheme : decoder->linears()) {
    const std::string tensor = scheme.name + ".weight";
    SCOPED_TRACE(scheme.name);
    auto linear = std::make_shared<quantizer::QuantizedLinear>(to_device(decoder->linear(scheme.name), miq::test::device()));
    at::Tensor weight = quantizer::stored_weight(*linear);
    if (c.half_products) weight = weight.to(at::kHalf).to(at::kFloat);
    ASSERT_TRUE(digests.contains(tensor));
    EXPECT_EQ(sha256_of(weight), digests.at(tensor).get<std::string>());
    if (expected.has(tensor)) {
      EXPECT_TRUE(same_bytes(weight, expected.tensor(tensor)));
    }
    expect_same_scheme(scheme, scheme_of(scheme.name, *linear));
    linears.push_back({scheme.name, std::make_shared<quantizer::QuantizedLinear>(to_device(*linear, at::kCPU))});  // encoders are the CPU's
  }

  // The tensors again; those that nobody owns are the model's.
  FormatOptions options;
  options.variant = c.version;
  options.model_dtype = dtype_from_name(config.at("dtype").get<std::string>()).value();
  options.stored_rotations = std::make_shared<std::set<std::string>>();
  std::set<std::string> written;
  std::vector<NamedTensor> all;
  for (const std::vector<NamedLinear>& fused : fused_linears(linears))
    for (NamedTensor& tensor : format.encode(fused, options)) all.push_back(std::move(tensor));
  for (const NamedTensor& made : all) {
    EXPECT_TRUE(written.insert(made.name).second) << made.name << " comes twice";
    if (std::any_of(c.apart.begin(), c.apart.end(), [&](const std::string& part) { return made.name.find(part) != std::string::npos; })) continue;
    ASSERT_TRUE(source->has(made.name)) << made.name;
    EXPECT_TRUE(same_bytes(made.tensor, source->tensor(made.name))) << made.name;
  }
  const std::shared_ptr<const TensorSource> base = open_checkpoint(miq::test::golden_dir() / "formats" / "base");
  for (const TensorSpec& spec : source->specs()) {
    const bool apart =
        std::any_of(c.apart.begin(), c.apart.end(), [&](const std::string& part) { return spec.name.find(part) != std::string::npos; });
    if (!decoder->owns(spec.name)) {
      EXPECT_TRUE(base->has(spec.name)) << spec.name;
    } else if (!apart) {
      EXPECT_NE(written.count(spec.name) != 0, ends_in_any(spec.name, c.lost)) << spec.name;
    }
  }

  // What is declared.
  std::vector<Scheme> schemes;
  for (const std::vector<NamedLinear>& fused : fused_linears(linears))
    for (const NamedLinear& l : fused) schemes.push_back(scheme_of(l.name, *l.linear));
  Declaration declaration;
  format.declare(schemes, kept_linears(*source, *decoder), options, declaration);
  const json declared = json::parse(declaration.config.at("quantization_config").dump());
  EXPECT_TRUE(format.recognises(declared));
  for (const std::string& key : c.keys) EXPECT_EQ(declared.at(key), quantization.at(key)) << key;
  if (c.apart.empty()) {
    const auto again = format.open(source, declared, declaration.config, "the declared configuration");
    ASSERT_EQ(again->linears().size(), decoder->linears().size());
    for (const Scheme& scheme : again->linears()) {
      const auto same = std::find_if(decoder->linears().begin(), decoder->linears().end(), [&](const Scheme& other) { return other.name == scheme.name; });
      ASSERT_NE(same, decoder->linears().end()) << scheme.name;
      expect_same_scheme(scheme, *same);
    }
  }
}

}  // namespace miq::format::test
