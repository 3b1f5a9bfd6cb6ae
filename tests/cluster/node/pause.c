/* PID 1 of every pod sandbox, and of the node's own PID namespace: waits, and reaps what is orphaned to it. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) ; }

int main(void) {
  sigaction(SIGINT, &(struct sigaction){.sa_handler = leave}, NULL);
  sigaction(SIGTERM, &(struct sigaction){.sa_handler = leave}, NULL);
  sigaction(SIGCHLD, &(struct sigaction){.sa_handler = reap, .sa_flags = SA_NOCLDSTOP}, NULL);
  for (;;) pause();
}
