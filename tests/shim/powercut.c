/*
 * A disk that loses power and a disk that fills up, for one process, by LD_PRELOAD.
 *
 *   KITH_FAULT_DIR    the folder whose files are concerned (must exist when the process starts)
 *   KITH_FAULT_HOLD   "1": writes are held in memory until fsync or fdatasync of that file. The process reads what it wrote; whoever looks at the
 *                     folder from outside sees only what was synced. SIGKILL loses the rest, like a power cut; an ordinary exit writes it out, since
 *                     then the page cache would have kept it.
 *   KITH_FAULT_LEAK   0..100: of the held blocks, so many per cent reach the disk at once all the same, as when the kernel happens to write early.
 *                     Unsynced writes then survive in an arbitrary selection and torn. KITH_FAULT_SEED makes the selection repeatable.
 *   KITH_FAULT_FULL   a path: as long as it exists, whatever would write to a file of the folder fails with ENOSPC.
 *
 * One overlay per inode, shared by all descriptors of the process. Names (creation, rename, removal) take effect at once: a file that was renamed into
 * place without having been synced is found empty after the cut, which is the mistake worth finding. SQLite's -shm is shared memory, not storage, and
 * passes through. Other mappings of held files are refused with ENODEV, upon which SQLite reads instead. Not covered: stdio streams and direct system
 * calls, which neither the server nor SQLite uses for its data.
 */
#define _GNU_SOURCE
#include "overlay.h"

/* ---- opening, closing, doubling ----------------------------------------------------------------------------------------------------------------- */

#define MODE_OF(flags)                                                       \
    mode_t mode = 0;                                                         \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                 \
        va_list list;                                                        \
        va_start(list, flags);                                               \
        mode = (mode_t)va_arg(list, int);                                    \
        va_end(list);                                                        \
    }

