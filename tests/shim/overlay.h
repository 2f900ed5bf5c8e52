/*
 * The overlay of powercut.c: which files are concerned, and what the process sees of them before it is synced. Included once.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#define BLOCK 4096
#define MAX_FD 65536

typedef struct overlay {
    struct overlay *next;
    dev_t dev;
    ino_t ino;
    int open_fds;
    bool unlinked;
    bool held;            /* false for -shm: only a full disk concerns it */
    bool dirty;
    off_t size;           /* what the process sees */
    off_t base_valid;     /* the file's own bytes count only below this; beyond they read as zeros */
    unsigned char **blocks;
    size_t block_count;
    int writer;           /* a descriptor of ours, so that flushing does not depend on how the process opened the file */
} overlay;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static overlay *overlays;
static _Atomic(overlay *) by_fd[MAX_FD];
static char folder[PATH_MAX];
static size_t folder_length;
static const char *full_path;
static bool hold;
static unsigned leak_percent;
static uint64_t random_state = 0x9E3779B97F4A7C15u;

#define REAL(result, name, ...)                                              \
    static result (*real_##name)(__VA_ARGS__);                               \
    static result (*need_##name(void))(__VA_ARGS__) {                        \
        if (!real_##name) {                                                  \
            *(void **)&real_##name = dlsym(RTLD_NEXT, #name);                \
            if (!real_##name) abort();                                       \
        }                                                                    \
        return real_##name;                                                  \
    }
REAL(int, open, const char *, int, ...)
REAL(int, openat, int, const char *, int, ...)
REAL(int, close, int)
REAL(ssize_t, read, int, void *, size_t)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pread, int, void *, size_t, off_t)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(ssize_t, readv, int, const struct iovec *, int)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, preadv, int, const struct iovec *, int, off_t)
REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t)
REAL(off_t, lseek, int, off_t, int)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(void, sync, void)
REAL(int, syncfs, int)
REAL(int, sync_file_range, int, off_t, off_t, unsigned)
REAL(int, ftruncate, int, off_t)
REAL(int, truncate, const char *, off_t)
REAL(int, fallocate, int, int, off_t, off_t)
REAL(int, posix_fallocate, int, off_t, off_t)
REAL(int, fstat, int, struct stat *)
REAL(int, stat, const char *, struct stat *)
REAL(int, lstat, const char *, struct stat *)
REAL(int, fstatat, int, const char *, struct stat *, int)
REAL(int, statx, int, const char *, int, unsigned, struct statx *)
REAL(void *, mmap, void *, size_t, int, int, int, off_t)
REAL(int, unlink, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, rename, const char *, const char *)
REAL(int, renameat, int, const char *, int, const char *)
REAL(int, renameat2, int, const char *, int, const char *, unsigned)
REAL(int, dup, int)
REAL(int, dup2, int, int)
REAL(int, dup3, int, int, int)
REAL(int, fcntl, int, int, ...)
REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned)
REAL(ssize_t, sendfile, int, int, off_t *, size_t)

/* ---- which files ------------------------------------------------------------------------------------------------------------------------------- */

static void write_out_everything(void);

__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("KITH_FAULT_DIR");
    if (!dir || !realpath(dir, folder)) return;
    folder_length = strlen(folder);
    full_path = getenv("KITH_FAULT_FULL");
    const char *text = getenv("KITH_FAULT_HOLD");
    hold = text && strcmp(text, "1") == 0;
    if ((text = getenv("KITH_FAULT_LEAK"))) leak_percent = (unsigned)atoi(text);
    if ((text = getenv("KITH_FAULT_SEED"))) random_state ^= strtoull(text, NULL, 10) * 0xBF58476D1CE4E5B9u;
    if (random_state == 0) random_state = 1;
}

__attribute__((destructor)) static void stop(void) { write_out_everything(); }

static unsigned random_percent(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state % 100);
}

