package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// What is said over the connection between a pass and an agent. The pass begins with a letter. The agent asks for pieces of
// the message, by offset and length, and gets each with its length before it; it ends with the result. Lengths are 32 bits
// and offsets 64, most significant octet first.
const (
	wantPiece  = 'p'
	haveResult = 'r'
	maxFrame   = 64 << 10
)

// A letter is what an agent has to know of a message besides its content: what concerns its own recipient.
type letter struct {
	QueueID             mail.ID
	Arrival             time.Time
	Sender              string
	Recipient, Original string
	ENVID               string
	Size                int64
}

func (l letter) message(content io.ReaderAt) (*mail.Message, error) {
	sender, err := mail.ParsePath(l.Sender)
	if err != nil {
		return nil, err
	}
	rcpt, err := mail.ParsePath(l.Recipient)
	if err != nil {
		return nil, err
	}
	m := &mail.Message{QueueID: l.QueueID, Content: content, Size: l.Size}
	m.Arrival, m.Sender, m.Envelope.ID = l.Arrival, sender, l.ENVID
	m.Recipients = []mail.Recipient{{Path: rcpt, Original: l.Original}}
	return m, nil
}

func writeFrame(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

func readFrame(r io.Reader, v any) error {
	text, err := readPiece(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func readPiece(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("%d octets at once", n)
	}
	piece := make([]byte, n)
	_, err := io.ReadFull(r, piece)
	return piece, err
}

// answer ends what an agent says.
func answer(w io.Writer, r mail.Result) error {
	if _, err := w.Write([]byte{haveResult}); err != nil {
		return err
	}
	return writeFrame(w, r)
}

// serveAgent is the part of the pass: it hands an agent the message for recipient n, and returns the result.
func serveAgent(conn io.ReadWriter, m *mail.Message, n int) (mail.Result, error) {
	to := m.Recipients[n]
	l := letter{m.QueueID, m.Arrival, m.Sender.Address(), to.Path.Address(), to.Original, m.Envelope.ID, m.Size}
	if err := writeFrame(conn, l); err != nil {
		return mail.Result{}, err
	}
	for {
		var verb [1]byte
		if _, err := io.ReadFull(conn, verb[:]); err != nil {
			return mail.Result{}, err
		}
		switch verb[0] {
		case haveResult:
			var r mail.Result
			err := readFrame(conn, &r)
			return plain(r), err
		case wantPiece:
			if err := servePiece(conn, m); err != nil {
				return mail.Result{}, err
			}
		default:
			return mail.Result{}, fmt.Errorf("the agent says %q", verb)
		}
	}
}

func servePiece(conn io.ReadWriter, m *mail.Message) error {
	var want [12]byte
	if _, err := io.ReadFull(conn, want[:]); err != nil {
		return err
	}
	at, size := int64(binary.BigEndian.Uint64(want[:])), int64(binary.BigEndian.Uint32(want[8:]))
	if at < 0 || at > m.Size || size > maxFrame {
		return fmt.Errorf("the agent wants %d octets at %d", size, at)
	}
	piece := make([]byte, 4+min(size, m.Size-at))
	binary.BigEndian.PutUint32(piece, uint32(len(piece)-4))
	if _, err := m.Content.ReadAt(piece[4:], at); err != nil && err != io.EOF {
		return fmt.Errorf("read the message: %w", err)
	}
	_, err := conn.Write(piece)
	return err
}

// An identity is whom an agent is to become.
type identity struct {
	uid, gid int
	groups   []int
}

// words are the arguments of an agent: user ID, group ID, and the IDs of all groups.
func (i identity) words() []string {
	words := []string{strconv.Itoa(i.uid), strconv.Itoa(i.gid)}
	for _, g := range i.groups {
		words = append(words, strconv.Itoa(g))
	}
	return words
}

func parseIdentity(words []string) (i identity, err error) {
	ids := make([]int, 0, len(words))
	for _, word := range words {
		id, err := strconv.ParseUint(word, 10, 32)
		if err != nil || id == 1<<32-1 { // which means "as it is" to setresuid(2)
			return i, fmt.Errorf("%q is not an ID", word)
		}
		ids = append(ids, int(id))
	}
	if len(ids) < 2 || ids[0] == 0 {
		return i, errors.New("it is somebody else's, never root's")
	}
	return identity{ids[0], ids[1], ids[2:]}, nil
}

// become makes this process, which is root's, that of somebody else, whom it does not open its memory to: as when a
// program is started that has the set-user-ID bit.
func (i identity) become() error {
	if err := syscall.Setgroups(i.groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(i.gid, i.gid, i.gid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(i.uid, i.uid, i.uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	// The kernel has seen to that, unless it was told otherwise by fs.suid_dumpable.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close our memory: %w", err)
	}
	return nil
}

// beAgent delivers one message as the user whom words say: the job is at descriptor 3, the pass at standard input.
func beAgent(words []string) error {
	i, err := parseIdentity(words)
	if err != nil || os.Geteuid() != 0 {
		return usageError{errors.New("agent: only queue-runner starts this")}
	}
	if err := i.become(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	unix.Umask(0o077)
	unhurried()
	var j job
	if err := json.NewDecoder(os.NewFile(3, "job")).Decode(&j); err != nil {
		return usageError{errors.New("agent: only queue-runner starts this")}
	}
	if uid := os.Geteuid(); uid == 0 || uid != j.User.UID || os.Getuid() != uid {
		return fmt.Errorf("agent: runs as user %d, and the job is for %d", uid, j.User.UID)
	}
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return err
	}
	var l letter
	if err := readFrame(conn, &l); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	content := &distant{conn: conn, pieces: make(chan []byte)}
	go content.receive(cancel)
	m, err := l.message(content)
	if err != nil {
		return err
	}
	return answer(conn, j.deliver(ctx, m, 0))
}

// distant is a content that the pass has.
type distant struct {
	conn   net.Conn
	pieces chan []byte
}

var errPassEnded = errors.New("the pass has ended")

// receive takes the pieces in. Their end is the end of the pass: then there is nobody any more to tell of a success.
func (d *distant) receive(cancel context.CancelCauseFunc) {
	defer close(d.pieces)
	for {
		piece, err := readPiece(d.conn)
		if err != nil {
			cancel(errPassEnded)
			return
		}
		d.pieces <- piece
	}
}

// ReadAt is for one goroutine.
func (d *distant) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) {
		want := []byte{wantPiece}
		want = binary.BigEndian.AppendUint64(want, uint64(at+int64(n)))
		want = binary.BigEndian.AppendUint32(want, uint32(min(len(p)-n, maxFrame)))
		if _, err := d.conn.Write(want); err != nil {
			return n, err
		}
		piece, ok := <-d.pieces
		if !ok {
			return n, errPassEnded
		}
		if len(piece) == 0 {
			return n, io.EOF
		}
		n += copy(p[n:], piece)
	}
	return n, nil
}
