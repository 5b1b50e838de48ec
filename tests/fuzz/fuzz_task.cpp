// A task file and the rows that it is asked about, in one input: YAML, a line "---rows", JSONL.
#include <unistd.h>

#include <fstream>

#include "fuzz.h"
#include "miq/dataset/task.h"

namespace {

namespace fs = std::filesystem;

// A folder for the rows, removed at the end of the process.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("miq-fuzz-task-" + std::to_string(getpid()));
  Folder() { fs::create_directories(path / "rows"); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  return miq::fuzz::answer(data, size, [](std::string_view input) {
    const std::string border = "---rows\n";
    const size_t at = input.find(border);
    miq::dataset::Task task = miq::dataset::read_task(std::string(input.substr(0, at)), "fuzzed.yaml", folder.path);
    if (at == std::string_view::npos) return;
    std::ofstream(folder.path / "rows/test.jsonl", std::ios::binary) << input.substr(at + border.size());
    task.set = task.fewshot.set = "rows";
    task.split = "test";
    if (!task.fewshot.split.empty()) task.fewshot.split = "test";
    miq::dataset::TaskOptions options;
    options.limit = 20;
    miq::dataset::load_documents(task, options, folder.path);
  });
}
