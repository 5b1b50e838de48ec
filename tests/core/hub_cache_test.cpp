// Models by their name on the hub, in a cache made for the test.
#include "miq/core/hub_cache.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>

#include "miq/core/error.h"
#include "support/golden.h"

namespace miq {
namespace {
using testing::HasSubstr;
namespace fs = std::filesystem;

class HubCache : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "HOME"}) {
      const char* const value = std::getenv(name);
      former_.emplace_back(name, value != nullptr ? std::optional<std::string>(value) : std::nullopt);
      ::unsetenv(name);
    }
  }
  void TearDown() override {
    for (const auto& [name, value] : former_) value ? ::setenv(name, value->c_str(), 1) : ::unsetenv(name);
  }
  // A repository with the commits "abc" (main) and "def" (refs/pr/1).
  void make(const fs::path& cache) {
    const fs::path repository = cache / "models--org--tiny.model-1";
    for (const auto& [reference, commit] : {std::pair("main", "abc"), std::pair("refs/pr/1", "def")}) {
      fs::create_directories((repository / "refs" / reference).parent_path());
      fs::create_directories(repository / "snapshots" / commit);
      std::ofstream(repository / "refs" / reference) << commit;
    }
  }
  std::string error_of(const std::string& model) {
    try {
      return "found: " + resolve_model_path(model).string();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
      return error.what();
    }
  }
  std::vector<std::pair<const char*, std::optional<std::string>>> former_;
  test::TempFolder folder_;
  const std::string id_ = "org/tiny.model-1";
};

TEST_F(HubCache, PathsAreThemselves) {
  EXPECT_EQ(resolve_model_path(folder_.path().string()), folder_.path());
  EXPECT_THAT(error_of("/no/such/folder"), HasSubstr("no such model folder"));
  EXPECT_THAT(error_of(""), HasSubstr("no model"));
}

TEST_F(HubCache, PlacesInOrder) {
  const fs::path home = folder_.path() / "home", hf = folder_.path() / "hf", hub = folder_.path() / "cache";
  const std::string snapshot = "models--org--tiny.model-1/snapshots/abc";
  for (const fs::path& cache : {home / ".cache/huggingface/hub", hf / "hub", hub}) make(cache);
  ::setenv("HOME", home.c_str(), 1);
  EXPECT_EQ(resolve_model_path(id_), home / ".cache/huggingface/hub" / snapshot);
  ::setenv("HF_HOME", hf.c_str(), 1);
  EXPECT_EQ(resolve_model_path(id_), hf / "hub" / snapshot);
  ::setenv("HF_HUB_CACHE", hub.c_str(), 1);
  EXPECT_EQ(resolve_model_path(id_), hub / snapshot);
}

TEST_F(HubCache, Revisions) {
  make(folder_.path());
  ::setenv("HF_HUB_CACHE", folder_.path().c_str(), 1);
  const fs::path snapshots = folder_.path() / "models--org--tiny.model-1" / "snapshots";
  EXPECT_EQ(resolve_model_path(id_ + "@main"), snapshots / "abc");
  EXPECT_EQ(resolve_model_path(id_ + "@refs/pr/1"), snapshots / "def");
  EXPECT_EQ(resolve_model_path(id_ + "@def"), snapshots / "def");
  EXPECT_THAT(error_of(id_ + "@v2"),
              testing::AllOf(HasSubstr(snapshots.string()), HasSubstr("hf download org/tiny.model-1 --revision v2")));
  EXPECT_THAT(error_of("org/other"), HasSubstr("hf download org/other"));
  fs::remove_all(snapshots / "abc");
  EXPECT_THAT(error_of(id_), HasSubstr("neither"));
}

TEST_F(HubCache, NothingLeadsOutOfTheCache) {
  make(folder_.path());
  ::setenv("HF_HUB_CACHE", folder_.path().c_str(), 1);
  for (const char* model : {"org/..", "../x", "org/a/b", "org/", "/x", "org/tiny.model-1@",
                            "org/tiny.model-1@../../snapshots", "org/tiny.model-1@.", "a b/c"})
    EXPECT_THAT(error_of(model), testing::Not(HasSubstr("found"))) << model;
  std::ofstream(folder_.path() / "models--org--tiny.model-1" / "refs" / "main") << "../../..";
  EXPECT_THAT(error_of(id_), HasSubstr("neither"));
}

}  // namespace
}  // namespace miq
