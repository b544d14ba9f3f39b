// Package spool remembers: it keeps accepted messages, the journal of what became of their recipients, and an index of
// who is due when. It is the only package that knows bbolt.
//
// # Files
//
//	drop/ID          a submission; complete, synced and unlocked when its submitter was told that it is accepted
//	queue/ID         an accepted message; its content never changes
//	queue/ID.journal recipients of that message that are final, while others are not
//	index.db         bbolt: who is due when, attempts, last results. Disposable: it is rebuilt from the files
//	state.db         bbolt: what no file can rebuild, such as how much of a rate was used. Made when it is needed
//	mta-sts.NAME     what domains want of TLS: see deliver/sts
//	bad/             what could not be read, set aside and logged
//	lock             held (flock) by the running pass
//	gate             held (flock) for a turn at the index: milliseconds, never across the network
//	running          there while a pass runs: left behind, it tells the next one that the last one did not end well
//	wake             left by whoever wants a pass while another one runs
//	submit.sock      a socket for those who may not write into drop/: see internal/submitd
//	submit.sock.lock locked by the daemon that serves that
//
// # States of a message
//
// "+" present, "-" absent; "record" is its entry in the index, "tombstone" the mark that all its recipients are final.
//
//	     drop/ID queue/ID record tombstone
//	S1      +       -       -        -     accepted. TakeIn renames it. A file whose writer died is incomplete and not
//	                                       locked: set aside
//	S2      -       +       -        -     taken in, or just made of another message. A crash here leaves it to Compare,
//	                                       which makes the record
//	S3      -       +       +        -     queued. Claim records an attempt before any connection; Settle records its
//	                                       result. A crash between them is an attempt without a result: the recipient
//	                                       is due again at the time that the claim set
//	S4      -       +       -        +     all recipients final. Settle removes the file, syncs, and drops the tombstone
//	                                       with its next turn. A crash here leaves both to Compare, which does that
//	S5      -       -       -        +     removed. Compare, or the next turn, drops the tombstone
//
// A recipient that becomes final while its message stays in S3 is written to the journal, and synced, before the index
// is told; Compare believes the journal. A message that we make of another one, a report to its sender or its copy for
// the addresses behind an alias, is durable, in S2, before the recipients it settles are final in the index; Compare
// believes it. So no crash, and no loss of the index, sends a message again to
// a recipient who has it or reports him twice; what remains is the time between the last reply of a server and the
// journal or the index, where only that server knows.
//
// A failed commit means that nobody knows whether it happened: the Spool refuses all further work, the pass ends, and
// the next one reads what is there.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// ErrHeld is the error of Acquire when another pass has the spool. It has been left a wake-up.
var ErrHeld = errors.New("another pass is running")

// A Router names the next hop of a recipient for whom so many attempts have been made; expanded says that aliases have
// been looked up for him. The name has no NUL.
type Router func(sender, recipient mail.Path, attempts int, expanded bool) string

// Options are what a pass tells the spool.
type Options struct {
	// Route is asked at take-in, and again for each attempt.
	Route Router
	// ByTLS returns the next hop that mail takes instead whose sender says something of TLS; nil means that it makes no
	// difference.
	ByTLS func(hop string, wish mail.TLSWish) string
	// Routes is any string that changes when Route may answer differently. Queued recipients are then asked for again,
	// and every next hop may be tried at once.
	Routes string
	// FailOver is the least number of attempts after which Route may name another next hop; 0 if it never does. The
	// failures of a next hop that is left alone count as attempts of whoever waits for it: he takes the other way then.
	FailOver int
	// Schedule is any string that changes when Reschedule may answer differently. It is then asked when those are due who
	// have been tried before, and every next hop may be tried at once. nil leaves the times as they are.
	Schedule   string
	Reschedule func(w Waiting, now time.Time) time.Time
	// Now is the clock.
	Now func() time.Time
	// MaxWait is the longest wait that Claim or Settle is ever given. What seems due later than that from now was written
	// before the clock was set back, and is due at once. 0 means that no time is too late.
	MaxWait time.Duration
	// Logf is told, a line at a time, what an administrator should know: files set aside, an index rebuilt.
	Logf func(format string, args ...any)
	// Only limits the pass to what it picks: that is due at once, with what comes of it, and nothing else is touched.
	// A selection that picks everything makes everything due at once, and limits nothing. nil goes by the schedule.
	Only *Selection
	// Compare makes Acquire compare the index with the directory whatever the last pass left.
	Compare bool
}

// A Waiting is a recipient who waits for his next attempt.
type Waiting struct {
	Hop      string
	Begin    time.Time // when his message could be sent: its age counts from then
	Attempts int
	Last     time.Time // when the last attempt was made
	Next     time.Time // when the next one is due so far
}

