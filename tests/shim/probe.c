/*
 * Uses files in every way the fault shim has to know, and checks what it sees of its own writing. `probe FOLDER COMMAND`, where COMMAND is
 *   overlay   writes, reads, seeks, truncates and renames without syncing, checks all of it, prints "ready" and waits to be killed
 *   sync      writes "kept", syncs, writes "lost" behind it without syncing, prints "ready" and waits to be killed
 *   exit      writes without syncing and ends in the ordinary way
 *   full      prints what a write, an overwrite and a growing truncation say, one errno name per line, until its input ends
 * Compiled twice, with and without _FILE_OFFSET_BITS=64, so that both spellings of each call are used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno)); \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static void wait_to_be_killed(void) {
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}

static void overlay(void) {
    char got[16384];
    struct stat st;
    struct statx sx;
    int fd = open("a", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);

    /* What is written is read, by position and in sequence, across blocks and holes. */
    CHECK(pwrite(fd, "hello", 5, 4094) == 5);
    CHECK(pread(fd, got, sizeof got, 0) == 4099);
    CHECK(got[0] == 0 && memcmp(got + 4094, "hello", 5) == 0);
    CHECK(lseek(fd, 0, SEEK_END) == 4099);
    CHECK(write(fd, "!", 1) == 1 && lseek(fd, 0, SEEK_CUR) == 4100);
    CHECK(lseek(fd, 4094, SEEK_SET) == 4094 && read(fd, got, 100) == 6 && memcmp(got, "hello!", 6) == 0);
    CHECK(read(fd, got, 1) == 0);
    struct iovec parts[2] = {{(void *)"xy", 2}, {(void *)"z", 1}};
    CHECK(pwritev(fd, parts, 2, 10) == 3 && pread(fd, got, 3, 10) == 3 && memcmp(got, "xyz", 3) == 0);

    /* Every way of asking for the size agrees. */
    CHECK(fstat(fd, &st) == 0 && st.st_size == 4100);
    CHECK(stat("a", &st) == 0 && st.st_size == 4100);
    CHECK(fstatat(AT_FDCWD, "a", &st, 0) == 0 && st.st_size == 4100);
    CHECK(statx(AT_FDCWD, "a", 0, STATX_SIZE, &sx) == 0 && sx.stx_size == 4100);
    CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &sx) == 0 && sx.stx_size == 4100);

    /* A second descriptor and a doubled one share the overlay. */
    int second = open("a", O_RDONLY), third = dup(fd);
    CHECK(second >= 0 && third >= 0);
    CHECK(pread(second, got, 5, 4094) == 5 && memcmp(got, "hello", 5) == 0);
    CHECK(pwrite(third, "J", 1, 4094) == 1 && pread(second, got, 1, 4094) == 1 && got[0] == 'J');

    /* Cut and grown again, the old bytes are zeros. */
    CHECK(ftruncate(fd, 4095) == 0 && fstat(fd, &st) == 0 && st.st_size == 4095);
    CHECK(ftruncate(fd, 9000) == 0 && pread(fd, got, sizeof got, 4094) == 9000 - 4094);
    CHECK(got[0] == 'J' && got[1] == 0 && got[4] == 0 && got[4000] == 0);

    /* A mapping would see only what is on the disk, so there is none; shared memory passes. */
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
    int shm = open("a-shm", O_RDWR | O_CREAT, 0600);
    CHECK(shm >= 0 && ftruncate(shm, 4096) == 0);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0) != MAP_FAILED);

    /* Closed and opened, renamed and opened, it is the same file. */
    CHECK(close(fd) == 0 && close(second) == 0 && close(third) == 0);
    CHECK(rename("a", "b") == 0);
    fd = open("b", O_RDWR);
    CHECK(fd >= 0 && pread(fd, got, 1, 4094) == 1 && got[0] == 'J');

    /* A synced file that is emptied on opening, and one that is appended to. */
    CHECK(fsync(fd) == 0 && close(fd) == 0);
    fd = open("b", O_WRONLY | O_TRUNC);
    CHECK(fd >= 0 && fstat(fd, &st) == 0 && st.st_size == 0 && close(fd) == 0);
    fd = open("b", O_RDWR | O_APPEND);
    CHECK(fd >= 0 && write(fd, "one", 3) == 3 && write(fd, "two", 3) == 3 && pread(fd, got, 10, 0) == 6 && memcmp(got, "onetwo", 6) == 0);

    /* A removed file and a new one of the same name are two. */
    CHECK(unlink("b") == 0);
    int fresh = open("b", O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fresh >= 0 && pread(fresh, got, 1, 0) == 0 && pread(fd, got, 3, 0) == 3);
    CHECK(write(fresh, "never synced", 12) == 12);
    wait_to_be_killed();
}

static void sync_then_write(void) {
    int fd = open("a", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && write(fd, "kept", 4) == 4 && fdatasync(fd) == 0);
    CHECK(write(fd, "lost", 4) == 4);
    wait_to_be_killed();
}

static void write_and_end(void) {
    int fd = open("a", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && write(fd, "page cache", 10) == 10 && close(fd) == 0);
}

static const char *said(long result) { return result >= 0 ? "ok" : errno == ENOSPC ? "ENOSPC" : strerror(errno); }

static void until_told_to_end(void) {
    char line[16];
    int fd = open("a", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    while (fgets(line, sizeof line, stdin)) {
        printf("%s", said(pwrite(fd, "x", 1, 0)));
        printf(" %s", said(ftruncate(fd, lseek(fd, 0, SEEK_END) + 4096)));
        printf(" %s\n", said(pread(fd, line, 1, 0)));
        fflush(stdout);
    }
}

int main(int count, char **arguments) {
    CHECK(count == 3 && chdir(arguments[1]) == 0);
    if (strcmp(arguments[2], "overlay") == 0) overlay();
    if (strcmp(arguments[2], "sync") == 0) sync_then_write();
    if (strcmp(arguments[2], "exit") == 0) write_and_end();
    if (strcmp(arguments[2], "full") == 0) until_told_to_end();
    return 0;
}
