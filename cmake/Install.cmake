include(CMakePackageConfigHelpers)
install(TARGETS miq_log miq_gpu miq_core miq_quantizer miq_format miq_model miq_dataset miq_evaluator miq_executor
        EXPORT miqTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
# The installed program finds the LibTorch it was linked with.
set_target_properties(miq PROPERTIES INSTALL_RPATH "$<TARGET_FILE_DIR:torch>")
install(TARGETS miq RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/miq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(miq_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/miq)
install(EXPORT miqTargets NAMESPACE miq:: DESTINATION ${miq_package_dir})
configure_package_config_file(cmake/miqConfig.cmake.in miqConfig.cmake INSTALL_DESTINATION ${miq_package_dir})
write_basic_package_version_file(miqConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/miqConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/miqConfigVersion.cmake
        DESTINATION ${miq_package_dir})
