// Every golden checkpoint that a format of formats.def reads.
#include "golden_format.h"

#include <regex>

namespace miq::format {
namespace {

using test::GoldenCase;

class GoldenFormat : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenFormat, ReadsWritesAndDeclares) {
  MIQ_REQUIRE_GOLDEN("formats/" + GetParam().folder);
  test::check_golden(GetParam());
}

// Left out: meta (how it was made) and dynamic (patterns: compared by the schemes they give).
GoldenCase gptq(const std::string& folder, const std::string& version) {
  return {.folder = folder,
          .format = "gptq",
          .half_products = true,
          .version = version,
          .keys = {"bits", "group_size", "desc_act", "sym", "lm_head", "checkpoint_format", "format", "method", "quant_method", "pack_dtype"}};
}

// Left out: what gptqmodel adds to AWQ's own keys (checkpoint_format, desc_act, lm_head, meta, method, pack_dtype).
GoldenCase awq(const std::string& folder) {
  return {.folder = folder, .format = "awq", .half_products = true, .keys = {"bits", "group_size", "zero_point", "version", "quant_method"}};
}

std::string name_of(const testing::TestParamInfo<GoldenCase>& info) { return info.param.folder; }

INSTANTIATE_TEST_SUITE_P(Gptq, GoldenFormat,
                         testing::Values(gptq("gptq_v1_mixed_dynamic", "v1"), gptq("gptq_v1_w2g64_sym", "v1"), gptq("gptq_v1_w3g128_sym", "v1"),
                                         gptq("gptq_v1_w4_channel_sym", "v1"), gptq("gptq_v1_w4g128_lmhead", "v1"), gptq("gptq_v1_w4g128_sym", "v1"),
                                         gptq("gptq_v1_w4g64_asym", "v1"), gptq("gptq_v1_w4g64_descact_sym", "v1"), gptq("gptq_v1_w8g128_sym", "v1"),
                                         gptq("gptq_v2_w2g64_asym", "v2"), gptq("gptq_v2_w3g64_asym", "v2"), gptq("gptq_v2_w4g128_asym", "v2")),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Awq, GoldenFormat, testing::Values(awq("awq_gemm_w4g128_sym"), awq("awq_gemm_w4g128_zp"), awq("awq_gemm_w4g64_zp")), name_of);

}  // namespace
}  // namespace miq::format
