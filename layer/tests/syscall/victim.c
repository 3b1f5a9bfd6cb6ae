// What the tests of the layer need beyond tests/victims/behaviour: one subcommand per question, one line per answer.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *call) {
    printf("error %s %s\n", call, strerrorname_np(errno));
    exit(1);
}
#define CHECK(call) ({ long r_ = (long)(call); if (r_ < 0) fail(#call); r_; })

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

// The mark that the test's holder puts on its sockets.
static int priority(int fd) {
    int value = -1;
    socklen_t size = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PRIORITY, &value, &size));
    return value;
}

static int say_socket(int domain, int type, int protocol) {
    int fd = socket(domain, type, protocol);
    if (fd < 0) return printf("%s\n", strerrorname_np(errno)), 0;
    printf("priority %d nonblock %d cloexec %d\n", priority(fd), !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    return 0;
}

static int socket_kinds(void) {
    say_socket(AF_INET, SOCK_STREAM, 0);
    say_socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP);
    say_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP);
    say_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 262 /* IPPROTO_MPTCP */);
    say_socket(AF_UNIX, SOCK_STREAM, 0);
    return 0;
}

static int socket_burst(int n) {
    int marked = 0;
    for (int i = 0; i < n; i++) marked += priority(CHECK(socket(i % 2 ? AF_INET : AF_INET6, SOCK_STREAM, 0))) == 5;
    return printf("marked %d\n", marked), 0;
}

static int names(void) {
    struct utsname u;
    char name[128];
    CHECK(gethostname(name, sizeof name));
    CHECK(uname(&u));
    return printf("%s %s %s %s %s\n", name, u.nodename, u.sysname, u.release, u.machine), 0;
}

static int listen_once(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = CHECK(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(bind(fd, (void *)&a, size));
    CHECK(listen(fd, 5));
    CHECK(listen(fd, 6));
    CHECK(getsockname(fd, (void *)&a, &size));
    int accepting = 0;
    size = sizeof accepting;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &size));
    return printf("%d %d\n", ntohs(a.sin_port), accepting), 0;
}

static int unix_connect(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char buffer[64] = {0};
    int fd = CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    CHECK(connect(fd, (void *)&a, sizeof a));
    CHECK(write(fd, "ping", 4));
    CHECK(read(fd, buffer, sizeof buffer - 1));
    return printf("%s\n", buffer), 0;
}

static int signal_state(void) {
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "SigIgn", 6) || !strncmp(line, "SigBlk", 6)) fputs(line, stdout);
    for (int fd = 3; fd < 256; fd++)
        if (fd != fileno(f) && fcntl(fd, F_GETFD) >= 0) printf("descriptor %d is open\n", fd);
    return 0;
}

// A tree that wants to live: a daemon in a session of its own, a child, threads; all ignore SIGTERM and SIGHUP.
static void *sleeper(void *x) { sleep(1000); return x; }
static int tree(void) {
    pthread_t thread;
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    if (fork() == 0) {
        setsid();
        if (fork()) _exit(0);
        access("/etc", F_OK); // a trapped call, so that the daemon is known
        sleep(1000);
    }
    if (fork() == 0) {
        pthread_create(&thread, NULL, sleeper, NULL);
        if (fork() == 0) sleep(1000);
        sleep(1000);
    }
    wait(NULL);
    printf("ready\n");
    fflush(stdout);
    sleep(1000);
    return 0;
}

static int grandchildren(void) {
    // One that its parent reaps, one that is orphaned and reaped by the supervisor.
    pid_t child = CHECK(fork());
    if (child == 0) {
        access("/etc", F_OK);
        _exit(3);
    }
    waitpid(child, NULL, 0);
    if (CHECK(fork()) == 0) {
        if (fork() == 0) {
            usleep(20000);
            access("/etc", F_OK);
            _exit(4);
        }
        _exit(0);
    }
    wait(NULL);
    return 5;
}

static int relative(const char *dir, const char *name) {
    struct stat st;
    int fd = CHECK(open(dir, O_RDONLY | O_DIRECTORY));
    CHECK(fchdir(fd));
    CHECK(stat(name, &st));
    printf("%lld", (long long)st.st_size);
    int file = CHECK(openat(fd, name, O_RDONLY));
    struct stat opened;
    CHECK(fstat(file, &opened));
    printf(" %lld", (long long)opened.st_size);
    int made = openat(fd, "new", O_RDWR | O_CREAT, 0600);
    printf(" %s", made < 0 ? strerrorname_np(errno) : "created");
    printf(" %s\n", mkdirat(fd, "dir", 0700) < 0 ? strerrorname_np(errno) : "created");
    return 0;
}

// An absolute path below a directory that is taken as root.
static int in_root(const char *dir, const char *path) {
    struct { unsigned long long flags, mode, resolve; } how = {O_RDONLY, 0, 0x10 /* RESOLVE_IN_ROOT */};
    char buffer[64] = {0};
    int fd = CHECK(open(dir, O_RDONLY | O_DIRECTORY));
    int file = CHECK(syscall(SYS_openat2, fd, path, &how, sizeof how));
    CHECK(read(file, buffer, sizeof buffer - 1));
    return printf("%s", buffer), 0;
}

