/* Kill the process at its Nth change of a file below a folder: preloaded, it stands before the C library.
 *
 * killer_arm(folder, n) begins to count; the process dies by SIGKILL in place of operation n, a write after half of its
 * bytes. killer_count() returns the number of operations so far. All threads count together.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static volatile int target = -1, count = 0;

void killer_arm(const char *path, int n) {
    snprintf(folder, sizeof folder, "%s", path);
    count = 0;
    target = n;
}

int killer_count(void) { return count; }

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* Whether this is the operation to die at. */
static int reached(const char *path) {
    if (target < 0 || path == NULL || strncmp(path, folder, strlen(folder)) != 0) return 0;
    return __sync_add_and_fetch(&count, 1) == target;
}

/* Return the absolute path of a name, relative ones being below the working directory. */
static const char *absolute(const char *name, char *buffer) {
    if (name == NULL || name[0] == '/') return name;
    if (getcwd(buffer, PATH_MAX) == NULL) return name;
    size_t length = strlen(buffer);
    snprintf(buffer + length, PATH_MAX - length, "/%s", name);
    return buffer;
}

static const char *of_handle(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, buffer, PATH_MAX - 1);
    if (n < 0) return NULL;
    buffer[n] = 0;
    return buffer;
}

/* Return the absolute path of a name below an open folder. */
static const char *below(int fd, const char *name, char *buffer) {
    if (name == NULL || name[0] == '/' || fd == AT_FDCWD) return absolute(name, buffer);
    if (of_handle(fd, buffer) == NULL) return name;
    size_t length = strlen(buffer);
    snprintf(buffer + length, PATH_MAX - length, "/%s", name);
    return buffer;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define AT(path) do { char place[PATH_MAX]; if (target >= 0 && reached(absolute(path, place))) die(); } while (0)
#define AT_FOLDER(fd, path) do { char place[PATH_MAX]; if (target >= 0 && reached(below(fd, path, place))) die(); } while (0)
#define AT_HANDLE(fd) do { char place[PATH_MAX]; if (target >= 0 && reached(of_handle(fd, place))) die(); } while (0)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        if (writes(flags)) AT(path); \
        return REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        if (writes(flags)) AT_FOLDER(fd, path); \
        return REAL(name)(fd, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)
int rename(const char *from, const char *to) { AT(to); return REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { AT_FOLDER(b, to); return REAL(renameat)(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    AT_FOLDER(b, to);
    return REAL(renameat2)(a, from, b, to, flags);
}
int link(const char *from, const char *to) { AT(to); return REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    AT_FOLDER(b, to);
    return REAL(linkat)(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) { AT(path); return REAL(mkdir)(path, mode); }
int mkdirat(int fd, const char *path, mode_t mode) { AT_FOLDER(fd, path); return REAL(mkdirat)(fd, path, mode); }
int unlink(const char *path) { AT(path); return REAL(unlink)(path); }
int unlinkat(int fd, const char *path, int flags) { AT_FOLDER(fd, path); return REAL(unlinkat)(fd, path, flags); }
int rmdir(const char *path) { AT(path); return REAL(rmdir)(path); }
int fsync(int fd) { AT_HANDLE(fd); return REAL(fsync)(fd); }
int fdatasync(int fd) { AT_HANDLE(fd); return REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { AT_HANDLE(fd); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { AT_HANDLE(fd); return REAL(ftruncate64)(fd, size); }
ssize_t write(int fd, const void *bytes, size_t size) {
    char place[PATH_MAX];
    if (target >= 0 && reached(of_handle(fd, place))) {
        REAL(write)(fd, bytes, size / 2);
        die();
    }
    return REAL(write)(fd, bytes, size);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    AT_HANDLE(fd);
    return REAL(pwrite)(fd, bytes, size, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    AT_HANDLE(fd);
    return REAL(pwrite64)(fd, bytes, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int n) { AT_HANDLE(fd); return REAL(writev)(fd, parts, n); }
