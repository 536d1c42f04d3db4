// Stands between a program and the C library (LD_PRELOAD): numbers its calls on files, disturbs one of them, and writes
// a log. tests/faults/preload.rs compiles and drives it, by these variables of the environment:
//
//   FAULT_CALL   the number of the call that is disturbed, from 1
//   FAULT_KIND   how: "fail" (an error fitting to the call), "interrupt" (EINTR), "short" (half of what was asked for),
//                "full" (from this call on, nothing can be written to any file), or the number of a signal that is
//                raised before the call is made
//   FAULT_LOG    a file to which a line is appended for each call: NUMBER OPERATION RESULT PATH [PATH], separated by tabs
//   FAULT_DATA   with FAULT_LOG: lines of writes have the bytes in hexadecimal and their offset as further fields
//   FAULT_LINKS  "none": a file system without hard links
//   FAULT_FLOCK  what flock does: "ENOLCK", "ENOSYS", "granted" (to all), "local" (within a process alone)
//   FAULT_BOOT   a file that stands for /proc/sys/kernel/random/boot_id: another machine
//
// Calls that change something are made one at a time, and a line is written before the next one begins: the order of
// the lines is the order of what they tell.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

// The C library says that some of these are never null; a caller may look whether a call exists by giving it nothing.
#pragma GCC diagnostic ignored "-Wnonnull-compare"

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static long calls, disturbed = -1;
static int log_file = -1, with_data;
static enum { FAIL = -1, INTERRUPT = -2, SHORT = -3, FULL = -4 } kind;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULT_CALL");
    disturbed = text ? atol(text) : 0;
    text = getenv("FAULT_KIND");
    if (text)
        kind = !strcmp(text, "fail") ? FAIL
               : !strcmp(text, "interrupt") ? INTERRUPT
               : !strcmp(text, "short") ? SHORT
               : !strcmp(text, "full") ? FULL
                                       : atoi(text);
    text = getenv("FAULT_LOG");
    if (text) log_file = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    with_data = getenv("FAULT_DATA") != NULL;
}

// What is to become of the call that begins: 0, FAIL, INTERRUPT, SHORT or FULL. The lock is held until end().
static int start(long *number) {
    pthread_mutex_lock(&one_at_a_time);
    *number = ++calls;
    if (disturbed && kind == FULL && *number >= disturbed) return FULL;
    if (disturbed != *number) return 0;
    if ((int)kind <= 0) return kind;
    // To this thread, before the call is made. A handler may end the process, or not.
    pthread_mutex_unlock(&one_at_a_time);
    raise(kind);
    pthread_mutex_lock(&one_at_a_time);
    return 0;
}

static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
}

static void path_at(int dir, const char *name, char *path) {
    path[0] = 0;
    if (name[0] != '/') {
        if (dir == AT_FDCWD) {
            if (syscall(SYS_getcwd, path, PATH_MAX) < 0) path[0] = 0;
        } else path_of(dir, path);
        strncat(path, "/", PATH_MAX - strlen(path) - 1);
    }
    strncat(path, name, PATH_MAX - strlen(path) - 1);
}

static void end(long number, const char *operation, long result, const char *first, const char *second,
                const void *data, size_t size, long offset) {
    int error = errno;
    if (log_file >= 0) {
        size_t capacity = strlen(first) + strlen(second) + 128 + (with_data ? 2 * size : 0);
        char *line = malloc(capacity);
        if (line) {
            int n = snprintf(line, capacity, "%ld\t%s\t%ld\t%s\t%s", number, operation, result, first, second);
            if (with_data && data) {
                n += snprintf(line + n, capacity - n, "\t%ld\t", offset);
                for (size_t i = 0; i < size; i++) n += sprintf(line + n, "%02x", ((const unsigned char *)data)[i]);
            }
            line[n++] = '\n';
            syscall(SYS_write, log_file, line, (size_t)n);
            free(line);
        }
    }
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
}

// Threads make calls in another order now and then, so another call may have the number of the one that was meant.
static int may_be_interrupted(const char *name) {
    return !strncmp(name, "openat", 6) || !strcmp(name, "fsync") || !strcmp(name, "fdatasync") || !strcmp(name, "ftruncate64");
}

