// K-quants from floats: layouts are ggml's (see gguf_blocks.cpp), the choice of scales and codes is ours.
#include <cmath>

#include "gguf_blocks.h"
#include "gguf_k_affine.h"
#include "gguf_k_signed.h"

namespace miq {
namespace {

using namespace k_quants;

// Two bits of element 128 h + 32 j + l at bits 2 j of byte 32 h + l: Q2_K, Q3_K and Q6_K's upper bits.
MIQ_INLINE void pack_pairs(const std::uint8_t* codes, int shift, std::uint8_t* out) {
  for (int h = 0; h < 2; ++h)
    for (int l = 0; l < 32; ++l) {
      int byte = 0;
      for (int j = 0; j < 4; ++j) byte |= (codes[128 * h + 32 * j + l] >> shift & 3) << 2 * j;
      out[32 * h + l] = static_cast<std::uint8_t>(byte);
    }
}

MIQ_INLINE void pack_q2_k(const std::uint8_t* codes, const std::uint8_t* scales, const std::uint8_t* mins, float d, float dmin, std::uint8_t* out) {
  for (int s = 0; s < 16; ++s) out[s] = static_cast<std::uint8_t>(scales[s] | mins[s] << 4);
  pack_pairs(codes, 0, out + 16);
  store_half(d, out + 80);
  store_half(dmin, out + 82);
}

template <bool kFifth>
MIQ_INLINE void pack_scaled_nibbles(const std::uint8_t* codes, const std::uint8_t* scales, const std::uint8_t* mins, float d, float dmin,
                                    std::uint8_t* out) {
  store_half(d, out);
  store_half(dmin, out + 2);
  std::uint8_t* const packed = out + 4;
  for (int s = 0; s < 4; ++s) {
    packed[s] = static_cast<std::uint8_t>(scales[s] | (scales[s + 4] >> 4) << 6);
    packed[s + 4] = static_cast<std::uint8_t>(mins[s] | (mins[s + 4] >> 4) << 6);
    packed[s + 8] = static_cast<std::uint8_t>((scales[s + 4] & 15) | (mins[s + 4] & 15) << 4);
  }
  std::uint8_t* const nibbles = out + (kFifth ? 48 : 16);
  for (int j = 0; j < 4; ++j)
    for (int l = 0; l < 32; ++l)
      nibbles[32 * j + l] = static_cast<std::uint8_t>((codes[64 * j + l] & 15) | (codes[64 * j + 32 + l] & 15) << 4);
  if (!kFifth) return;
  for (int l = 0; l < 32; ++l) {
    int byte = 0;
    for (int s = 0; s < 8; ++s) byte |= (codes[32 * s + l] >> 4 & 1) << s;
    out[16 + l] = static_cast<std::uint8_t>(byte);
  }
}

// Levels of a code, largest scale, bytes of a block.
template <int kLength, int kLevels, int kMaxScale, int kBytes, void (*pack)(const std::uint8_t*, const std::uint8_t*, const std::uint8_t*, float, float, std::uint8_t*)>
MIQ_INLINE void encode_affine(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                              std::uint8_t* data) {
  constexpr int kSupers = Tile<kLength>::kSupers;
  Tile<kLength> tile;
  AffineChoice<kLength> choice;
  std::uint8_t codes[kSupers][kSuperBlock], scales[kSupers][16], mins[kSupers][16];
  for (std::int64_t block = begin; block < end; block += kSupers) {
    const float *x[kSupers], *w[kSupers];
    for (int super = 0; super < kSupers; ++super) {
      const std::int64_t own = block + super < end ? block + super : block;
      x[super] = values + own * kSuperBlock;
      w[super] = importance == nullptr ? nullptr : importance + own % row_blocks * kSuperBlock;
    }
    load_tile(tile, x, importance == nullptr ? nullptr : w);
    choose_affine(tile, kLevels, kMaxScale, choice);
    write_codes(tile, kLevels, choice, codes, scales, mins);
    for (int super = 0; super < kSupers && block + super < end; ++super)
      pack(codes[super], scales[super], mins[super], choice.d[super], choice.dmin[super], data + (block + super) * kBytes);
  }
}

MIQ_INLINE void pack_q3_k(const std::uint8_t* codes, const SignedChoice& choice, std::uint8_t* out) {
  for (int l = 0; l < 32; ++l) {
    int byte = 0;
    for (int j = 0; j < 8; ++j) byte |= (codes[32 * j + l] >> 2) << j;
    out[l] = static_cast<std::uint8_t>(byte);
  }
  pack_pairs(codes, 0, out + 32);
  std::uint8_t* const scales = out + 96;
  std::memset(scales, 0, 12);
  for (int s = 0; s < 16; ++s) {
    const int six = static_cast<int>(choice.scales[s]) + 32;
    scales[s % 8] = static_cast<std::uint8_t>(scales[s % 8] | (six & 15) << 4 * (s / 8));
    scales[8 + s % 4] = static_cast<std::uint8_t>(scales[8 + s % 4] | (six >> 4) << 2 * (s / 4));
  }
  store_half(choice.d, out + 108);
}

MIQ_INLINE void pack_q6_k(const std::uint8_t* codes, const SignedChoice& choice, std::uint8_t* out) {
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 64; ++i)
      out[64 * h + i] = static_cast<std::uint8_t>((codes[128 * h + i] & 15) | (codes[128 * h + 64 + i] & 15) << 4);
  pack_pairs(codes, 4, out + 128);
  for (int s = 0; s < 16; ++s) out[192 + s] = static_cast<std::uint8_t>(static_cast<std::int8_t>(choice.scales[s]));
  store_half(choice.d, out + 208);
}

template <int kHalf, int kScaleHalf, int kBytes, void (*pack)(const std::uint8_t*, const SignedChoice&, std::uint8_t*)>
MIQ_INLINE void encode_signed(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                              std::uint8_t* data) {
  SignedTile tile;
  SignedChoice choice;
  std::uint8_t codes[kSuperBlock];
  for (std::int64_t block = begin; block < end; ++block) {
    const float* const x = values + block * kSuperBlock;
    const float* const w = importance == nullptr ? nullptr : importance + block % row_blocks * kSuperBlock;
    load_tile(tile, &x, importance == nullptr ? nullptr : &w);
    choose_signed(tile, kHalf, kScaleHalf, choice);
    write_codes(tile, kHalf, choice, codes);
    pack(codes, choice, data + block * kBytes);
  }
}

}  // namespace

MIQ_VECTORISED void encode_q2_k(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                                std::uint8_t* data) {
  encode_affine<16, 3, 15, 84, pack_q2_k>(values, importance, row_blocks, begin, end, data);
}
MIQ_VECTORISED void encode_q3_k(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                                std::uint8_t* data) {
  encode_signed<4, 32, 110, pack_q3_k>(values, importance, row_blocks, begin, end, data);
}
MIQ_VECTORISED void encode_q4_k(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                                std::uint8_t* data) {
  encode_affine<32, 15, 63, 144, pack_scaled_nibbles<false>>(values, importance, row_blocks, begin, end, data);
}
MIQ_VECTORISED void encode_q5_k(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                                std::uint8_t* data) {
  encode_affine<32, 31, 63, 176, pack_scaled_nibbles<true>>(values, importance, row_blocks, begin, end, data);
}
MIQ_VECTORISED void encode_q6_k(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin, std::int64_t end,
                                std::uint8_t* data) {
  encode_signed<32, 128, 210, pack_q6_k>(values, importance, row_blocks, begin, end, data);
}

}  // namespace miq
