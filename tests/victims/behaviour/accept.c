// Listening and accepting. A subcommand that waits for a client prints `listening PORT` first; the client may send one
// line, which is sent back.
#include "behaviour.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>

static struct sockaddr_in any(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
}

// A TCP socket bound to 0.0.0.0:port, not yet listening. option: SO_REUSEADDR, SO_REUSEPORT or 0
static int bound(int port, int option) {
    struct sockaddr_in addr = any(port);
    int on = 1, fd = check(socket(AF_INET, SOCK_STREAM, 0));
    if (option) check(setsockopt(fd, SOL_SOCKET, option, &on, sizeof on));
    check(bind(fd, (void *)&addr, sizeof addr));
    return fd;
}

static int listening(int port) {
    int fd = bound(port, SO_REUSEADDR);
    check(listen(fd, 128));
    return fd;
}

static struct sockaddr_in name_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *)) {
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    check(get(fd, (void *)&addr, &len));
    if (len != sizeof addr || addr.sin_family != AF_INET) wrong("address of family %d, length %u", addr.sin_family, len);
    return addr;
}

struct text { char s[32]; };
static struct text show(struct sockaddr_in addr) {
    struct text t;
    snprintf(t.s, sizeof t.s, "%s:%d", inet_ntoa(addr.sin_addr), ntohs(addr.sin_port));
    return t;
}

// Serves one accepted client; what accept() said of it must agree with getpeername().
static void serve(int fd, struct sockaddr_in from) {
    char buf[4096];
    struct sockaddr_in peer = name_of(fd, getpeername);
    if (strcmp(show(peer).s, show(from).s)) wrong("accept() says %s, getpeername() %s", show(from).s, show(peer).s);
    ssize_t n = check(read(fd, buf, sizeof buf));
    if (n > 0) check(write(fd, buf, n));
    check(close(fd));
}

static struct sockaddr_in accept_one(int fd) {
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    serve(check(accept(fd, (void *)&from, &len)), from);
    return from;
}

static int accept_and_say(int fd) { return ok("%s", show(accept_one(fd)).s); }

static int dup_listener(char **argv) {
    int fd = listening(atoi(argv[0])), copy = check(dup(fd));
    check(close(fd));
    say_listening(atoi(argv[0]));
    return accept_and_say(copy);
}

static int double_listen(char **argv) {
    int fd = listening(atoi(argv[0]));
    check(listen(fd, 16));
    say_listening(atoi(argv[0]));
    return accept_and_say(fd);
}

static int double_bind(char **argv) {
    struct sockaddr_in addr = any(atoi(argv[0]));
    listening(atoi(argv[0]));
    int second = check(socket(AF_INET, SOCK_STREAM, 0));
    if (bind(second, (void *)&addr, sizeof addr) == 0) wrong("the second bind succeeded");
    if (errno != EADDRINUSE) wrong("the second bind failed with %s", strerrorname_np(errno));
    return ok("EADDRINUSE");
}

static int rebind0(char **argv) {
    (void)argv;
    int first = ntohs(name_of(bound(0, 0), getsockname).sin_port);
    int second = ntohs(name_of(bound(0, 0), getsockname).sin_port);
    if (!first || !second || first == second) wrong("ports %d and %d", first, second);
    return ok("%d %d", first, second);
}

static int self_connect(char **argv) {
    int port = atoi(argv[0]), fd = listening(port);
    struct sockaddr_in to[] = {any(port), name_of(fd, getsockname)};
    to[0].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 2; i++) {
        char reply[5] = "";
        int client = check(socket(AF_INET, SOCK_STREAM, 0));
        check(connect(client, (void *)&to[i], sizeof to[i]));
        check(write(client, "ping\n", 5));
        struct text from = show(accept_one(fd)), mine = show(name_of(client, getsockname));
        if (strcmp(from.s, mine.s)) wrong("accepted %s from the socket %s", from.s, mine.s);
        if (check(recv(client, reply, 5, MSG_WAITALL)) != 5 || memcmp(reply, "ping\n", 5)) wrong("no answer");
        check(close(client));
    }
    return ok("%s %s", "127.0.0.1", inet_ntoa(to[1].sin_addr));
}

static int fork_accept(char **argv) {
    int status, fd = listening(atoi(argv[0]));
    say_listening(atoi(argv[0]));
    pid_t child = check(fork());
    if (child == 0) return accept_and_say(fd);
    check(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int exec_accept(char **argv) {
    char number[12];
    snprintf(number, sizeof number, "%d", listening(atoi(argv[0]))); // without SOCK_CLOEXEC
    return check(execl("/proc/self/exe", "behaviour", "exec-accept-child", number, (char *)NULL));
}

static int exec_accept_child(char **argv) {
    int fd = atoi(argv[0]);
    say_listening(ntohs(name_of(fd, getsockname).sin_port));
    return accept_and_say(fd);
}

// ---- reuseport

static volatile sig_atomic_t stop;
static void on_term(int signal) { (void)signal, stop = 1; }

static void reuseport_worker(int fd, int ready, volatile int *count) {
    check(listen(fd, 128));
    check(write(ready, "x", 1));
    for (;;) {
        accept_one(fd);
        __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    }
}

// N processes, each with its own listening socket. Ends on SIGTERM or after K connections.
static int reuseport(char **argv) {
    int port = atoi(argv[0]), workers = atoi(argv[1]), limit = argv[2] ? atoi(argv[2]) : -1, total = 0, ready[2];
    volatile int *counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[64];
    char buf[64];
    if (workers < 1 || workers > 64) wrong("1 to 64 workers");
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_term}, NULL);
    check(pipe(ready));
    for (int i = 0; i < workers; i++) {
        pids[i] = check(fork());
        if (pids[i]) continue;
        signal(SIGTERM, SIG_DFL);
        reuseport_worker(bound(port, SO_REUSEPORT), ready[1], &counts[i]);
    }
    for (int i = 0; i < workers; i++) check(read(ready[0], buf, 1));
    say_listening(port);
    while (!stop && total != limit) {
        usleep(10000);
        total = 0;
        for (int i = 0; i < workers; i++) total += counts[i];
    }
    printf("ok");
    for (int i = 0; i < workers; i++) {
        kill(pids[i], SIGTERM);
        waitpid(pids[i], NULL, 0);
        printf(" %d", counts[i]);
    }
    printf("\n");
    return 0;
}

