// A job's configuration, native or MI-optimize's, and what `config show` makes of it.
#include "fuzz.h"
#include "miq/executor/job_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return miq::fuzz::answer(data, size, [](std::string_view input) {
    const miq::ConfigSource source = miq::ConfigSource::from_text(std::string(input), "fuzzed");
    const miq::executor::JobConfig config = miq::executor::read_job_config(source);
    miq::executor::to_json(config);
    const std::string shown = miq::executor::to_yaml(config);
    try {
      miq::executor::read_job_config(miq::ConfigSource::from_text(shown, "shown"));
    } catch (const miq::Error& error) {
      throw miq::Error(miq::ErrorKind::internal,
                       std::string("what is shown cannot be read: ") + error.what() + "\n" + shown);
    }
  });
}
