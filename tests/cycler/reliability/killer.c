/* Kill the process at its Nth change of a file below a folder: preloaded, it stands before the C library.
 *
 * killer_arm(folder, n) begins to count; the process dies by SIGKILL in place of operation n, a write after half of its
 * bytes. killer_count() returns the number of operations so far. All threads count together.
 *
 * killer_cut(list) makes it a power cut: before it dies, the process writes to the file `list` the paths whose content
 * was not flushed (fsync, fdatasync, syncfs) since it was last written to. On disk they may be empty.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MOST 65536

static char folder[PATH_MAX], list[PATH_MAX];
static volatile int target = -1, count = 0;
static char *dirty[MOST];
static int dirty_count = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void killer_arm(const char *path, int n) {
    snprintf(folder, sizeof folder, "%s", path);
    count = 0;
    list[0] = 0;
    dirty_count = 0;
    target = n;
}

void killer_cut(const char *path) { snprintf(list, sizeof list, "%s", path); }

int killer_count(void) { return count; }

/* Note that a file's content was written, or (keep = 0) that it was flushed or has gone. */
static void note(const char *path, int keep) {
    if (list[0] == 0 || path == NULL || strncmp(path, folder, strlen(folder)) != 0) return;
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < dirty_count && strcmp(dirty[i], path) != 0) i++;
    if (keep && i == dirty_count && dirty_count < MOST) dirty[dirty_count++] = strdup(path);
    if (!keep && i < dirty_count) dirty[i] = dirty[--dirty_count];
    pthread_mutex_unlock(&lock);
}

/* Let what is noted of a file, or of the files of a folder, follow its renaming. */
static void moved(const char *from, const char *to) {
    if (list[0] == 0) return;
    size_t length = strlen(from);
    char name[PATH_MAX];
    note(to, 0);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < dirty_count; i++)
        if (strncmp(dirty[i], from, length) == 0 && (dirty[i][length] == 0 || dirty[i][length] == '/')) {
            snprintf(name, sizeof name, "%s%s", to, dirty[i] + length);
            dirty[i] = strdup(name);
        }
    pthread_mutex_unlock(&lock);
}

static void die(void) {
    if (list[0] != 0) {
        FILE *file = fopen(list, "w");
        for (int i = 0; i < dirty_count; i++) fprintf(file, "%s\n", dirty[i]);
        fclose(file);
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

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

#define AT(path) do { char place[PATH_MAX]; if (target >= 0 && reached(absolute(path, place))) die(); } while (0)
#define AT_FOLDER(fd, path) do { char place[PATH_MAX]; if (target >= 0 && reached(below(fd, path, place))) die(); } while (0)
#define AT_HANDLE(fd) do { char place[PATH_MAX]; if (target >= 0 && reached(of_handle(fd, place))) die(); } while (0)

#define WRITTEN(fd) do { char place[PATH_MAX]; if (target >= 0) note(of_handle(fd, place), 1); } while (0)
#define FLUSHED(fd) do { char place[PATH_MAX]; if (target >= 0) note(of_handle(fd, place), 0); } while (0)
#define MOVED(a, from, b, to) do { \
        char one[PATH_MAX], two[PATH_MAX]; \
        if (target >= 0) moved(below(a, from, one), below(b, to, two)); \
    } while (0)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        if (writes(flags)) AT(path); \
        int fd = REAL(name)(path, flags, mode); \
        if (fd >= 0 && writes(flags) && (flags & (O_CREAT | O_TRUNC))) WRITTEN(fd); \
        return fd; \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        if (writes(flags)) AT_FOLDER(fd, path); \
        int opened = REAL(name)(fd, path, flags, mode); \
        if (opened >= 0 && writes(flags) && (flags & (O_CREAT | O_TRUNC))) WRITTEN(opened); \
        return opened; \
    }
OPENAT(openat)
OPENAT(openat64)
int rename(const char *from, const char *to) {
    AT(to);
    MOVED(AT_FDCWD, from, AT_FDCWD, to);
    return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    AT_FOLDER(b, to);
    MOVED(a, from, b, to);
    return REAL(renameat)(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    AT_FOLDER(b, to);
    MOVED(a, from, b, to);
    return REAL(renameat2)(a, from, b, to, flags);
}
int link(const char *from, const char *to) { AT(to); return REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    AT_FOLDER(b, to);
    return REAL(linkat)(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) { AT(path); return REAL(mkdir)(path, mode); }
int mkdirat(int fd, const char *path, mode_t mode) { AT_FOLDER(fd, path); return REAL(mkdirat)(fd, path, mode); }
int unlink(const char *path) {
    char place[PATH_MAX];
    AT(path);
    if (target >= 0) note(absolute(path, place), 0);
    return REAL(unlink)(path);
}
int unlinkat(int fd, const char *path, int flags) {
    char place[PATH_MAX];
    AT_FOLDER(fd, path);
    if (target >= 0) note(below(fd, path, place), 0);
    return REAL(unlinkat)(fd, path, flags);
}
int rmdir(const char *path) { AT(path); return REAL(rmdir)(path); }
int fsync(int fd) { AT_HANDLE(fd); FLUSHED(fd); return REAL(fsync)(fd); }
int fdatasync(int fd) { AT_HANDLE(fd); FLUSHED(fd); return REAL(fdatasync)(fd); }
int syncfs(int fd) {
    AT_HANDLE(fd);
    pthread_mutex_lock(&lock);
    dirty_count = 0;
    pthread_mutex_unlock(&lock);
    return REAL(syncfs)(fd);
}
int ftruncate(int fd, off_t size) { AT_HANDLE(fd); WRITTEN(fd); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { AT_HANDLE(fd); WRITTEN(fd); return REAL(ftruncate64)(fd, size); }
ssize_t write(int fd, const void *bytes, size_t size) {
    char place[PATH_MAX];
    if (target >= 0 && reached(of_handle(fd, place))) {
        REAL(write)(fd, bytes, size / 2);
        die();
    }
    WRITTEN(fd);
    return REAL(write)(fd, bytes, size);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    AT_HANDLE(fd);
    WRITTEN(fd);
    return REAL(pwrite)(fd, bytes, size, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    AT_HANDLE(fd);
    WRITTEN(fd);
    return REAL(pwrite64)(fd, bytes, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int n) { AT_HANDLE(fd); WRITTEN(fd); return REAL(writev)(fd, parts, n); }
