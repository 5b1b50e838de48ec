# Where every library comes from. LibTorch: Torch_DIR or CMAKE_PREFIX_PATH when given, else the
# `torch` wheel of the repository's .venv, which scripts/setup.sh makes.
if(NOT Torch_DIR AND NOT DEFINED ENV{Torch_DIR})
  find_program(MIQ_PYTHON NAMES python3 PATHS ${PROJECT_SOURCE_DIR}/.venv/bin NO_DEFAULT_PATH)
  if(MIQ_PYTHON)
    execute_process(
      COMMAND ${MIQ_PYTHON} -c "import torch.utils; print(torch.utils.cmake_prefix_path)"
      OUTPUT_VARIABLE miq_torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    list(APPEND CMAKE_PREFIX_PATH ${miq_torch_prefix})
  endif()
endif()

# Torch's own package adds the CPU/CUDA/ROCm parts of the build it belongs to.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CUDA_STANDARD 17)  # of the kernels; LibTorch's package would ask for a dialect that CMake does not know of every nvcc
find_package(Torch REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Threads REQUIRED)
if(NOT MIQ_FUZZ)  # Clang's is another package, and fuzzing wants one thread
  find_package(OpenMP REQUIRED)  # at::parallel_for is serial without it; at run time it is LibTorch's own libgomp
endif()
find_package(PkgConfig REQUIRED)
pkg_check_modules(SentencePiece REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(Crypto REQUIRED IMPORTED_TARGET libcrypto)  # SHA-256
pkg_check_modules(Httplib REQUIRED cpp-httplib)  # Debian's is a library, not a header alone
if(MIQ_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()

if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(MIQ_CCACHE ccache)
  if(MIQ_CCACHE)
    # A precompiled header is cacheable only with these two settings.
    set(CMAKE_CXX_COMPILER_LAUNCHER
        ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${MIQ_CCACHE})
  endif()
endif()