static int open_any(int dirfd, const char *path, int flags, mode_t mode) {
    bool ours = names_folder(dirfd, path);
    if (ours && (flags & O_TRUNC) && disk_is_full()) {
        errno = ENOSPC;
        return -1;
    }
    return opened(need_openat()(dirfd, path, ours ? flags_to_pass(flags) : flags, mode), flags);
}

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_any(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE_OF(flags) return open_any(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE_OF(flags) return open_any(dirfd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }

int close(int fd) {
    if (overlay_of(fd)) {
        pthread_mutex_lock(&lock);
        release(fd);
        pthread_mutex_unlock(&lock);
    }
    return need_close()(fd);
}

static int doubled(int from, int to) {
    if (to < 0 || to >= MAX_FD || from == to) return to;
    pthread_mutex_lock(&lock);
    release(to);
    overlay *o = overlay_of(from);
    if (o) o->open_fds++;
    atomic_store(&by_fd[to], o);
    pthread_mutex_unlock(&lock);
    return to;
}

int dup(int fd) { return doubled(fd, need_dup()(fd)); }
int dup2(int fd, int to) { return doubled(fd, need_dup2()(fd, to)); }
int dup3(int fd, int to, int flags) { return doubled(fd, need_dup3()(fd, to, flags)); }

static int fcntl_any(int fd, int command, void *argument) {
    int result = need_fcntl()(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? doubled(fd, result) : result;
}

#define FCNTL(name)                                                          \
    int name(int fd, int command, ...) {                                     \
        va_list list;                                                        \
        va_start(list, command);                                             \
        void *argument = va_arg(list, void *);                               \
        va_end(list);                                                        \
        return fcntl_any(fd, command, argument);                             \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* ---- reading and writing ------------------------------------------------------------------------------------------------------------------------ */

/* Runs `held` under the lock if the descriptor's file is held, otherwise `plain`; writers meet a full disk first. */
#define REFUSE_WHEN_FULL(o, failure)                                         \
    if ((o) && disk_is_full()) {                                             \
        errno = ENOSPC;                                                      \
        return failure;                                                      \
    }

static ssize_t pread_any(int fd, void *into, size_t count, off_t at) {
    overlay *o = overlay_of(fd);
    if (!o || !o->held) return need_pread()(fd, into, count, at);
    pthread_mutex_lock(&lock);
    ssize_t result = read_overlay(o, into, count, at);
    pthread_mutex_unlock(&lock);
    return result;
}

static ssize_t pwrite_any(int fd, const void *from, size_t count, off_t at) {
    overlay *o = overlay_of(fd);
    REFUSE_WHEN_FULL(o, -1)
    if (!o || !o->held) return need_pwrite()(fd, from, count, at);
    pthread_mutex_lock(&lock);
    ssize_t result = write_overlay(o, from, count, at);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t pread(int fd, void *into, size_t count, off_t at) { return pread_any(fd, into, count, at); }
ssize_t pread64(int fd, void *into, size_t count, off_t at) { return pread_any(fd, into, count, at); }
ssize_t __pread_chk(int fd, void *into, size_t count, off_t at, size_t room) { return room < count ? (abort(), -1) : pread_any(fd, into, count, at); }
ssize_t __pread64_chk(int fd, void *into, size_t count, off_t at, size_t room) { return room < count ? (abort(), -1) : pread_any(fd, into, count, at); }
ssize_t pwrite(int fd, const void *from, size_t count, off_t at) { return pwrite_any(fd, from, count, at); }
ssize_t pwrite64(int fd, const void *from, size_t count, off_t at) { return pwrite_any(fd, from, count, at); }

ssize_t read(int fd, void *into, size_t count) {
    overlay *o = overlay_of(fd);
    if (!o || !o->held) return need_read()(fd, into, count);
    pthread_mutex_lock(&lock);
    off_t at = need_lseek()(fd, 0, SEEK_CUR);
    ssize_t result = read_overlay(o, into, count, at);
    if (result > 0) need_lseek()(fd, at + result, SEEK_SET);
    pthread_mutex_unlock(&lock);
    return result;
}
ssize_t __read_chk(int fd, void *into, size_t count, size_t room) { return room < count ? (abort(), -1) : read(fd, into, count); }

ssize_t write(int fd, const void *from, size_t count) {
    overlay *o = overlay_of(fd);
    REFUSE_WHEN_FULL(o, -1)
    if (!o || !o->held) return need_write()(fd, from, count);
    pthread_mutex_lock(&lock);
    int flags = need_fcntl()(fd, F_GETFL);
    off_t at = flags & O_APPEND ? o->size : need_lseek()(fd, 0, SEEK_CUR);
    ssize_t result = write_overlay(o, from, count, at);
    need_lseek()(fd, at + result, SEEK_SET);
    pthread_mutex_unlock(&lock);
    return result;
}

/* One vector after the other; a short part ends the call, as it may. */
#define EACH_PART(call)                                                      \
    ssize_t done = 0;                                                        \
    for (int i = 0; i < count; i++) {                                        \
        ssize_t part = call;                                                 \
        if (part < 0) return done > 0 ? done : -1;                           \
        done += part;                                                        \
        if ((size_t)part < parts[i].iov_len) break;                          \
    }                                                                        \
    return done;

ssize_t readv(int fd, const struct iovec *parts, int count) {
    if (!overlay_of(fd)) return need_readv()(fd, parts, count);
    EACH_PART(read(fd, parts[i].iov_base, parts[i].iov_len))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!overlay_of(fd)) return need_writev()(fd, parts, count);
    EACH_PART(write(fd, parts[i].iov_base, parts[i].iov_len))
}
ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) {
    if (!overlay_of(fd)) return need_preadv()(fd, parts, count, at);
    EACH_PART(pread_any(fd, parts[i].iov_base, parts[i].iov_len, at + done))
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    if (!overlay_of(fd)) return need_pwritev()(fd, parts, count, at);
    EACH_PART(pwrite_any(fd, parts[i].iov_base, parts[i].iov_len, at + done))
}
ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t at) { return preadv(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return pwritev(fd, parts, count, at); }

static off_t lseek_any(int fd, off_t to, int whence) {
    overlay *o = overlay_of(fd);
    if (!o || !o->held || whence != SEEK_END) return need_lseek()(fd, to, whence);
    pthread_mutex_lock(&lock);
    off_t end = o->size;
    pthread_mutex_unlock(&lock);
    return need_lseek()(fd, end + to, SEEK_SET);
}
off_t lseek(int fd, off_t to, int whence) { return lseek_any(fd, to, whence); }
off64_t lseek64(int fd, off64_t to, int whence) { return lseek_any(fd, to, whence); }

/* Copies inside the kernel would miss what is held: the caller is told to copy by hand. */
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t count, unsigned flags) {
    if (overlay_of(from) || overlay_of(to)) return errno = EXDEV, -1;
    return need_copy_file_range()(from, from_at, to, to_at, count, flags);
}
static ssize_t sendfile_any(int to, int from, off_t *at, size_t count) {
    if (overlay_of(from) || overlay_of(to)) return errno = EINVAL, -1;
    return need_sendfile()(to, from, at, count);
}
ssize_t sendfile(int to, int from, off_t *at, size_t count) { return sendfile_any(to, from, at, count); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t count) { return sendfile_any(to, from, at, count); }

/* ---- syncing ------------------------------------------------------------------------------------------------------------------------------------ */

static int sync_one(int fd, int (*plain)(int)) {
    overlay *o = overlay_of(fd);
    REFUSE_WHEN_FULL(o && o->dirty ? o : NULL, -1)
    if (!o || !o->held) return plain(fd);
    pthread_mutex_lock(&lock);
    int result = write_out(o);
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int fd) { return sync_one(fd, need_fsync()); }
int fdatasync(int fd) { return sync_one(fd, need_fdatasync()); }
/* Promises nothing after a crash, so it keeps nothing here. */
int sync_file_range(int fd, off_t at, off_t count, unsigned flags) {
    return overlay_of(fd) ? 0 : need_sync_file_range()(fd, at, count, flags);
}
void sync(void) {
    write_out_everything();
    need_sync()();
}
int syncfs(int fd) {
    write_out_everything();
    return need_syncfs()(fd);
}

/* ---- sizes -------------------------------------------------------------------------------------------------------------------------------------- */

static int ftruncate_any(int fd, off_t size) {
    overlay *o = overlay_of(fd);
    if (!o || !o->held) {
        struct stat st;
        if (o && disk_is_full() && need_fstat()(fd, &st) == 0 && size > st.st_size) return errno = ENOSPC, -1;
        return need_ftruncate()(fd, size);
    }
    if (size > o->size && disk_is_full()) return errno = ENOSPC, -1;
    pthread_mutex_lock(&lock);
    truncate_overlay(o, size);
    pthread_mutex_unlock(&lock);
    return 0;
}
int ftruncate(int fd, off_t size) { return ftruncate_any(fd, size); }
int ftruncate64(int fd, off64_t size) { return ftruncate_any(fd, size); }

static int truncate_any(const char *path, off_t size) {
    if (!names_folder(AT_FDCWD, path)) return need_truncate()(path, size);
    int fd = open_any(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = ftruncate_any(fd, size), saved = errno;
    close(fd);
    errno = saved;
    return result;
}
int truncate(const char *path, off_t size) { return truncate_any(path, size); }
int truncate64(const char *path, off64_t size) { return truncate_any(path, size); }

static int grow(overlay *o, off_t to) {
    if (disk_is_full()) return ENOSPC;
    pthread_mutex_lock(&lock);
    if (to > o->size) truncate_overlay(o, to);
    pthread_mutex_unlock(&lock);
    return 0;
}
static int fallocate_any(int fd, int mode, off_t at, off_t count) {
    overlay *o = overlay_of(fd);
    REFUSE_WHEN_FULL(o, -1)
    if (!o || !o->held) return need_fallocate()(fd, mode, at, count);
    if (mode != 0) return errno = EOPNOTSUPP, -1;
    int result = grow(o, at + count);
    return result == 0 ? 0 : (errno = result, -1);
}
int fallocate(int fd, int mode, off_t at, off_t count) { return fallocate_any(fd, mode, at, count); }
int fallocate64(int fd, int mode, off64_t at, off64_t count) { return fallocate_any(fd, mode, at, count); }
static int posix_fallocate_any(int fd, off_t at, off_t count) {
    overlay *o = overlay_of(fd);
    if (o && disk_is_full()) return ENOSPC;
    return o && o->held ? grow(o, at + count) : need_posix_fallocate()(fd, at, count);
}
int posix_fallocate(int fd, off_t at, off_t count) { return posix_fallocate_any(fd, at, count); }
int posix_fallocate64(int fd, off64_t at, off64_t count) { return posix_fallocate_any(fd, at, count); }

/* Puts the size the process should see in place of the file's own. */
static void correct(dev_t dev, ino_t ino, off_t *size) {
    if (!hold || folder_length == 0) return;
    pthread_mutex_lock(&lock);
    overlay *o = find(dev, ino);
    if (o && o->held) *size = o->size;
    pthread_mutex_unlock(&lock);
}
static int corrected(int result, struct stat *st) {
    if (result == 0) correct(st->st_dev, st->st_ino, &st->st_size);
    return result;
}
static int fstat_any(int fd, struct stat *st) {
    int result = need_fstat()(fd, st);
    overlay *o = overlay_of(fd);
    if (result == 0 && o && o->held) {
        pthread_mutex_lock(&lock);
        st->st_size = o->size;
        pthread_mutex_unlock(&lock);
    }
    return result;
}
int fstat(int fd, struct stat *st) { return fstat_any(fd, st); }
int fstat64(int fd, struct stat64 *st) { return fstat_any(fd, (struct stat *)st); }
int stat(const char *path, struct stat *st) { return corrected(need_stat()(path, st), st); }
int stat64(const char *path, struct stat64 *st) { return corrected(need_stat()(path, (struct stat *)st), (struct stat *)st); }
int lstat(const char *path, struct stat *st) { return corrected(need_lstat()(path, st), st); }
int lstat64(const char *path, struct stat64 *st) { return corrected(need_lstat()(path, (struct stat *)st), (struct stat *)st); }
static int fstatat_any(int dirfd, const char *path, struct stat *st, int flags) {
    if ((flags & AT_EMPTY_PATH) && path[0] == 0) return fstat_any(dirfd, st);
    return corrected(need_fstatat()(dirfd, path, st, flags), st);
}
int fstatat(int dirfd, const char *path, struct stat *st, int flags) { return fstatat_any(dirfd, path, st, flags); }
int fstatat64(int dirfd, const char *path, struct stat64 *st, int flags) { return fstatat_any(dirfd, path, (struct stat *)st, flags); }
int statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *st) {
    int result = need_statx()(dirfd, path, flags, mask, st);
    if (result != 0) return result;
    off_t size = (off_t)st->stx_size;
    correct(makedev(st->stx_dev_major, st->stx_dev_minor), (ino_t)st->stx_ino, &size);
    st->stx_size = (uint64_t)size;
    return result;
}

static void *mmap_any(void *address, size_t count, int protection, int flags, int fd, off_t at) {
    overlay *o = (flags & MAP_ANONYMOUS) ? NULL : overlay_of(fd);
    if (o && o->held) return errno = ENODEV, MAP_FAILED;
    return need_mmap()(address, count, protection, flags, fd, at);
}
void *mmap(void *address, size_t count, int protection, int flags, int fd, off_t at) { return mmap_any(address, count, protection, flags, fd, at); }
void *mmap64(void *address, size_t count, int protection, int flags, int fd, off64_t at) { return mmap_any(address, count, protection, flags, fd, at); }

/* ---- names -------------------------------------------------------------------------------------------------------------------------------------- */

/* After a name is gone, its inode may be used again for another file: the overlay must not be found by number any more. */
static int gone(int result, bool known, const struct stat *st) {
    if (result != 0 || !known || st->st_nlink > 1) return result;
    pthread_mutex_lock(&lock);
    overlay *o = find(st->st_dev, st->st_ino);
    if (o && o->open_fds == 0) {
        forget(o);
    } else if (o) {
        o->unlinked = true;
    }
    pthread_mutex_unlock(&lock);
    return result;
}
int unlink(const char *path) {
    struct stat st;
    bool known = need_lstat()(path, &st) == 0;
    return gone(need_unlink()(path), known, &st);
}
int unlinkat(int dirfd, const char *path, int flags) {
    struct stat st;
    bool known = !(flags & AT_REMOVEDIR) && need_fstatat()(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
    return gone(need_unlinkat()(dirfd, path, flags), known, &st);
}
static bool replaced(int fromfd, const char *from, int tofd, const char *to, struct stat *st) {
    struct stat same;
    if (need_fstatat()(tofd, to, st, AT_SYMLINK_NOFOLLOW) != 0) return false;
    return need_fstatat()(fromfd, from, &same, AT_SYMLINK_NOFOLLOW) != 0 || same.st_ino != st->st_ino || same.st_dev != st->st_dev;
}
int rename(const char *from, const char *to) {
    struct stat st;
    bool known = replaced(AT_FDCWD, from, AT_FDCWD, to, &st);
    return gone(need_rename()(from, to), known, &st);
}
int renameat(int fromfd, const char *from, int tofd, const char *to) {
    struct stat st;
    bool known = replaced(fromfd, from, tofd, to, &st);
    return gone(need_renameat()(fromfd, from, tofd, to), known, &st);
}
int renameat2(int fromfd, const char *from, int tofd, const char *to, unsigned flags) {
    struct stat st;
    bool known = !(flags & RENAME_EXCHANGE) && replaced(fromfd, from, tofd, to, &st);
    return gone(need_renameat2()(fromfd, from, tofd, to, flags), known, &st);
}
