#include "block_journal.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/safetensors.h"
#include "miq/core/text.h"
#include "miq/format/format.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using quantizer::Orthogonal;
using quantizer::OrthogonalParts;
using quantizer::QuantizedLinear;
using Tensors = std::map<std::string, at::Tensor>;

const char* const kRecord = "record";  // the JSON beside the tensors, as bytes

// Each tensor of a linear that is stored as it is, under its name.
template <class Linear, class See>
void visit_tensors(Linear& linear, const See& see) {
  see("scales", linear.params.scales_OG);
  see("zeros", linear.params.zeros_OG);
  see("scale_codes", linear.bilevel.scale_codes_OG);
  see("scale_scales", linear.bilevel.scale_scales_RG);
  see("scale_zeros", linear.bilevel.scale_zeros_RG);
  see("zero_codes", linear.bilevel.zero_codes_OG);
  see("zero_scales", linear.bilevel.zero_scales_RG);
  see("zero_zeros", linear.bilevel.zero_zeros_RG);
  see("outlier_rows", linear.outliers.row_offsets);
  see("outlier_columns", linear.outliers.columns);
  see("outlier_values", linear.outliers.values);
  see("divisor", linear.online.divisor_I);
  see("input_scale", linear.activation_params.scale);
  see("input_zero", linear.activation_params.zero);
  see("group_of_column", linear.group_of_column);
}

// A matrix that many linears share is stored once for each: its parts are a seed, or small.
Json put_rotation(const std::string& prefix, const Orthogonal* matrix, Tensors& tensors) {
  if (matrix == nullptr) return nullptr;
  const OrthogonalParts parts = matrix->parts();
  Json names = Json::array();
  for (const auto& [name, tensor] : parts.tensors) {
    names.push_back(name);
    tensors[prefix + name] = tensor;
  }
  return {{"kind", parts.kind}, {"order", parts.order}, {"tensors", names}};
}

Json put_linear(const std::string& prefix, const QuantizedLinear& linear, Tensors& tensors) {
  const int bits = linear.grid.is_integer() ? linear.grid.bits : 8;
  tensors[prefix + "codes"] = bits == 8 ? linear.codes_OI : format::pack_bits(linear.codes_OI, bits);
  visit_tensors(linear, [&](const char* name, const at::Tensor& tensor) {
    if (tensor.defined()) tensors[prefix + name] = tensor;
  });
  Json events = Json::array();
  for (const quantizer::Event& event : linear.events) events.push_back({{"code", event.code}, {"detail", event.detail}});
  return {{"bits", bits},
          {"in_features", linear.in_features()},
          {"outlier_bits", linear.outliers.value_bits},
          {"parameter_bits", linear.online.parameter_bits},
          {"input_rotation", put_rotation(prefix + "input.", linear.online.input.get(), tensors)},
          {"output_rotation", put_rotation(prefix + "output.", linear.online.output.get(), tensors)},
          {"loss", number_or_null(linear.loss)},
          {"relative_error", number_or_null(linear.relative_error)},
          {"events", events}};
}

double number(const nlohmann::json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }

class Reader {
 public:
  Reader(const Tensors& tensors, const std::string& where) : tensors_(tensors), where_(where) {}

  at::Tensor tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw Error(ErrorKind::io, "no tensor '" + name + "'", where_, "the file is damaged: start anew with --overwrite");
    return found->second;
  }

  std::shared_ptr<const Orthogonal> rotation(const std::string& prefix, const nlohmann::json& told) const {
    if (told.is_null()) return nullptr;
    OrthogonalParts parts{told.at("kind").get<std::string>(), told.at("order").get<std::int64_t>(), {}};
    for (const auto& name : told.at("tensors")) parts.tensors[name.get<std::string>()] = tensor(prefix + name.get<std::string>());
    return make_orthogonal(parts);
  }

  std::shared_ptr<QuantizedLinear> linear(const std::string& prefix, const nlohmann::json& told) const {
    auto linear = std::make_shared<QuantizedLinear>();
    const int bits = told.at("bits").get<int>();
    const at::Tensor codes = tensor(prefix + "codes");
    linear->codes_OI = bits == 8 ? codes : format::unpack_bits(codes, bits, told.at("in_features").get<std::int64_t>());
    visit_tensors(*linear, [&](const char* name, at::Tensor& own) {
      if (const auto found = tensors_.find(prefix + name); found != tensors_.end()) own = found->second;
    });
    linear->outliers.value_bits = told.at("outlier_bits").get<int>();
    linear->online.parameter_bits = told.at("parameter_bits").get<std::int64_t>();
    linear->online.input = rotation(prefix + "input.", told.at("input_rotation"));
    linear->online.output = rotation(prefix + "output.", told.at("output_rotation"));
    linear->loss = number(told.at("loss"));
    linear->relative_error = number(told.at("relative_error"));
    for (const auto& event : told.at("events")) linear->events.push_back({event.at("code").get<std::string>(), event.at("detail").get<std::string>()});
    return linear;
  }

 private:
  const Tensors& tensors_;
  const std::string& where_;
};

