// Files and directories. Those that read a file print `ok BYTES FIRST_LINE`.
#include "behaviour.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

static void same_content(const char *what, const char *is, size_t is_len, const char *expected, size_t expected_len) {
    if (is_len != expected_len || memcmp(is, expected, is_len)) wrong("%s: %zu bytes differ from read()'s %zu", what, is_len, expected_len);
}

static int openat_relative(char **argv) {
    struct stat st;
    char link[PATH_MAX];
    size_t len;
    int dir = check(open(argv[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    char *content = slurp(check(openat(dir, argv[1], O_RDONLY | O_CLOEXEC)), &len);
    check(fstatat(dir, argv[1], &st, 0));
    if ((size_t)st.st_size != len) wrong("fstatat() says %lld bytes, read() gave %zu", (long long)st.st_size, len);
    check(faccessat(dir, argv[1], R_OK, 0));
    check(fstatat(dir, argv[1], &st, AT_SYMLINK_NOFOLLOW));
    if (readlinkat(dir, argv[1], link, sizeof link) < 0 ? errno != EINVAL || S_ISLNK(st.st_mode) : !S_ISLNK(st.st_mode))
        wrong("readlinkat() does not agree with the mode %o: %s", st.st_mode, strerrorname_np(errno));
    return ok_content(content, len);
}

static int chdir_relative(char **argv) {
    char cwd[PATH_MAX], dotted[PATH_MAX];
    struct stat st;
    size_t len, again;
    check(chdir(argv[0]));
    if (!getcwd(cwd, sizeof cwd)) wrong("getcwd: %s", strerrorname_np(errno));
    char *content = slurp_path(argv[1], &len);
    snprintf(dotted, sizeof dotted, "./%s", argv[1]);
    char *dotted_content = slurp_path(dotted, &again);
    same_content(dotted, dotted_content, again, content, len);
    check(stat(argv[1], &st));
    if ((size_t)st.st_size != len) wrong("stat() says %lld bytes, read() gave %zu", (long long)st.st_size, len);
    return ok_content(content, len);
}

struct count { int dirs, files; long long bytes; };

static void walk(int parent, const char *name, struct count *count) {
    struct dirent *e;
    struct stat st;
    int first = 0, second = 0;
    DIR *dir = fdopendir(check(openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
    if (!dir) wrong("fdopendir %s: %s", name, strerrorname_np(errno));
    while (readdir(dir)) first++;
    rewinddir(dir);
    while ((e = readdir(dir))) {
        second++;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        check(fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW));
        if (e->d_type != DT_UNKNOWN && e->d_type != IFTODT(st.st_mode)) wrong("%s has d_type %d and mode %o", e->d_name, e->d_type, st.st_mode);
        if (S_ISDIR(st.st_mode)) walk(dirfd(dir), e->d_name, count);
        else count->files++, count->bytes += st.st_size;
    }
    if (first != second) wrong("%s has %d entries, after rewinddir() %d", name, first, second);
    if (first < 2) wrong("%s lacks . and ..", name);
    count->dirs++;
    closedir(dir);
}

static int opendir_walk(char **argv) {
    struct count count = {0};
    DIR *dir = opendir(argv[0]);
    if (!dir) check(-1 /* opendir */);
    closedir(dir);
    walk(AT_FDCWD, argv[0], &count);
    return ok("%d %d %lld", count.dirs, count.files, count.bytes);
}

static int readv_file(char **argv) {
    size_t len, want;
    char *content = slurp_path(argv[0], &len), *parts = calloc(3, len + 1), *joined = calloc(1, len + 1);
    int fd = check(open(argv[0], O_RDONLY | O_CLOEXEC));
    struct iovec iov[3] = {{parts, 1}, {parts + len + 1, 3}, {parts + 2 * (len + 1), len + 1}};
    iov[1].iov_len = len < 3 ? len : 3;
    if (check(readv(fd, NULL, 0)) != 0) wrong("readv() of no vectors");
    want = check(readv(fd, iov, 3));
    for (size_t i = 0, at = 0; i < 3 && at < want; at += iov[i++].iov_len)
        memcpy(joined + at, iov[i].iov_base, want - at < iov[i].iov_len ? want - at : iov[i].iov_len);
    same_content("readv", joined, want, content, len);
    memset(joined, 0, len + 1);
    want = check(preadv(fd, &(struct iovec){joined, len}, 1, 0));
    same_content("preadv", joined, want, content, len);
    return ok_content(content, len);
}

static int mmap_file(char **argv) {
    size_t len;
    char *content = slurp_path(argv[0], &len);
    int fd = check(open(argv[0], O_RDONLY | O_CLOEXEC));
    if (len == 0) wrong("%s is empty", argv[0]);
    char *map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) check(-1 /* mmap */);
    check(close(fd)); // the mapping stays
    same_content("mmap", map, len, content, len);
    return ok_content(map, len);
}

static int open_modes(char **argv) {
    const mode_t modes[] = {0640, 0604, 0431, 0755};
    umask(0);
    for (int i = 0; i < 12; i++) {
        char path[PATH_MAX];
        struct stat st;
        mode_t mode = modes[i % 4];
        snprintf(path, sizeof path, "%s.%d.%o", argv[0], i / 4, mode);
        int fd = i < 4   ? open(path, O_CREAT | O_EXCL | O_WRONLY, mode)
                 : i < 8 ? openat(AT_FDCWD, path, O_CREAT | O_EXCL | O_RDWR, mode)
                         : creat(path, mode);
        check(fd);
        check(stat(path, &st));
        check(unlink(path));
        if ((st.st_mode & 07777) != mode) wrong("asked for mode %o, got %o", mode, st.st_mode & 07777);
        check(close(fd));
    }
    return ok("0640 0604 0431 0755");
}

static int fopen_file(char **argv) {
    size_t len, again;
    char *content = slurp_path(argv[0], &len), *buf = calloc(1, len + 2);
    FILE *f = fopen(argv[0], "re");
    if (!f) check(-1 /* fopen */);
    again = fread(buf, 1, len + 1, f);
    same_content("fread", buf, again, content, len);
    if (!feof(f)) wrong("no end of file");
    check(fseek(f, 0, SEEK_END));
    if ((size_t)ftell(f) != len) wrong("the end is at %ld", ftell(f));
    check(fseek(f, (long)len / 2, SEEK_SET));
    again = fread(buf, 1, len + 1, f);
    same_content("fseek and fread", buf, again, content + len / 2, len - len / 2);
    fclose(f);
    return ok_content(content, len);
}

static int realpath_of(char **argv) {
    char *path = realpath(argv[0], NULL);
    if (!path) check(-1 /* realpath */);
    return ok("%s", path);
}

static int access_to(char **argv) {
    const int bits[] = {R_OK, W_OK, X_OK};
    char seen[4] = "---";
    check(access(argv[0], F_OK));
    for (int i = 0; i < 3; i++) {
        if (access(argv[0], bits[i]) == 0) seen[i] = "rwx"[i];
        else if (errno != EACCES && errno != EROFS) check(-1 /* access */);
    }
    return ok("%s", seen);
}

static int readlink_of(char **argv) {
    char target[PATH_MAX], start[2];
    struct stat st;
    ssize_t n = check(readlink(argv[0], target, sizeof target - 1));
    target[n] = 0;
    check(lstat(argv[0], &st));
    if (!S_ISLNK(st.st_mode)) wrong("lstat() says mode %o", st.st_mode);
    if (check(readlink(argv[0], start, 2)) != (n < 2 ? n : 2) || memcmp(start, target, n < 2 ? n : 2)) wrong("a short buffer");
    return ok("%s", target);
}

static int statx_of(char **argv) {
    struct statx stx;
    struct stat st;
    check(stat(argv[0], &st));
    check(statx(AT_FDCWD, argv[0], 0, STATX_BASIC_STATS, &stx));
    if ((stx.stx_mask & STATX_BASIC_STATS) != STATX_BASIC_STATS) wrong("mask %x", stx.stx_mask);
    if ((long long)stx.stx_size != st.st_size || stx.stx_mode != st.st_mode || stx.stx_ino != st.st_ino ||
        stx.stx_mtime.tv_sec != st.st_mtim.tv_sec)
        wrong("stat() and statx() differ: size %lld and %lld, mode %o and %o", (long long)st.st_size,
              (long long)stx.stx_size, st.st_mode, stx.stx_mode);
    int fd = check(open(argv[0], O_RDONLY | O_CLOEXEC));
    check(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx));
    if ((long long)stx.stx_size != st.st_size || stx.stx_mode != st.st_mode) wrong("statx() of the descriptor differs");
    return ok("%lld %04o", (long long)st.st_size, st.st_mode & 07777);
}

static int statfs_of(char **argv) {
    struct statfs by_path, by_fd;
    check(statfs(argv[0], &by_path));
    check(fstatfs(check(open(argv[0], O_RDONLY | O_CLOEXEC)), &by_fd));
    if (by_path.f_type != by_fd.f_type || by_path.f_bsize != by_fd.f_bsize || by_path.f_blocks != by_fd.f_blocks)
        wrong("statfs() and fstatfs() differ: type %#lx and %#lx", (long)by_path.f_type, (long)by_fd.f_type);
    return ok("%#lx %ld", (long)by_path.f_type, (long)by_path.f_bsize);
}

static int o_rdwr_remote(char **argv) {
    const int flags[] = {O_RDWR, O_WRONLY, O_WRONLY | O_APPEND};
    const char *first = NULL;
    for (int i = 0; i < 3; i++) {
        if (open(argv[0], flags[i] | O_CLOEXEC) >= 0) wrong("open with flags %#o succeeded", flags[i]);
        if (errno != EROFS && errno != EACCES) wrong("open with flags %#o failed with %s", flags[i], strerrorname_np(errno));
        if (!first) first = strerrorname_np(errno);
    }
    check(open(argv[0], O_RDONLY | O_CLOEXEC));
    return ok("%s", first);
}

// ---- threads-open

struct job { const char *path, *content; size_t len; time_t until; long loops; };

static void on_alarm(int signal) { (void)signal; }

static void *open_loop(void *arg) {
    struct job *job = arg;
    while (time(NULL) < job->until) {
        size_t len;
        char *content = slurp_path(job->path, &len);
        same_content("a read under signals", content, len, job->content, job->len);
        free(content);
        job->loops++;
    }
    return NULL;
}

// N threads open, read and close for one to two seconds under an alarm every 300 us.
static int threads_open(char **argv) {
    int n = atoi(argv[0]);
    size_t len;
    char *content = slurp_path(argv[1], &len);
    pthread_t *threads = calloc(n, sizeof *threads);
    struct job *jobs = calloc(n, sizeof *jobs);
    long loops = 0;
    struct itimerval every = {{0, 300}, {0, 300}};
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_RESTART}, NULL);
    for (int i = 0; i < n; i++) {
        jobs[i] = (struct job){argv[1], content, len, time(NULL) + 2, 0};
        if (pthread_create(&threads[i], NULL, open_loop, &jobs[i])) wrong("pthread_create");
    }
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        if (jobs[i].loops == 0) wrong("thread %d did nothing", i);
        loops += jobs[i].loops;
    }
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    return ok("%ld", loops);
}

const struct command file_commands[] = {
    {"openat-relative", "DIR NAME", openat_relative, 2},
    {"chdir-relative", "DIR NAME", chdir_relative, 2},
    {"opendir-walk", "DIR", opendir_walk, 1},
    {"readv", "FILE", readv_file, 1},
    {"mmap", "FILE", mmap_file, 1},
    {"open-modes", "PATH", open_modes, 1},
    {"fopen", "FILE", fopen_file, 1},
    {"realpath", "PATH", realpath_of, 1},
    {"access", "PATH", access_to, 1},
    {"readlink", "PATH", readlink_of, 1},
    {"statx", "PATH", statx_of, 1},
    {"statfs", "PATH", statfs_of, 1},
    {"o-rdwr-remote", "PATH", o_rdwr_remote, 1},
    {"threads-open", "N FILE", threads_open, 2},
    {0},
};
