/* A disk of a server as another host sees it, for files below $SHARED_ROOT:
 *
 *   SHARED_CLOCK=S   this host's clock is S seconds ahead of the server's
 *   SHARED_UNSEEN=S  a name that was looked up in vain stays unseen for S seconds, whatever other
 *                    hosts make there meanwhile; what this host makes itself it sees
 *   SHARED_QUOTA=K   the K-th call that makes or writes something, and each after it, fails with
 *                    EDQUOT; a writing one writes half of it, the first time.  So does closing what
 *                    was written and not flushed, as a client writes it then.  Another K, or the
 *                    same after none, counts anew
 *   SHARED_STALE=N   every N-th look at a file or folder fails once with ESTALE; the next look
 *                    works.  -N: only the N-th look.  Another N counts anew
 *
 * There are no locks (ENOLCK), and times of files are whole seconds.  What a server decides is
 * not changed: exclusive creation, link, rename and mkdir fail where there is something.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 65536
static struct { char *path; double until; } unseen[SLOTS];
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static __thread char last_stale[PATH_MAX];

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

static double option(const char *name) { char *s = getenv(name); return s ? atof(s) : 0; }

static double now(void) {
    struct timespec t;
    REAL(clock_gettime);
    real(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    REAL(clock_gettime);
    int status = real(clock, t);
    if (!status && clock == CLOCK_REALTIME) t->tv_sec += (long)option("SHARED_CLOCK");
    return status;
}

int flock(int fd, int op) { errno = ENOLCK; return -1; }

/* The path, absolute, if it is on the shared disk. */
static int is_shared(int at, const char *path, char *full) {
    const char *root = getenv("SHARED_ROOT");
    if (!root || !path || !*path) return 0;
    if (*path == '/') { if (strlen(path) >= PATH_MAX) return 0; strcpy(full, path); }
    else if (at == AT_FDCWD) {
        if (!getcwd(full, PATH_MAX) || strlen(full) + strlen(path) + 2 > PATH_MAX) return 0;
        strcat(full, "/"); strcat(full, path);
    } else return 0;
    return !strncmp(full, root, strlen(root));
}

static unsigned slot_of(const char *path) {
    unsigned h = 5381;
    while (*path) h = h * 33 + (unsigned char)*path++;
    return h % SLOTS;
}

static int is_unseen(const char *path) {
    unsigned n = slot_of(path);
    pthread_mutex_lock(&guard);
    int found = unseen[n].path && !strcmp(unseen[n].path, path) && now() < unseen[n].until;
    pthread_mutex_unlock(&guard);
    return found;
}

static void note(const char *path, double seconds) {
    unsigned n = slot_of(path);
    pthread_mutex_lock(&guard);
    if (seconds > 0) {
        if (!unseen[n].path || strcmp(unseen[n].path, path) || now() >= unseen[n].until) {
            free(unseen[n].path);
            unseen[n].path = strdup(path);
            unseen[n].until = now() + seconds;
        }
    } else if (unseen[n].path && !strcmp(unseen[n].path, path)) unseen[n].until = 0;
    pthread_mutex_unlock(&guard);
}

/* A folder that this host has put in a place is looked at anew, with all that is in it. */
static void note_below(const char *path) {
    size_t length = strlen(path);
    pthread_mutex_lock(&guard);
    for (unsigned n = 0; n < SLOTS; n++)
        if (unseen[n].path && !strncmp(unseen[n].path, path, length)) unseen[n].until = 0;
    pthread_mutex_unlock(&guard);
}

/* Whether the look that is made now is a stale one. */
static int is_stale_look(void) {
    static int looks; static char last[32];
    char *s = getenv("SHARED_STALE");
    if (!s) s = "";
    pthread_mutex_lock(&guard);
    if (strncmp(s, last, sizeof last - 1)) { looks = 0; strncpy(last, s, sizeof last - 1); }
    int every = atoi(s), number = ++looks;
    pthread_mutex_unlock(&guard);
    return every > 0 ? number % every == 0 : every < 0 && number == -every;
}

/* 0, or the error of a look at a path before the server is asked. */
static int before(const char *full) {
    if (is_unseen(full)) return ENOENT;
    if (strcmp(full, last_stale) && is_stale_look()) {
        strcpy(last_stale, full);
        return ESTALE;
    }
    *last_stale = 0;
    return 0;
}

/* EDQUOT, or 0, of a call that needs room. */
static int quota_of(int *is_first) {
    static int calls; static char last[32];
    char *s = getenv("SHARED_QUOTA");
    if (!s) s = "";
    int found = 0;
    pthread_mutex_lock(&guard);
    if (strncmp(s, last, sizeof last - 1)) { calls = 0; strncpy(last, s, sizeof last - 1); }
    if (*s && ++calls >= atoi(s)) { found = EDQUOT; *is_first = calls == atoi(s); }
    pthread_mutex_unlock(&guard);
    return found;
}

static int is_full(const char *path) {
    char full[PATH_MAX]; int first;
    return is_shared(AT_FDCWD, path, full) && (errno = quota_of(&first)) != 0;
}

static int is_shared_file(int fd) {
    char link[64], path[PATH_MAX], full[PATH_MAX];
    if (!getenv("SHARED_QUOTA")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return *path == '/' && is_shared(AT_FDCWD, path, full);
}

/* Files that were written since they were flushed last. */
#define FILES 4096
static char is_dirty[FILES];

#define WRITE(type, name, declaration, whole, half) type name declaration { \
    REAL(name); \
    int first = 0; \
    if (is_shared_file(fd)) { \
        if (quota_of(&first)) { \
            if (first && count > 1) return half; \
            errno = EDQUOT; \
            return -1; \
        } \
        if (fd >= 0 && fd < FILES) is_dirty[fd] = 1; \
    } \
    return whole; }
