#include "miq/core/dtype.h"

#include "miq/core/error.h"

namespace miq {
namespace {

struct Row {
  at::ScalarType dtype;
  const char* name;
  const char* safetensors;
};

constexpr Row kRows[] = {
    {at::kFloat, "float32", "F32"},         {at::kBFloat16, "bfloat16", "BF16"},
    {at::kHalf, "float16", "F16"},          {at::kDouble, "float64", "F64"},
    {at::kLong, "int64", "I64"},            {at::kInt, "int32", "I32"},
    {at::kShort, "int16", "I16"},           {at::kChar, "int8", "I8"},
    {at::kByte, "uint8", "U8"},             {at::kBool, "bool", "BOOL"},
    {at::kFloat8_e4m3fn, "float8_e4m3fn", "F8_E4M3"},
    {at::kFloat8_e5m2, "float8_e5m2", "F8_E5M2"},
    {at::kFloat8_e8m0fnu, "float8_e8m0fnu", "F8_E8M0"},
    {at::kUInt16, "uint16", "U16"},         {at::kUInt32, "uint32", "U32"},
    {at::kUInt64, "uint64", "U64"},
};

}  // namespace

std::string dtype_name(at::ScalarType dtype) {
  for (const Row& row : kRows)
    if (row.dtype == dtype) return row.name;
  return c10::toString(dtype);
}

std::optional<at::ScalarType> dtype_from_name(const std::string& name) {
  for (const Row& row : kRows)
    if (name == row.name) return row.dtype;
  return std::nullopt;
}

std::string safetensors_name(at::ScalarType dtype) {
  for (const Row& row : kRows)
    if (row.dtype == dtype) return row.safetensors;
  throw Error(ErrorKind::internal, std::string("safetensors has no element type ") + c10::toString(dtype));
}

std::optional<at::ScalarType> dtype_from_safetensors(const std::string& name) {
  for (const Row& row : kRows)
    if (name == row.safetensors) return row.dtype;
  return std::nullopt;
}

}  // namespace miq