static bool disk_is_full(void) {
    if (!full_path) return false;
    int saved = errno;
    bool full = access(full_path, F_OK) == 0;
    errno = saved;
    return full;
}

static bool below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || path[folder_length] == 0);
}

/* The path of an open descriptor, if it lies in the folder. */
static bool in_folder(int fd, char *path) {
    if (folder_length == 0) return false;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return false;
    path[length] = 0;
    return below(path);
}

static overlay *find(dev_t dev, ino_t ino) {
    for (overlay *o = overlays; o; o = o->next)
        if (o->dev == dev && o->ino == ino && !o->unlinked) return o;
    return NULL;
}

static void drop_blocks_from(overlay *o, size_t first) {
    for (size_t i = first; i < o->block_count; i++) {
        free(o->blocks[i]);
        o->blocks[i] = NULL;
    }
}

static void forget(overlay *o) {
    for (overlay **at = &overlays; *at; at = &(*at)->next)
        if (*at == o) {
            *at = o->next;
            break;
        }
    drop_blocks_from(o, 0);
    free(o->blocks);
    if (o->writer >= 0) need_close()(o->writer);
    free(o);
}

/* Called under the lock. */
static void release(int fd) {
    overlay *o = atomic_exchange(&by_fd[fd], NULL);
    if (!o) return;
    if (--o->open_fds == 0 && (o->unlinked || !o->dirty)) forget(o);
}

static overlay *overlay_of(int fd) { return fd >= 0 && fd < MAX_FD ? atomic_load(&by_fd[fd]) : NULL; }

/* Called under the lock. */
static overlay *make_overlay(const struct stat *st, const char *path) {
    overlay *o = calloc(1, sizeof *o);
    if (!o) abort();
    size_t length = strlen(path);
    o->held = hold && !(length > 4 && strcmp(path + length - 4, "-shm") == 0);
    o->dev = st->st_dev;
    o->ino = st->st_ino;
    o->size = o->base_valid = st->st_size;
    o->writer = o->held ? need_open()(path, O_RDWR | O_CLOEXEC) : -1;
    o->next = overlays;
    overlays = o;
    return o;
}

static void truncate_overlay(overlay *o, off_t size);