WRITE(ssize_t, write, (int fd, const void *data, size_t count), real(fd, data, count), real(fd, data, count / 2))
WRITE(ssize_t, pwrite, (int fd, const void *data, size_t count, off_t at), real(fd, data, count, at), real(fd, data, count / 2, at))
WRITE(ssize_t, pwrite64, (int fd, const void *data, size_t count, off64_t at), real(fd, data, count, at), real(fd, data, count / 2, at))
WRITE(ssize_t, writev, (int fd, const struct iovec *parts, int count), real(fd, parts, count), real(fd, parts, count / 2))

int fsync(int fd) {
    REAL(fsync);
    int first;
    if (is_shared_file(fd) && (errno = quota_of(&first))) return -1;
    if (fd >= 0 && fd < FILES) is_dirty[fd] = 0;
    return real(fd);
}

int close(int fd) {
    REAL(close);
    int first, fails = fd >= 0 && fd < FILES && is_dirty[fd] && is_shared_file(fd) && quota_of(&first);
    if (fd >= 0 && fd < FILES) is_dirty[fd] = 0;
    int status = real(fd);
    if (!fails) return status;
    errno = EDQUOT;
    return -1;
}

static void coarse(struct stat *s) {
    s->st_mtim.tv_nsec = s->st_ctim.tv_nsec = s->st_atim.tv_nsec = 0;
}

#define LOOK_FOR(type, none, at, path, call) \
    char full[PATH_MAX]; int shared = is_shared(at, path, full), error; \
    if (shared && (error = before(full))) { errno = error; return none; } \
    type status = call; \
    if (shared && status == none && errno == ENOENT) { note(full, option("SHARED_UNSEEN")); errno = ENOENT; }
#define LOOK(at, path, call) LOOK_FOR(int, -1, at, path, call)

#define STAT(name) int name(const char *path, struct stat *s) { \
    REAL(name); LOOK(AT_FDCWD, path, real(path, s)) \
    if (shared && !status) coarse(s); return status; }
STAT(stat) STAT(lstat)
int stat64(const char *path, struct stat64 *s) { return stat(path, (struct stat *)s); }
int lstat64(const char *path, struct stat64 *s) { return lstat(path, (struct stat *)s); }
int fstatat(int at, const char *path, struct stat *s, int flags) {
    REAL(fstatat); LOOK(at, path, real(at, path, s, flags))
    if (shared && !status) coarse(s); return status;
}
int fstatat64(int at, const char *path, struct stat64 *s, int flags) {
    return fstatat(at, path, (struct stat *)s, flags);
}
int fstat(int fd, struct stat *s) { REAL(fstat); int status = real(fd, s); if (!status) coarse(s); return status; }
int fstat64(int fd, struct stat64 *s) { return fstat(fd, (struct stat *)s); }

int access(const char *path, int mode) { REAL(access); LOOK(AT_FDCWD, path, real(path, mode)) return status; }
int faccessat(int at, const char *path, int mode, int flags) {
    REAL(faccessat); LOOK(at, path, real(at, path, mode, flags)) return status;
}
DIR *opendir(const char *path) { REAL(opendir); LOOK_FOR(DIR *, NULL, AT_FDCWD, path, real(path)) return status; }

#define OPEN(name, at, declaration, ...) int name(declaration const char *path, int flags, ...) { \
    REAL(name); mode_t mode = 0; va_list more; va_start(more, flags); \
    if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(more, int); va_end(more); \
    char full[PATH_MAX]; int shared = is_shared(at, path, full), error; \
    if (shared && !(flags & O_CREAT) && (error = before(full))) { errno = error; return -1; } \
    int first; \
    if (shared && (flags & O_CREAT) && (errno = quota_of(&first))) return -1; \
    int fd = real(__VA_ARGS__ path, flags, mode), kept = errno; \
    if (shared && fd >= 0 && (flags & O_CREAT)) note(full, 0); \
    if (shared && fd < 0 && kept == ENOENT) note(full, option("SHARED_UNSEEN")); \
    errno = kept; return fd; }
#define NOTHING
#define AT at,
#define COMMA ,
OPEN(open, AT_FDCWD, NOTHING, NOTHING) OPEN(open64, AT_FDCWD, NOTHING, NOTHING)
OPEN(openat, at, int at COMMA, AT) OPEN(openat64, at, int at COMMA, AT)

#define MADE(path) { char full[PATH_MAX]; int kept = errno; \
    if (!status && is_shared(AT_FDCWD, path, full)) note(full, 0); errno = kept; }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); if (is_full(path)) return -1; int status = real(path, mode); MADE(path) return status; }
int link(const char *from, const char *to) { REAL(link); if (is_full(to)) return -1; int status = real(from, to); MADE(to) return status; }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(linkat); if (is_full(to)) return -1; int status = real(a, from, b, to, flags); MADE(to) return status;
}
int rename(const char *from, const char *to) {
    REAL(rename);
    int status = real(from, to), kept = errno;
    char full[PATH_MAX];
    if (!status && is_shared(AT_FDCWD, to, full)) note_below(full);
    errno = kept;
    return status;
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(renameat2);
    int status = real(a, from, b, to, flags), kept = errno;
    char full[PATH_MAX];
    if (!status && is_shared(b, to, full)) note_below(full);
    if (!status && is_shared(a, from, full)) note_below(full);
    errno = kept;
    return status;
}
