/*
 * A wall clock that jumps, for one process, by LD_PRELOAD.
 *
 *   KITH_FAULT_CLOCK  a file of eight bytes: by how many milliseconds the clock is ahead, signed, in the machine's order of bytes. It is mapped, so that a
 *                     change is seen at once and reading the clock costs nothing.
 *
 * Only the wall clock (CLOCK_REALTIME, gettimeofday, time): the others do not jump on a real machine either. Not covered: direct system calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const _Atomic int64_t *hand;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
    *(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("KITH_FAULT_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) hand = mapped;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime) *(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, now);
    if (result != 0 || !hand || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    int64_t ahead_ms = atomic_load_explicit(hand, memory_order_relaxed);
    int64_t ns = now->tv_nsec + ahead_ms % 1000 * 1000000;
    now->tv_sec += ahead_ms / 1000;
    if (ns < 0) {
        ns += 1000000000;
        now->tv_sec--;
    } else if (ns >= 1000000000) {
        ns -= 1000000000;
        now->tv_sec++;
    }
    now->tv_nsec = ns;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    if (result == 0) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return result;
}

time_t time(time_t *into) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return (time_t)-1;
    if (into) *into = exact.tv_sec;
    return exact.tv_sec;
}
