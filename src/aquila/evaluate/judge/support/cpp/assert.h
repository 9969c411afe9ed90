// Takes the place of the system's <assert.h> for the tests: a failure is told from a crash by its exit code.
#undef assert
#ifndef AQUILA_ASSERT_H
#define AQUILA_ASSERT_H
#include <cstdio>
#include <unistd.h>
static void aquila_fail(const char* what, int line) {
    std::fprintf(stderr, "\ntest line %d: %s\n", line, what);
    std::fflush(stderr);
    _exit(3);
}
#endif
#define assert(condition) ((condition) ? (void)0 : aquila_fail(#condition, __LINE__))
