// Restricted places, and many threads at once.
#include "behaviour.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static int run_under(struct sock_fprog filter, char **argv) {
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
    execvp(argv[0], argv);
    return check(-1);
}

// Runs a program where no filter can have a listener, as in a container with Docker's default profile.
static int no_listeners(char **argv) {
    struct sock_filter program[] = {
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_seccomp, 1, 0),
        ALLOW,
        LOAD(args[1]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SECCOMP_FILTER_FLAG_NEW_LISTENER, 0, 1),
        REFUSE,
        ALLOW,
    };
    return run_under((struct sock_fprog){sizeof program / sizeof *program, program}, argv);
}

#define NAMESPACES (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)
#define REFUSE_CALL(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), REFUSE

// Runs a program as in a container with Docker's default profile and no capabilities: no new namespaces, none to join, no mounts, no
// listeners.
static int no_namespaces(char **argv) {
    struct sock_filter program[] = {
        LOAD(nr),
        REFUSE_CALL(SYS_unshare),
        REFUSE_CALL(SYS_setns),
        REFUSE_CALL(SYS_mount),
        REFUSE_CALL(SYS_umount2),
        REFUSE_CALL(SYS_pivot_root),
        REFUSE_CALL(SYS_open_tree),
        REFUSE_CALL(SYS_move_mount),
        REFUSE_CALL(SYS_fsopen),
        REFUSE_CALL(SYS_fsmount),
        // Its flags are in memory, where a filter cannot look; libc then uses clone(2).
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4),
        LOAD(args[0]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1),
        REFUSE,
        ALLOW,
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_seccomp, 0, 3),
        LOAD(args[1]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SECCOMP_FILTER_FLAG_NEW_LISTENER, 0, 1),
        REFUSE,
        ALLOW,
    };
    return run_under((struct sock_fprog){sizeof program / sizeof *program, program}, argv);
}

static int open_descriptors(void) {
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) return -1;
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static const char *stress_path;
static time_t stress_end;
static long stress_rounds;

static void *stress_thread(void *unused) {
    (void)unused;
    long rounds = 0;
    do {
        char buf[16];
        int fd = check(open(stress_path, O_RDONLY | O_CLOEXEC));
        if (check(read(fd, buf, sizeof buf)) == 0) wrong("nothing in %s", stress_path);
        check(close(fd));
        fd = check(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(1), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno != ECONNREFUSED) wrong("connected to nobody, errno %d", errno);
        check(close(fd));
        if (rounds++ % 8 == 0) {
            int status;
            pid_t child = check(fork());
            if (child == 0) {
                execl("/bin/true", "true", (char *)NULL);
                _exit(127);
            }
            check(waitpid(child, &status, 0));
            if (status != 0) wrong("the child ended with status %#x", status);
        }
        __atomic_add_fetch(&stress_rounds, 1, __ATOMIC_RELAXED);
    } while (time(NULL) < stress_end);
    return NULL;
}

// Threads that open, connect, fork and execute; afterwards no descriptor is left.
static int stress(char **argv) {
    enum { MOST = 256 };
    int threads = atoi(argv[0]), before = open_descriptors();
    pthread_t all[MOST];
    if (threads > MOST) wrong("more than %d threads", MOST);
    stress_path = argv[2];
    stress_end = time(NULL) + atoi(argv[1]);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&all[i], NULL, stress_thread, NULL)) wrong("thread %d cannot be made", i);
    for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
    int after = open_descriptors();
    if (after != before) wrong("%d descriptors before, %d after", before, after);
    return ok("%ld", stress_rounds);
}

const struct command place_commands[] = {
    {"no-listeners", "PROGRAM ARGS...", no_listeners, 1},
    {"no-namespaces", "PROGRAM ARGS...", no_namespaces, 1},
    {"stress", "THREADS SECONDS PATH", stress, 3},
    {0},
};