// The body of a call that has nothing special: what fails it, how it is made, and how it is logged.
#define CALL(type, name, error, make, fd_path, first_dir, first, second_dir, second) \
    REAL(name); \
    long number; \
    char a[PATH_MAX] = "", b[PATH_MAX] = ""; \
    if (first) path_at(first_dir, first, a); \
    if (second) path_at(second_dir, second, b); \
    int fate = start(&number); \
    if ((int)(fd_path) >= 0) path_of(fd_path, a); \
    type result = (type)-1; \
    if (fate == FAIL || (fate == FULL && error == ENOSPC)) errno = error; \
    else if (fate == INTERRUPT && may_be_interrupted(#name)) errno = EINTR; \
    else result = make; \
    end(number, #name, (long)result, a, b, NULL, 0, 0); \
    return result;

#define NONE ((const char *)0)

static const char *elsewhere(const char *path) {
    const char *boot = getenv("FAULT_BOOT");
    return boot && !strcmp(path, "/proc/sys/kernel/random/boot_id") ? boot : path;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        path = elsewhere(path); \
        const char *how = flags & O_TRUNC ? "truncate" : flags & O_CREAT ? "create" : ""; \
        REAL(name); \
        long number; \
        char a[PATH_MAX]; \
        path_at(AT_FDCWD, path, a); \
        int fate = start(&number), result = -1; \
        if (fate == FAIL) errno = EMFILE; \
        else if (fate == FULL && flags & O_CREAT && syscall(SYS_faccessat, AT_FDCWD, path, F_OK)) errno = ENOSPC; \
        else if (fate == INTERRUPT) errno = EINTR; \
        else result = real(path, flags, mode); \
        end(number, "open", result, a, how, NULL, 0, 0); \
        return result; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) { \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        CALL(int, name, EMFILE, real(dir, path, flags, mode), -1, dir, path, 0, NONE) \
    }
OPENAT(openat)
OPENAT(openat64)

// Reading changes nothing and may wait for long: the lock is not held meanwhile.
#define READ(name, make) \
    REAL(name); \
    long number; \
    char a[PATH_MAX]; \
    int fate = start(&number); \
    path_of(fd, a); \
    if (fate == SHORT && size > 1) size /= 2; \
    end(number, #name, fate, a, "", NULL, 0, 0); \
    if (fate == FAIL) return errno = EIO, -1; \
    if (fate == INTERRUPT) return errno = EINTR, -1; \
    return make;

ssize_t read(int fd, void *to, size_t size) { READ(read, real(fd, to, size)) }
ssize_t pread64(int fd, void *to, size_t size, off64_t at) { READ(pread64, real(fd, to, size, at)) }

#define WRITE(name, from, offset, make) \
    REAL(name); \
    long number; \
    char a[PATH_MAX]; \
    int fate = start(&number); \
    path_of(fd, a); \
    long at = (offset); \
    ssize_t result = -1; \
    if (fate == SHORT && size > 1) size /= 2; \
    if (fate == FAIL || (fate == FULL && a[0] == '/')) errno = ENOSPC; \
    else if (fate == INTERRUPT) errno = EINTR; \
    else result = make; \
    end(number, #name, (long)result, a, "", from, result > 0 ? (size_t)result : 0, at); \
    return result;

ssize_t write(int fd, const void *from, size_t size) {
    WRITE(write, from, syscall(SYS_lseek, fd, 0, SEEK_CUR), real(fd, from, size))
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at_) { WRITE(pwrite64, from, at_, real(fd, from, size, at_)) }
// One buffer after the other, so that they are logged: a caller must go on after a part anyway.
ssize_t writev(int fd, const struct iovec *parts, int count) {
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len) return write(fd, parts[i].iov_base, parts[i].iov_len);
    return 0;
}

int fsync(int fd) { CALL(int, fsync, EIO, real(fd), fd, 0, NONE, 0, NONE) }
int fdatasync(int fd) { CALL(int, fdatasync, EIO, real(fd), fd, 0, NONE, 0, NONE) }
int ftruncate64(int fd, off64_t size) { CALL(int, ftruncate64, ENOSPC, real(fd, size), fd, 0, NONE, 0, NONE) }
off64_t lseek64(int fd, off64_t at, int from) { CALL(off64_t, lseek64, EIO, real(fd, at, from), fd, 0, NONE, 0, NONE) }
int rename(const char *from, const char *to) { CALL(int, rename, EIO, real(from, to), -1, AT_FDCWD, from, AT_FDCWD, to) }
int link(const char *from, const char *to) { CALL(int, link, EPERM, real(from, to), -1, AT_FDCWD, from, AT_FDCWD, to) }
static int links(void) {
    const char *which = getenv("FAULT_LINKS");
    return !which || strcmp(which, "none");
}
int linkat(int d, const char *from, int e, const char *to, int flags) {
    int error = links() ? ENOSPC : EPERM;
    CALL(int, linkat, error, links() ? real(d, from, e, to, flags) : (errno = EPERM, -1), -1, d, from, e, to)
}
int unlink(const char *path) { CALL(int, unlink, EIO, real(path), -1, AT_FDCWD, path, 0, NONE) }
int unlinkat(int dir, const char *path, int flags) { CALL(int, unlinkat, EIO, real(dir, path, flags), -1, dir, path, 0, NONE) }
int rmdir(const char *path) { CALL(int, rmdir, EIO, real(path), -1, AT_FDCWD, path, 0, NONE) }
int mkdir(const char *path, mode_t mode) { CALL(int, mkdir, ENOSPC, real(path, mode), -1, AT_FDCWD, path, 0, NONE) }
DIR *opendir(const char *path) {
    REAL(opendir);
    long number;
    char a[PATH_MAX];
    path_at(AT_FDCWD, path, a);
    int fate = start(&number);
    DIR *result = NULL;
    if (fate == FAIL) errno = EMFILE;
    else result = real(path);
    end(number, "opendir", result ? 0 : -1, a, "", NULL, 0, 0);
    return result;
}
struct dirent64 *readdir64(DIR *dir) {
    REAL(readdir64);
    long number;
    char a[PATH_MAX];
    int fate = start(&number);
    path_of(dirfd(dir), a);
    struct dirent64 *result = NULL;
    if (fate == FAIL) errno = EIO;
    else result = real(dir);
    end(number, "readdir64", 0, a, "", NULL, 0, 0);
    return result;
}
// Rust's standard library calls it with nothing, to see whether it exists: the compiler, which knows that this is not
// allowed, must not see that a path is compared with nothing.
int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict to) {
    const char *volatile given = path;
    const char *name = given ? given : "";
    CALL(int, statx, EIO, real(dir, given, flags, mask, to), (name[0] ? -1 : dir), dir, (name[0] ? name : NONE), 0, NONE)
}
int fstat64(int fd, struct stat64 *to) { CALL(int, fstat64, EIO, real(fd, to), fd, 0, NONE, 0, NONE) }
int stat64(const char *restrict path, struct stat64 *restrict to) { CALL(int, stat64, EIO, real(path, to), -1, AT_FDCWD, path, 0, NONE) }
int lstat64(const char *restrict path, struct stat64 *restrict to) { CALL(int, lstat64, EIO, real(path, to), -1, AT_FDCWD, path, 0, NONE) }
ssize_t copy_file_range(int fd, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    CALL(ssize_t, copy_file_range, ENOSPC, real(fd, at, to, there, size, flags), to, 0, NONE, 0, NONE)
}

// Memory without a file is another subject: the C library's own calls do not pass here.
#define MMAP(name, offset) \
    void *name(void *at, size_t size, int protection, int flags, int fd, offset from) { \
        if (fd < 0) return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, from); \
        CALL(void *, name, ENOMEM, real(at, size, protection, flags, fd, from), fd, 0, NONE, 0, NONE) \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int flock(int fd, int what) {
    static int granted;
    const char *how = getenv("FAULT_FLOCK");
    if (how && !strcmp(how, "granted")) return 0;
    if (how && !strcmp(how, "ENOLCK")) return errno = ENOLCK, -1;
    if (how && !strcmp(how, "ENOSYS")) return errno = ENOSYS, -1;
    if (how && !strcmp(how, "local")) return granted++ ? (errno = EWOULDBLOCK, -1) : 0;
    CALL(int, flock, ENOLCK, real(fd, what), fd, 0, NONE, 0, NONE)
}
