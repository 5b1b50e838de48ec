# miq_library(name SOURCES ... DEPS ...): the static library miq_<name>, alias miq::<name>.
# DEPS is the whole list of what it may include; scripts/check_layers.py holds the sources to it.
function(miq_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_library(miq_${name} STATIC ${arg_SOURCES})
  add_library(miq::${name} ALIAS miq_${name})
  set_target_properties(miq_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(miq_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(miq_${name} PUBLIC cxx_std_20)
  target_link_libraries(miq_${name} PUBLIC ${arg_DEPS})
  target_include_directories(miq_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src/${name} ${PROJECT_SOURCE_DIR}/src)
  miq_options(miq_${name})
  miq_precompile(miq_${name})
endfunction()

# One precompiled header, made with miq_core, serves every target.
function(miq_precompile target)
  if(CMAKE_DISABLE_PRECOMPILE_HEADERS)  # clang-tidy cannot read GCC's: sources still count on its includes
    target_compile_options(${target} PRIVATE -include ${PROJECT_SOURCE_DIR}/src/precompiled.h)
    return()
  endif()
  if(target STREQUAL "miq_core")
    target_precompile_headers(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src/precompiled.h)
  else()
    target_precompile_headers(${target} REUSE_FROM miq_core)
  endif()
endfunction()

# Warnings and sanitizers, the same for every target (a shared precompiled header demands it).
function(miq_options target)
  # GCC 12 sees faults in its own std::string and std::regex that are not there (GCC bug 105651).
  # -fno-math-errno, -fno-trapping-math: LibTorch is built so too; they change no result.
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wno-unused-parameter
    $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow -Wno-array-bounds -Wno-restrict -Wno-maybe-uninitialized -fpch-preprocess>
    $<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>
    $<$<CXX_COMPILER_ID:Clang>:-Wno-unknown-pragmas> -fno-math-errno -fno-trapping-math
    $<$<BOOL:${MIQ_WERROR}>:-Werror>)
  if(MIQ_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${MIQ_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=undefined)
    target_link_options(${target} PRIVATE -fsanitize=${MIQ_SANITIZE})
  endif()
endfunction()

# What a program or test needs to share the libraries' precompiled header: the same -fPIC.
function(miq_program_options target)
  miq_options(${target})
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
  miq_precompile(${target})
endfunction()

# miq_test(library SOURCES ...): one GoogleTest binary per library. Suites with `Golden` in their names
# are a test of their own, with the ctest label `golden`. Libraries that compute run them twice more: on the emulated device
# (tests/support/emulated_device.h; label `emulated`), and on a GPU (label `gpu`; skipped, loudly, where there is none).
# Suites with `Device` in their names are for these two alone.
function(miq_test library)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  set(target test_${library})
  add_executable(${target} ${arg_SOURCES})
  target_link_libraries(${target} PRIVATE miq::${library} miq_test_support ${arg_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${target} PRIVATE MIQ_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  miq_program_options(${target})
  add_test(NAME ${library} COMMAND ${target} --gtest_filter=-*Golden*:*Device* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${library} PROPERTIES LABELS unit)
  set(golden "")
  foreach(source ${arg_SOURCES})
    file(STRINGS ${source} found REGEX "Golden" LIMIT_COUNT 1)
    list(APPEND golden ${found})
  endforeach()
  if(golden)
    add_test(NAME ${library}.golden COMMAND ${target} --gtest_filter=*Golden* WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${library}.golden PROPERTIES LABELS golden)
  endif()
  set(devices_core emulated)
  set(devices_evaluator gpu)  # its cases are of a real model, which the emulation is too slow for
  foreach(computing quantizer model format executor)
    set(devices_${computing} gpu emulated)
  endforeach()
  foreach(device ${devices_${library}})
    add_test(NAME ${library}.${device} COMMAND ${target} "--gtest_filter=*Golden*:*Device*$<$<STREQUAL:${device},emulated>:-*Smol*>" WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${library}.${device} PROPERTIES LABELS ${device} ENVIRONMENT "MIQ_TEST_DEVICE=$<IF:$<STREQUAL:${device},gpu>,cuda,emulated>"
      SKIP_REGULAR_EXPRESSION "SKIPPED: NOTHING WAS TESTED ON A GPU")
  endforeach()
endfunction()