// A Spool is a spool held by the one pass that may change it. Its methods may be called by one goroutine at a
// time, but for Read and CreateChild.
type Spool struct {
	dir   string
	opts  Options
	lock  *os.File
	gate  *os.File
	queue *drop.Dir
	drop  *drop.Dir
	// arrived are submissions that were seen in drop/ and not yet taken in.
	arrived []mail.ID
	// noted are files of drop/ whose trouble has been logged.
	noted map[mail.ID]bool
	// claimed are the recipients that are being tried: however long that takes, nobody else gets them.
	claimed map[claimKey]bool
	// ignored are those among them that Only does not pick.
	ignored map[mail.ID]bool
	// comparing is set while index and files may not agree, on which messages have a journal for instance.
	comparing bool
	// sunk are messages whose file is gone and whose tombstone is still there.
	sunk []mail.ID
	// pages of the index, and the free ones among them, at the last turn that wrote.
	pages, free int64
	// rates is what was spent of rates that were asked for.
	rates map[string]window
	// failed is why no more turns may be taken.
	failed error
}

// Acquire takes the spool at dir for a pass, creating what is missing of it, and brings index and files together if
// the last pass did not end well. It returns ErrHeld if another pass has it.
func Acquire(dir string, o Options) (*Spool, error) {
	if err := Create(dir); err != nil {
		return nil, err
	}
	lock, err := lockPass(dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, opts: o, lock: lock, ignored: map[mail.ID]bool{}, noted: map[mail.ID]bool{}, claimed: map[claimKey]bool{}, rates: map[string]window{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// directories are the parts of a spool and their modes.
var directories = []struct {
	name string
	mode fs.FileMode
}{
	{"", 0o755},
	{"drop", 0o770 | fs.ModeSetgid},
	{"queue", 0o700},
	{"bad", 0o700},
}

// Create makes the directories of a spool at dir, those that are missing. The parent of dir must exist.
func Create(dir string) error {
	for _, d := range directories {
		path := filepath.Join(dir, d.name)
		err := os.Mkdir(path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.Chmod(path, d.mode); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("spool %s belongs to user %d, not to %d: %w", dir, st.Uid, os.Geteuid(), fs.ErrPermission)
	}
	return nil
}

func (s *Spool) open() (err error) {
	if s.gate, err = openGate(s.dir); err != nil {
		return err
	}
	if s.queue, err = drop.Open(s.path("queue")); err != nil {
		return err
	}
	if s.drop, err = drop.Open(s.path("drop")); err != nil {
		return err
	}
	unclean, err := s.mark()
	if err != nil {
		return err
	}
	fresh, err := s.openIndex()
	if err != nil {
		return err
	}
	due, err := s.compareDue()
	if err != nil {
		return err
	}
	if unclean || fresh || due || s.opts.Compare {
		if err := s.Compare(); err != nil {
			return err
		}
	}
	if err := s.follow(); err != nil || s.opts.Only == nil {
		return err
	}
	return makeDue(s.update, s.opts.Only, s.opts.Now(), true)
}

// End gives the spool back after a pass. Whatever it returns, the spool is free for the next one.
func (s *Spool) End() error {
	err := s.failed
	if err == nil {
		err = s.dropTombstones()
	}
	if err == nil {
		s.compact()
	}
	if err == nil {
		// Only now: while the mark is there, the next pass compares.
		err = os.Remove(s.path("running"))
	}
	return errors.Join(err, s.release())
}

// Abandon gives the spool back as a crash would: the next pass compares index and files.
func (s *Spool) Abandon() error { return s.release() }

func (s *Spool) release() error {
	var errs []error
	for _, c := range []interface{ Close() error }{s.drop, s.queue} {
		if d := c.(*drop.Dir); d != nil {
			errs = append(errs, d.Close())
		}
	}
	if s.gate != nil {
		errs = append(errs, s.gate.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Woken takes a wake-up left for this pass. One that is for some of the queue only leaves it to whoever comes next.
func (s *Spool) Woken() bool { return !s.selective() && Woken(s.dir) }

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }

// Read opens a queued message.
func (s *Spool) Read(id mail.ID) (*drop.File, error) { return s.queue.ReadOwn(string(id)) }

// CreateChild starts a message in the queue that we make of another one. Once its Commit has returned, hand it to Settle
// together with the results that it is the reason for.
func (s *Spool) CreateChild(env *mail.Envelope) (*drop.Writer, error) { return s.queue.Create(env) }

// setAside moves the file name of directory from to bad/.
func (s *Spool) setAside(from, name string, why error) error {
	to := name
	for n := 1; ; n++ {
		err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(s.dir, from, name), unix.AT_FDCWD, filepath.Join(s.dir, "bad", to), unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			s.opts.Logf("%s set aside as bad/%s: %v", filepath.Join(from, printable(name)), printable(to), why)
			return nil
		case errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("set aside %s: %w", filepath.Join(from, printable(name)), err)
		}
		to = fmt.Sprintf("%.200s.%d", name, n)
	}
}

// printable quotes a file name that a stranger chose, if it needs that.
func printable(name string) string {
	if q := fmt.Sprintf("%q", name); q != `"`+name+`"` {
		return q
	}
	return name
}

// bootID tells one boot of the machine from the next; "" where the kernel does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(b)
}

// compareEvery is how often index and files are compared although nothing seems wrong.
const compareEvery = time.Hour

// Give makes a user the owner of a spool that was just created, the top directory last: from then on it is his.
func Give(dir string, uid, gid int) error {
	for _, d := range slices.Backward(directories) {
		path := filepath.Join(dir, d.name)
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
		// Changing the owner takes the set-group-ID bit away.
		if err := os.Chmod(path, d.mode); err != nil {
			return err
		}
	}
	return nil
}
