/* Defaults of the sanitizers in test builds: the shim's stderr is /dev/null, so findings go to files. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
    return "detect_leaks=0:log_path=/tmp/dms-sanitizer/report";
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1:log_path=/tmp/dms-sanitizer/report";
}
