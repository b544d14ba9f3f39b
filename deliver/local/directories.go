package local

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// directories are the three of a Maildir, open, so that nobody can exchange one for a symbolic link meanwhile.
type directories struct {
	path          string
	tmp, new, cur *os.File
	found         map[uint64]bool // the files of ours in new/ and cur/, by the hash in their names
	moved         bool            // cur/ has to be synced, too
}

const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openDirectories makes what is missing of the Maildir and opens it.
func openDirectories(path string) (*directories, error) {
	err := unix.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, pathError("create", path, err)
	}
	if err := syncParent(path, err == nil); err != nil {
		return nil, err
	}
	top, err := openDir(unix.AT_FDCWD, path, path)
	if err != nil {
		return nil, err
	}
	d := &directories{path: path}
	err = d.openAll(top)
	if err = errors.Join(err, top.Close()); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *directories) openAll(top *os.File) (err error) {
	for _, sub := range []struct {
		name string
		f    **os.File
	}{{"tmp", &d.tmp}, {"new", &d.new}, {"cur", &d.cur}} {
		path := filepath.Join(d.path, sub.name)
		if err := unix.Mkdirat(int(top.Fd()), sub.name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return pathError("create", path, err)
		}
		if *sub.f, err = openDir(int(top.Fd()), sub.name, path); err != nil {
			return err
		}
	}
	// Also if all were there: who made them may have been killed before he could sync them.
	if err := top.Sync(); err != nil {
		return err
	}
	if err := d.removeOld(); err != nil {
		return err
	}
	return d.find()
}

// syncParent makes the name of the Maildir itself durable. A parent that may not be read cannot be synced; that matters
// only if the Maildir is our work.
func syncParent(path string, ours bool) error {
	parent, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrPermission) && !ours {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

func openDir(at int, name, path string) (*os.File, error) {
	fd, err := unix.Openat(at, name, openDirectory, 0)
	var st unix.Stat_t
	if err == unix.ENOTDIR && unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil, pathError("open", path, errors.New("is a symbolic link, which is not followed"))
	}
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// close closes what is open. Directories have nothing to lose by it.
func (d *directories) close() {
	for _, f := range []*os.File{d.tmp, d.new, d.cur} {
		if f != nil {
			f.Close()
		}
	}
}

// sync makes the names in new/ durable, and those in cur/ if we rely on one that the mail reader has moved there.
func (d *directories) sync() error {
	if err := d.new.Sync(); err != nil {
		return wrap(err)
	}
	if !d.moved {
		return nil
	}
	return wrap(d.cur.Sync())
}

// find learns which files of ours the Maildir holds: one that an earlier pass linked before it was killed may have been
// moved to cur/ since, where linking to new/ would not meet it. New/ is read first, since files move from there to cur/.
func (d *directories) find() error {
	d.found = map[uint64]bool{}
	for _, dir := range []*os.File{d.new, d.cur} {
		err := eachName(dir, func(name string) {
			if hash, ok := parseName(name); ok {
				d.found[hash] = true
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// oldAge is how old a file in tmp/ has to be that anybody may remove it.
const oldAge = 36 * time.Hour

// removeOld removes what deliveries that were killed, ours or others', have left in tmp/.
func (d *directories) removeOld() error {
	limit := time.Now().Add(-oldAge).Unix()
	return eachName(d.tmp, func(name string) {
		var st unix.Stat_t
		if err := unix.Fstatat(int(d.tmp.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		if st.Mtim.Sec < limit {
			// Litter that cannot be removed harms nobody.
			_ = unix.Unlinkat(int(d.tmp.Fd()), name, 0)
		}
	})
}

// eachName calls f with each name in the directory, from where it was last read to its end.
func eachName(dir *os.File, f func(name string)) error {
	for {
		names, err := dir.Readdirnames(1000)
		for _, name := range names {
			f(name)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// suffix stands where other programs put a host name. Ours need none: the hash tells the messages of two hosts apart.
const suffix = ".postrider"

// parseName returns the hash in a file name of ours. What a mail reader has appended after a colon does not count.
func parseName(name string) (hash uint64, ok bool) {
	base, _, _ := strings.Cut(name, ":")
	base, ok = strings.CutSuffix(base, suffix)
	if !ok || len(base) < hashDigits {
		return 0, false
	}
	hash, err := strconv.ParseUint(base[len(base)-hashDigits:], 16, 64)
	return hash, err == nil
}
