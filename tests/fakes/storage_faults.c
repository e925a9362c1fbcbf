/* Fails calls of the C library on chosen files: LD_PRELOAD it, and set DIAGCOT_STORAGE_FAULT at any time to
   "<call> <errno> <times> <part of the path|another>", where the call is open, read, write, list or lock, and 0 times means always. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char last[1024];
static long left;

static int has(const char *path, char *parts) {
  for (char *rest, *part = strtok_r(parts, "|", &rest); part; part = strtok_r(NULL, "|", &rest))
    if (strstr(path, part)) return 1;
  return 0;
}

static int fails(const char *call, const char *path) {
  const char *rule = getenv("DIAGCOT_STORAGE_FAULT");
  char wanted[16], part[900];
  int number;
  long times;
  if (!rule || !path || sscanf(rule, "%15s %d %ld %899s", wanted, &number, &times, part) != 4) return 0;
  if (strcmp(rule, last)) {
    snprintf(last, sizeof last, "%s", rule);
    left = times;
  }
  if (strcmp(call, wanted) || !has(path, part) || (times && left-- <= 0)) return 0;
  errno = number;
  return 1;
}

static int fails_at(const char *call, int fd) {
  char link[64], path[4096];
  if (!getenv("DIAGCOT_STORAGE_FAULT")) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return fails(call, path);
}

#define REAL(name)                                                        \
  ({                                                                      \
    static __typeof__(&name) real;                                        \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);         \
    real;                                                                 \
  })
#define MODE                                  \
  mode_t mode = 0;                            \
  if (flags & (O_CREAT | O_TMPFILE)) {        \
    va_list rest;                             \
    va_start(rest, flags);                    \
    mode = va_arg(rest, mode_t);              \
    va_end(rest);                             \
  }
#define OPEN(name)                                   \
  int name(const char *path, int flags, ...) {       \
    MODE if (fails("open", path)) return -1;         \
    return REAL(name)(path, flags, mode);            \
  }
#define OPENAT(name)                                     \
  int name(int at, const char *path, int flags, ...) {   \
    MODE if (fails("open", path)) return -1;             \
    return REAL(name)(at, path, flags, mode);            \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *how) { return fails("open", path) ? NULL : REAL(fopen)(path, how); }
FILE *fopen64(const char *path, const char *how) { return fails("open", path) ? NULL : REAL(fopen64)(path, how); }
ssize_t write(int fd, const void *from, size_t size) { return fails_at("write", fd) ? -1 : REAL(write)(fd, from, size); }
DIR *opendir(const char *path) { return fails("list", path) ? NULL : REAL(opendir)(path); }
ssize_t read(int fd, void *to, size_t size) { return fails_at("read", fd) ? -1 : REAL(read)(fd, to, size); }
ssize_t pread(int fd, void *to, size_t size, off_t at) {
  return fails_at("read", fd) ? -1 : REAL(pread)(fd, to, size, at);
}
ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
  return fails_at("read", fd) ? -1 : REAL(pread64)(fd, to, size, at);
}
int flock(int fd, int operation) { return fails_at("lock", fd) ? -1 : REAL(flock)(fd, operation); }