static int getsockname_after_accept(char **argv) {
    int port = atoi(argv[0]), fd = listening(port);
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    say_listening(port);
    int client = check(accept4(fd, (void *)&from, &len, SOCK_CLOEXEC));
    struct sockaddr_in local = name_of(client, getsockname);
    if (ntohs(local.sin_port) != port || local.sin_addr.s_addr == 0) wrong("accepted on %s", show(local).s);
    serve(client, from);
    return ok("%s %s", show(local).s, show(from).s);
}

static int privileged_bind(char **argv) {
    (void)argv;
    listening(80);
    listening(443);
    return ok("80 443");
}

// ---- eintr-accept

static volatile sig_atomic_t ticks;
static char announcement[32];

// The third alarm inside accept() announces the port: the client comes when accept() has surely been interrupted.
static void on_tick(int signal) {
    (void)signal;
    if (++ticks == 3 && write(1, announcement, strlen(announcement)) < 0) _exit(1);
}

static int eintr_accept(char **argv) {
    int fd = listening(atoi(argv[0]));
    struct itimerval every = {{0, 20000}, {0, 20000}};
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_tick}, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    if (accept(fd, NULL, NULL) >= 0) wrong("a client before the port was announced");
    if (errno != EINTR) wrong("without SA_RESTART accept failed with %s", strerrorname_np(errno));
    snprintf(announcement, sizeof announcement, "listening %d\n", atoi(argv[0]));
    ticks = 0;
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_tick, .sa_flags = SA_RESTART}, NULL);
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    int client = check(accept(fd, (void *)&from, &len));
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    if (ticks < 3) wrong("a client after %d alarms", (int)ticks);
    serve(client, from);
    return ok("%s %d", show(from).s, (int)ticks);
}

// The counterpart of the clients in net.c: echoes TCP and UDP on one port until SIGTERM.
__attribute__((noreturn)) static int echo_server(char **argv) {
    int port = atoi(argv[0]), tcp = listening(port), udp = check(socket(AF_INET, SOCK_DGRAM, 0));
    int poller = check(epoll_create1(0));
    struct sockaddr_in addr = any(port);
    check(bind(udp, (void *)&addr, sizeof addr));
    check(epoll_ctl(poller, EPOLL_CTL_ADD, tcp, &(struct epoll_event){EPOLLIN, {.fd = tcp}}));
    check(epoll_ctl(poller, EPOLL_CTL_ADD, udp, &(struct epoll_event){EPOLLIN, {.fd = udp}}));
    signal(SIGPIPE, SIG_IGN);
    say_listening(port);
    for (;;) {
        char buf[65536];
        struct epoll_event event;
        struct sockaddr_in from;
        socklen_t len = sizeof from;
        if (epoll_wait(poller, &event, 1, -1) < 1) continue;
        int fd = event.data.fd;
        if (fd == tcp) {
            int client = check(accept(tcp, NULL, NULL));
            check(epoll_ctl(poller, EPOLL_CTL_ADD, client, &(struct epoll_event){EPOLLIN, {.fd = client}}));
        } else if (fd == udp) {
            ssize_t n = recvfrom(udp, buf, sizeof buf, 0, (void *)&from, &len);
            if (n >= 0) sendto(udp, buf, n, 0, (void *)&from, len);
        } else {
            ssize_t n = read(fd, buf, sizeof buf);
            if (n <= 0 || write(fd, buf, n) != n) close(fd);
        }
    }
}

const struct command accept_commands[] = {
    {"dup-listener", "PORT", dup_listener, 1},
    {"double-listen", "PORT", double_listen, 1},
    {"double-bind", "PORT", double_bind, 1},
    {"rebind0", "", rebind0, 0},
    {"self-connect", "PORT", self_connect, 1},
    {"fork-accept", "PORT", fork_accept, 1},
    {"exec-accept", "PORT", exec_accept, 1},
    {"exec-accept-child", "FD", exec_accept_child, 1},
    {"reuseport", "PORT N [K]", reuseport, 2},
    {"getsockname-after-accept", "PORT", getsockname_after_accept, 1},
    {"privileged-bind", "", privileged_bind, 0},
    {"eintr-accept", "PORT", eintr_accept, 1},
    {"echo-server", "PORT", echo_server, 1},
    {0},
};