static int by_descriptor(const char *program) {
    char *args[] = {"by-descriptor", NULL}, *env[] = {NULL};
    return fexecve(CHECK(open(program, O_RDONLY | O_CLOEXEC)), args, env);
}

static int attributes(const char *path) {
    char buffer[256];
    printf("%s", getxattr(path, "system.posix_acl_access", buffer, sizeof buffer) < 0 ? strerrorname_np(errno) : "value");
    return printf(" %zd\n", listxattr(path, buffer, sizeof buffer)), 0;
}

static int errnos(int n, char **paths) {
    for (int i = 0; i < n; i++) {
        int fd = open(paths[i], O_RDONLY);
        printf("%s%s", i ? " " : "", fd < 0 ? strerrorname_np(errno) : "ok");
        if (fd >= 0) close(fd);
    }
    return printf("\n"), 0;
}

static int undumpable(const char *path) {
    prctl(PR_SET_DUMPABLE, 0);
    return errnos(1, (char *[]){(char *)path});
}

static int in_chroot(const char *root, const char *path) {
    CHECK(chroot(root));
    CHECK(chdir("/"));
    return errnos(1, (char *[]){(char *)path});
}

static void nothing(int signal) { (void)signal; }

// One stat under an alarm every 300 us, restarted or repeated by hand.
static int stormed(const char *path, int restart, int loops) {
    struct stat st;
    long interrupted = 0;
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = nothing, .sa_flags = restart ? SA_RESTART : 0}, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 300}, {0, 300}}, NULL);
    for (int i = 0; i < loops; i++) {
        while (stat(path, &st) < 0)
            if (errno == EINTR) interrupted++;
            else fail("stat");
        if (st.st_size != 5) fail("size");
    }
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    return printf("done\n"), 0;
}

static int storm_sockets(int loops) {
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 300}, {0, 300}}, NULL);
    int first = -1;
    for (int i = 0; i < loops; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) fail("socket");
        if (priority(fd) != 5) fail("priority");
        if (first < 0) first = fd;
        if (fd != first) fail("leak"); // a lost answer must not leave a descriptor behind
        close(fd);
    }
    return printf("done\n"), 0;
}

static double best(int loops, int kind, const char *path) {
    struct stat st;
    char buffer[4096];
    double least = 1e18;
    for (int round = 0; round < 8; round++) {
        double start = now();
        for (int i = 0; i < loops; i++) {
            if (kind == 0) syscall(SYS_getpid);
            if (kind == 1) CHECK(stat(path, &st));
            if (kind == 2) {
                int fd = CHECK(open(path, O_RDONLY));
                CHECK(read(fd, buffer, sizeof buffer));
                close(fd);
            }
            if (kind == 3) close(CHECK(socket(AF_INET, SOCK_STREAM, 0)));
        }
        double each = (now() - start) / loops;
        if (each < least) least = each;
    }
    return least;
}

static int figures(const char *local, const char *remote) {
    printf("getpid %.0f local-stat %.0f local-open-read-close %.0f socket-close %.0f", best(100000, 0, ""), best(1000, 1, local),
           best(1000, 2, local), best(300, 3, ""));
    if (remote) printf(" remote-stat %.0f remote-open-read-close %.0f", best(500, 1, remote), best(500, 2, remote));
    return printf("\n"), 0;
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    const char *one = argc > 2 ? argv[2] : NULL, *two = argc > 3 ? argv[3] : NULL;
    if (!strcmp(command, "sockets")) return socket_kinds();
    if (!strcmp(command, "hostname")) return names();
    if (!strcmp(command, "burst")) return socket_burst(atoi(one));
    if (!strcmp(command, "listen")) return listen_once();
    if (!strcmp(command, "unix")) return unix_connect(one);
    if (!strcmp(command, "signals")) return signal_state();
    if (!strcmp(command, "tree")) return tree();
    if (!strcmp(command, "grandchildren")) return grandchildren();
    if (!strcmp(command, "relative")) return relative(one, two);
    if (!strcmp(command, "in-root")) return in_root(one, two);
    if (!strcmp(command, "fexecve")) return by_descriptor(one);
    if (!strcmp(command, "attributes")) return attributes(one);
    if (!strcmp(command, "errnos")) return errnos(argc - 2, argv + 2);
    if (!strcmp(command, "undumpable")) return undumpable(one);
    if (!strcmp(command, "chroot")) return in_chroot(one, two);
    if (!strcmp(command, "storm")) return stormed(one, atoi(two), 200);
    if (!strcmp(command, "storm-sockets")) return storm_sockets(2000);
    if (!strcmp(command, "figures")) return figures(one, two);
    printf("no subcommand %s\n", command);
    return 2;
}
