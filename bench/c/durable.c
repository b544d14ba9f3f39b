/*
 * durable FILE: standard input becomes FILE, and is there after a power failure. The least that a program must do to
 * accept a message: write, fsync, rename, fsync of the directory.
 */
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	static char buf[65536];
	char tmp[4096], dir[4096];
	ssize_t n;
	int fd, dfd;

	if (argc != 2 || strlen(argv[1]) > sizeof dir - 5)
		return 64;
	snprintf(tmp, sizeof tmp, "%s.tmp", argv[1]);
	strcpy(dir, argv[1]);
	if ((fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640)) < 0)
		return 75;
	while ((n = read(0, buf, sizeof buf)) > 0)
		if (write(fd, buf, n) != n)
			return 75;
	if (n < 0 || fsync(fd) < 0 || close(fd) < 0)
		return 75;
	if (rename(tmp, argv[1]) < 0)
		return 75;
	if ((dfd = open(dirname(dir), O_RDONLY | O_DIRECTORY)) < 0 || fsync(dfd) < 0)
		return 75;
	return 0;
}
