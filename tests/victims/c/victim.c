// The victim in C: plain blocking sockets, one thread per connection. Built against glibc (static and dynamic) and musl.
// The contract is in ../README.md; -DNAME="..." tells the variants apart.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef NAME
#define NAME "c"
#endif

// strerrorname_np() is glibc only, hence this table; negative numbers are getaddrinfo()'s.
static const char *errname(int err) {
    static char other[16];
    switch (err) {
    case EACCES: return "EACCES";
    case ECONNREFUSED: return "ECONNREFUSED";
    case ECONNRESET: return "ECONNRESET";
    case EHOSTUNREACH: return "EHOSTUNREACH";
    case EISDIR: return "EISDIR";
    case ELOOP: return "ELOOP";
    case ENETUNREACH: return "ENETUNREACH";
    case ENOENT: return "ENOENT";
    case ENOTDIR: return "ENOTDIR";
    case EPERM: return "EPERM";
    case EROFS: return "EROFS";
    case ETIMEDOUT: return "ETIMEDOUT";
    case EAI_NONAME: return "NXDOMAIN";
#ifdef EAI_NODATA
    case EAI_NODATA: return "NXDOMAIN"; // the name exists but has no address
#endif
    case EAI_AGAIN: return "EAI_AGAIN";
    }
    snprintf(other, sizeof other, "E%d", err);
    return other;
}

static int fail(int err) {
    printf("error %s\n", errname(err));
    return 1;
}

static int write_all(int fd, const char *buf, size_t len) {
    while (len > 0) {
        ssize_t n = write(fd, buf, len);
        if (n < 0) return -1;
        buf += n, len -= n;
    }
    return 0;
}

struct text { char s[80]; };

static struct text show(const struct sockaddr_storage *addr) {
    struct text t;
    char host[INET6_ADDRSTRLEN];
    if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)addr;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(t.s, sizeof t.s, "[%s]:%d", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const void *)addr;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(t.s, sizeof t.s, "%s:%d", host, ntohs(v4->sin_port));
    }
    return t;
}

// ---- serve

struct client { int fd; struct sockaddr_storage peer; };

// Answers the requests of one connection until either side closes it. A body is read (Content-Length only) and dropped.
static void *talk(void *arg) {
    struct client client = *(struct client *)arg;
    char buf[16384], method[16], path[2048], body[4096], reply[8192];
    size_t have = 0;
    free(arg);
    for (int open = 1; open;) {
        char *end;
        buf[have] = 0;
        while (!(end = strstr(buf, "\r\n\r\n"))) {
            ssize_t n = have < sizeof buf - 1 ? read(client.fd, buf + have, sizeof buf - 1 - have) : 0;
            if (n <= 0) goto out;
            buf[have += n] = 0;
        }
        *end = 0;
        if (sscanf(buf, "%15s %2047s", method, path) != 2) goto out;
        char *length = strcasestr(buf, "\r\ncontent-length:");
        size_t todo = length ? strtoul(length + 17, NULL, 10) : 0;
        open = !strcasestr(buf, "\r\nconnection: close") && !strstr(buf, " HTTP/1.0");

        size_t used = end + 4 - buf;
        while (have - used < todo) { // the rest of the body
            todo -= have - used, used = have = 0;
            ssize_t n = read(client.fd, buf, sizeof buf - 1);
            if (n <= 0) goto out;
            have = n;
        }
        used += todo;
        memmove(buf, buf + used, have -= used);

        int len = snprintf(body, sizeof body, "{\"lang\":\"%s\",\"peer\":\"%s\",\"method\":\"%s\",\"path\":\"%s\"}",
                           NAME, show(&client.peer).s, method, path);
        len = snprintf(reply, sizeof reply,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: %s\r\n"
                       "Content-Length: %d\r\nConnection: %s\r\n\r\n%s",
                       NAME, len, open ? "keep-alive" : "close", body);
        if (write_all(client.fd, reply, len) < 0) break;
    }
out:
    close(client.fd);
    return NULL;
}

static int serve(const char *port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (fd < 0) return fail(errno);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&addr, sizeof addr) < 0 || listen(fd, 128) < 0) return fail(errno);
    signal(SIGPIPE, SIG_IGN);
    printf("listening %s\n", port);
    fflush(stdout);
    for (;;) {
        struct client *client = malloc(sizeof *client);
        socklen_t len = sizeof client->peer;
        pthread_t thread;
        client->fd = accept4(fd, (void *)&client->peer, &len, SOCK_CLOEXEC);
        if (client->fd < 0 || pthread_create(&thread, NULL, talk, client) != 0) {
            free(client);
            continue;
        }
        pthread_detach(thread);
    }
}

