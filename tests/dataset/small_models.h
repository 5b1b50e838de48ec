// Model files made on the spot.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "../../src/dataset/sentencepiece_proto.h"
#include "support/golden.h"

namespace miq::dataset {

/// A sentencepiece model: <unk>, <s>, </s>, the bytes, a few letters and words; 259 is the space, 264 " ab".
inline std::string small_proto() {
  std::vector<SentencePiece> pieces = {
      {"<unk>", 0, PieceType::unknown}, {"<s>", 0, PieceType::control}, {"</s>", 0, PieceType::control}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    pieces.push_back({name, 0, PieceType::byte});
  }
  for (const char* text : {"\xE2\x96\x81", "a", "b", "c", "ab",
                           "\xE2\x96\x81"
                           "ab",
                           "abc"})
    pieces.push_back({text, -static_cast<float>(pieces.size())});
  pieces.push_back({"<h2>", 0, PieceType::user_defined});
  return write_model_proto(pieces, {0, 1, 2, true, false});
}

/// A tiktoken file of `ranks` tokens (at least 256): the bytes, then three bytes each.
inline std::string tiktoken_file(int ranks) {
  static const std::string kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string file;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto digit = [&](int value) { return kAlphabet[static_cast<size_t>(value & 63)]; };
    const int made = 0x414141 + rank;
    file += rank < 256 ? std::string{digit(rank >> 2), digit(rank << 4)} + "=="
                       : std::string{digit(made >> 18), digit(made >> 12), digit(made >> 6), digit(made)};
    file += " " + std::to_string(rank) + "\n";
  }
  return file;
}

/// Tests of a folder that they fill.
class FolderTest : public testing::Test {
 protected:
  void put(const std::string& name, const std::string& content) {
    std::ofstream(folder_.path() / name, std::ios::binary) << content;
  }
  test::TempFolder folder_;
};

}  // namespace miq::dataset