Tensors to_tensors(const SolvedBlock& block) {
  Tensors tensors;
  Json record = {{"linears", Json::object()}, {"divisors", Json::array()}, {"seconds", block.effort.seconds}, {"cpu_seconds", block.effort.cpu_seconds}, {"seconds_by_phase", block.effort.seconds_by_phase}};
  for (const auto& [name, linear] : block.linears) record["linears"][name] = put_linear(name + ".", *linear, tensors);
  for (const auto& [place, divisor] : block.divisors) {
    record["divisors"].push_back({place.first, place.second});
    tensors["divisor." + std::to_string(place.first) + "." + std::to_string(place.second)] = divisor;
  }
  const std::string text = record.dump();
  tensors[kRecord] = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::memcpy(tensors[kRecord].mutable_data_ptr(), text.data(), text.size());
  for (auto& entry : tensors) entry.second = entry.second.cpu().contiguous();
  return tensors;
}

SolvedBlock solved_block(const Tensors& tensors, const std::string& where) {
  const Reader reader(tensors, where);
  const at::Tensor bytes = reader.tensor(kRecord);
  const nlohmann::json record = parse_json(std::string(static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())), where);
  SolvedBlock block;
  try {
    for (const auto& [name, told] : record.at("linears").items()) block.linears[name] = reader.linear(name + ".", told);
    for (const auto& place : record.at("divisors")) {
      const auto stage = place.at(0).get<std::int64_t>();
      const auto group = place.at(1).get<size_t>();
      block.divisors[{stage, group}] = reader.tensor("divisor." + std::to_string(stage) + "." + std::to_string(group));
    }
    block.effort = {record.at("seconds"), record.at("cpu_seconds"), record.at("seconds_by_phase")};
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("no record of a finished block: ") + error.what(), where, "the file is damaged: start anew with --overwrite");
  }
  return block;
}

}  // namespace

SolvedBlock to_device(SolvedBlock block, const at::Device& device) {
  for (auto& entry : block.linears) entry.second = std::make_shared<QuantizedLinear>(to_device(*entry.second, device));
  for (auto& entry : block.divisors) entry.second = entry.second.to(device);
  return block;
}

// The length of a JSON header, the header, the tensors' bytes.
std::string to_bytes(const SolvedBlock& block) {
  const Tensors tensors = to_tensors(block);
  Json header = Json::array();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header.push_back({name, static_cast<int>(tensor.scalar_type()), tensor.sizes().vec()});
    data.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data;
}

SolvedBlock solved_block(const std::string& bytes) {
  const std::string where = "another rank's message";
  std::uint64_t length = 0;
  const auto refuse = [&] { throw Error(ErrorKind::io, "not a record of a finished block", where); };
  if (bytes.size() < sizeof length) refuse();
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - sizeof length) refuse();
  size_t at = sizeof length + length;
  Tensors tensors;
  for (const auto& told : parse_json(bytes.substr(sizeof length, length), where)) {
    at::Tensor tensor = at::empty(told.at(2).get<std::vector<std::int64_t>>(), static_cast<at::ScalarType>(told.at(1).get<int>()));
    if (tensor.nbytes() > bytes.size() - at) refuse();
    std::memcpy(tensor.mutable_data_ptr(), bytes.data() + at, tensor.nbytes());
    at += tensor.nbytes();
    tensors[told.at(0).get<std::string>()] = tensor;
  }
  return solved_block(tensors, where);
}

BlockJournal::BlockJournal(fs::path folder) : folder_(std::move(folder)) {
  std::error_code problem;
  fs::create_directories(folder_, problem);
  if (problem) throw_system_error("create", folder_, problem.value());
}

fs::path BlockJournal::file_of(std::int64_t layer) const { return folder_ / ("block-" + std::to_string(layer) + ".safetensors"); }

std::int64_t BlockJournal::finished_blocks() const {
  std::int64_t count = 0;
  while (fs::exists(file_of(count))) ++count;
  return count;
}

void BlockJournal::write(std::int64_t layer, const SolvedBlock& block) const {
  const fs::path partial = folder_ / "block.partial";  // one process writes here: what another left is overwritten
  save_safetensors(partial, to_tensors(block));
  rename_synced(partial, file_of(layer));
}

SolvedBlock BlockJournal::read(std::int64_t layer) const {
  const SafetensorsFile file = SafetensorsFile::open(file_of(layer));
  Tensors tensors;
  for (const auto& [name, spec] : file.specs()) tensors[name] = file.tensor(name).clone();
  return solved_block(tensors, file.path().string());
}

}  // namespace miq::executor
