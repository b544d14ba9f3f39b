/*
 * peak PROGRAM [ARGUMENT...]: runs the program and prints its largest resident memory in KiB. A program of its own,
 * small, since the kernel counts for a child what it shared with its parent before it became another program.
 */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	struct rusage u;
	int status;
	pid_t pid;

	if (argc < 2 || (pid = fork()) < 0)
		return 1;
	if (pid == 0) {
		execv(argv[1], argv + 1);
		_exit(127);
	}
	if (wait4(pid, &status, 0, &u) != pid || status != 0)
		return 1;
	printf("%ld\n", u.ru_maxrss);
	return 0;
}
