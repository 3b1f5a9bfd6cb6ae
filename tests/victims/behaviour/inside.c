// Functions that open files and sockets inside of libc, where exported names do not reach.
#include "behaviour.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <ftw.h>
#include <glob.h>
#include <netdb.h>
#include <sys/stat.h>

static int glob_for(char **argv) {
    glob_t found;
    int result = glob(argv[0], GLOB_MARK, NULL, &found);
    if (result == GLOB_NOMATCH) return ok("0");
    if (result) wrong("glob() returned %d", result);
    char line[4096] = "";
    for (size_t i = 0; i < found.gl_pathc; i++) {
        strncat(line, " ", sizeof line - strlen(line) - 1);
        strncat(line, found.gl_pathv[i], sizeof line - strlen(line) - 1);
    }
    ok("%zu%s", found.gl_pathc, line);
    globfree(&found);
    return 0;
}

static struct walked {
    int files, directories, links, others;
    long long bytes;
} walked;

static int visit(const char *path, const struct stat *st, int what, struct FTW *place) {
    if (strchr(path + place->base, '/') && place->level) wrong("the name in %s is not at %d", path, place->base);
    if (what == FTW_F) walked.files++, walked.bytes += st->st_size;
    else if (what == FTW_D || what == FTW_DP) walked.directories++;
    else if (what == FTW_SL) walked.links++;
    else walked.others++;
    return 0;
}

static int visit_old(const char *path, const struct stat *st, int what) {
    return visit(path, st, what, &(struct FTW){strlen(path), 0});
}

// Without links followed, depth first, and as ftw() does it: files, directories, links, others, bytes of each walk.
static int walk_tree(char **argv) {
    struct walked results[3];
    for (int i = 0; i < 3; i++) {
        walked = (struct walked){0};
        check(i == 2 ? ftw(argv[0], visit_old, 8) : nftw(argv[0], visit, 8, FTW_PHYS | (i ? FTW_DEPTH : 0)));
        results[i] = walked;
    }
    if (memcmp(results, results + 1, sizeof *results)) wrong("depth first there is something else");
    return ok("%d %d %d %d %lld, followed: %d %d %d", results[0].files, results[0].directories, results[0].links, results[0].others,
              results[0].bytes, results[2].files, results[2].directories, results[2].links);
}

static int list(char **argv) {
    struct dirent **names;
    int count = check(scandir(argv[0], &names, NULL, alphasort));
    char line[4096] = "";
    for (int i = 0; i < count; i++) {
        strncat(line, " ", sizeof line - strlen(line) - 1);
        strncat(line, names[i]->d_name, sizeof line - strlen(line) - 1);
    }
    return ok("%d%s", count, line);
}

// The name of an IPv4 address, asked for in both ways; `NONE` when it has none.
static int name_of_address(char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
    char host[1025], number[1025], service[32];
    if (inet_pton(AF_INET, argv[0], &address.sin_addr) != 1) wrong("no address: %s", argv[0]);
    int named = getnameinfo((void *)&address, sizeof address, host, sizeof host, service, sizeof service, NI_NAMEREQD | NI_NUMERICSERV);
    int any = getnameinfo((void *)&address, sizeof address, number, sizeof number, NULL, 0, 0);
    struct hostent *entry = gethostbyaddr(&address.sin_addr, sizeof address.sin_addr, AF_INET);
    if (any) wrong("without NI_NAMEREQD: %s", gai_strerror(any));
    if (named == EAI_NONAME) {
        if (entry || strcmp(number, argv[0])) wrong("no name, but %s and %s", entry ? entry->h_name : "nothing", number);
        return ok("NONE");
    }
    if (named) return ok("%s", gai_strerror(named));
    if (strcmp(service, "80") || strcmp(host, number)) wrong("%s %s %s", host, number, service);
    if (!entry || strcmp(entry->h_name, host)) wrong("gethostbyaddr() says %s, getnameinfo() %s", entry ? entry->h_name : "nothing", host);
    if (getnameinfo((void *)&address, sizeof address, number, 2, NULL, 0, 0) != EAI_OVERFLOW) wrong("no room, but no error");
    return ok("%s", host);
}

const struct command inside_commands[] = {
    {"glob", "PATTERN", glob_for, 1},
    {"nftw", "DIR", walk_tree, 1},
    {"scandir", "DIR", list, 1},
    {"name-of", "ADDRESS", name_of_address, 1},
    {0},
};