static int opened(int fd, int flags) {
    int saved = errno;
    char path[PATH_MAX];
    struct stat st;
    if (fd < 0 || fd >= MAX_FD || !in_folder(fd, path) || need_fstat()(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        errno = saved;
        return fd;
    }
    pthread_mutex_lock(&lock);
    release(fd);
    overlay *o = find(st.st_dev, st.st_ino);
    if (!o) o = make_overlay(&st, path);
    o->open_fds++;
    atomic_store(&by_fd[fd], o);
    if (o->held && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) truncate_overlay(o, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return fd;
}

/* O_TRUNC must not reach the disk before the next sync either. */
static int flags_to_pass(int flags) { return hold ? flags & ~O_TRUNC : flags; }

/* Whether a path lies in the folder, judged before it is opened, so that O_TRUNC elsewhere is left alone. */
static bool names_folder(int dirfd, const char *path) {
    if (folder_length == 0) return false;
    if (path[0] == '/') return below(path);
    char link[64], base[PATH_MAX];
    if (dirfd == AT_FDCWD) return getcwd(base, sizeof base) && below(base);
    snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    ssize_t length = readlink(link, base, sizeof base - 1);
    return length >= 0 && (base[length] = 0, below(base));
}

/* ---- the overlay: everything here is called under the lock -------------------------------------------------------------------------------------- */

static unsigned char *block_for_writing(overlay *o, size_t index) {
    if (index >= o->block_count) {
        size_t count = index + 1 + index / 2;
        o->blocks = realloc(o->blocks, count * sizeof *o->blocks);
        if (!o->blocks) abort();
        memset(o->blocks + o->block_count, 0, (count - o->block_count) * sizeof *o->blocks);
        o->block_count = count;
    }
    if (!o->blocks[index]) {
        unsigned char *block = calloc(1, BLOCK);
        if (!block) abort();
        off_t at = (off_t)index * BLOCK;
        if (at < o->base_valid) {
            size_t wanted = o->base_valid - at < BLOCK ? (size_t)(o->base_valid - at) : BLOCK;
            if (need_pread()(o->writer, block, wanted, at) < 0) abort();
        }
        o->blocks[index] = block;
    }
    o->dirty = true;
    return o->blocks[index];
}

static ssize_t read_overlay(overlay *o, void *into, size_t count, off_t at) {
    if (at >= o->size) return 0;
    if ((off_t)count > o->size - at) count = (size_t)(o->size - at);
    size_t done = 0;
    while (done < count) {
        size_t index = (size_t)(at + (off_t)done) / BLOCK, within = (size_t)(at + (off_t)done) % BLOCK;
        size_t part = BLOCK - within < count - done ? BLOCK - within : count - done;
        unsigned char *target = (unsigned char *)into + done;
        if (index < o->block_count && o->blocks[index]) {
            memcpy(target, o->blocks[index] + within, part);
        } else {
            memset(target, 0, part);
            off_t from = at + (off_t)done;
            size_t own = from >= o->base_valid ? 0 : o->base_valid - from < (off_t)part ? (size_t)(o->base_valid - from) : part;
            if (own > 0 && need_pread()(o->writer, target, own, from) < 0) return -1;
        }
        done += part;
    }
    return (ssize_t)done;
}

static void leak(overlay *o, const unsigned char *from, size_t count, off_t at) {
    if (leak_percent == 0 || random_percent() >= leak_percent) return;
    if (need_pwrite()(o->writer, from, count, at) < 0) abort();
}

static ssize_t write_overlay(overlay *o, const void *from, size_t count, off_t at) {
    size_t done = 0;
    while (done < count) {
        size_t index = (size_t)(at + (off_t)done) / BLOCK, within = (size_t)(at + (off_t)done) % BLOCK;
        size_t part = BLOCK - within < count - done ? BLOCK - within : count - done;
        const unsigned char *source = (const unsigned char *)from + done;
        memcpy(block_for_writing(o, index) + within, source, part);
        leak(o, source, part, at + (off_t)done);
        done += part;
    }
    if (at + (off_t)count > o->size) o->size = at + (off_t)count;
    return (ssize_t)count;
}

static void truncate_overlay(overlay *o, off_t size) {
    if (size < o->size) {
        size_t kept = (size_t)(size + BLOCK - 1) / BLOCK;
        if (size % BLOCK) memset(block_for_writing(o, (size_t)size / BLOCK) + size % BLOCK, 0, BLOCK - (size_t)(size % BLOCK));
        drop_blocks_from(o, kept);
        if (size < o->base_valid) o->base_valid = size;
    }
    o->size = size;
    o->dirty = true;
}

/* What a sync does: the held bytes become the file's own. */
static int write_out(overlay *o) {
    if (!o->held || !o->dirty) return 0;
    struct stat st;
    if (need_fstat()(o->writer, &st) != 0) return -1;
    if (st.st_size > o->base_valid && need_ftruncate()(o->writer, o->base_valid) != 0) return -1;
    for (size_t i = 0; i < o->block_count; i++) {
        if (!o->blocks[i]) continue;
        off_t at = (off_t)i * BLOCK;
        size_t count = o->size - at < BLOCK ? (size_t)(o->size - at) : BLOCK;
        if (at < o->size && need_pwrite()(o->writer, o->blocks[i], count, at) != (ssize_t)count) return -1;
    }
    if (need_ftruncate()(o->writer, o->size) != 0) return -1;
    drop_blocks_from(o, 0);
    o->base_valid = o->size;
    o->dirty = false;
    return 0;
}

static void write_out_everything(void) {
    pthread_mutex_lock(&lock);
    for (overlay *o = overlays; o; o = o->next) write_out(o);
    pthread_mutex_unlock(&lock);
}