// ---- clients

static int lookup(const char *host, const char *port, struct addrinfo **list) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int err = getaddrinfo(host, port, &hints, list);
    return err == EAI_SYSTEM ? errno : err;
}

// Returns a connected descriptor, or -1 with *err set to the last address's error.
static int dial(const char *host, const char *port, int *err) {
    struct addrinfo *list;
    if ((*err = lookup(host, port, &list)) != 0) return -1;
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) return fd;
        *err = errno;
        if (fd >= 0) close(fd);
    }
    return -1;
}

static int get(const char *url) {
    char host[256] = "", port[8] = "80", request[4096], reply[65536];
    const char *path = "/";
    size_t have = 0;
    ssize_t n;
    int err, status;
    if (sscanf(url, "http://[%255[^]]]:%7[0-9]", host, port) < 1) sscanf(url, "http://%255[^:/]:%7[0-9]", host, port);
    if (strlen(url) > 7 && strchr(url + 7, '/')) path = strchr(url + 7, '/');
    int fd = dial(host, port, &err);
    if (fd < 0) return fail(err);
    // 1.0, so that the answer ends with the connection and is never chunked
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: %s:%s\r\n\r\n", path, host, port);
    if (write_all(fd, request, len) < 0) return fail(errno);
    while ((n = read(fd, reply + have, sizeof reply - 1 - have)) > 0) have += n;
    if (n < 0) return fail(errno);
    reply[have] = 0;
    char *body = strstr(reply, "\r\n\r\n");
    if (sscanf(reply, "HTTP/%*s %d", &status) != 1 || !body) return printf("error EBADMSG\n"), 1;
    printf("%d\n", status);
    fwrite(body + 4, 1, reply + have - body - 4, stdout);
    return 0;
}

static int resolve(const char *name) {
    struct addrinfo *list;
    char host[INET6_ADDRSTRLEN];
    int err = lookup(name, NULL, &list);
    if (err) return fail(err);
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST);
        puts(host);
    }
    return 0;
}

static int connect_to(const char *host, const char *port) {
    struct sockaddr_storage local, peer;
    socklen_t len = sizeof local;
    int err, fd = dial(host, port, &err);
    if (fd < 0) return fail(err);
    getsockname(fd, (void *)&local, &len);
    len = sizeof peer;
    if (getpeername(fd, (void *)&peer, &len) < 0) return fail(errno);
    printf("ok %s -> ", show(&local).s);
    printf("%s\n", show(&peer).s);
    return 0;
}

// ---- files

static int file(const char *path) {
    char buf[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(errno);
    while ((n = read(fd, buf, sizeof buf)) > 0) write_all(1, buf, n);
    return n < 0 ? fail(errno) : 0;
}

static int not_dots(const struct dirent *e) { return strcmp(e->d_name, ".") && strcmp(e->d_name, ".."); }

static int ls(const char *path) {
    struct dirent **list;
    int n = scandir(path, &list, not_dots, alphasort);
    if (n < 0) return fail(errno);
    for (int i = 0; i < n; i++) puts(list[i]->d_name);
    return 0;
}

static int stat_of(const char *path) {
    struct stat st;
    if (stat(path, &st) < 0) return fail(errno);
    const char *type = S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "dir" : S_ISLNK(st.st_mode) ? "link" : "other";
    printf("%lld %04o %s\n", (long long)st.st_size, st.st_mode & 07777, type);
    return 0;
}

int main(int argc, char **argv) {
    const char *cmd = argc > 2 ? argv[1] : "";
    if (!strcmp(cmd, "serve")) return serve(argv[2]);
    if (!strcmp(cmd, "get")) return get(argv[2]);
    if (!strcmp(cmd, "resolve")) return resolve(argv[2]);
    if (!strcmp(cmd, "connect") && argc > 3) return connect_to(argv[2], argv[3]);
    if (!strcmp(cmd, "file")) return file(argv[2]);
    if (!strcmp(cmd, "ls")) return ls(argv[2]);
    if (!strcmp(cmd, "stat")) return stat_of(argv[2]);
    fprintf(stderr, "usage: victim serve PORT | get URL | resolve NAME | connect HOST PORT | file PATH | ls DIR | stat PATH\n");
    return 2;
}
