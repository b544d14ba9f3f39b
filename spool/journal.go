package spool

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// Salvage writes to the journal what became of recipients when the index cannot be told any more. Compare believes it: so
// an error of ours does not send again what servers have taken.
func (s *Spool) Salvage(st Settlement) error {
	var final []Disposition
	for _, d := range st.Dispositions {
		if d.Result.Action.Final() {
			final = append(final, d)
		}
	}
	if len(final) == 0 {
		return nil
	}
	return s.appendJournal(st.ID, final)
}

// journalSuffix is what the name of a journal has after the queue ID.
const journalSuffix = ".journal"

// appendJournal writes to the journal of a message that these recipients are final, and syncs it.
//
// A line is "position action reply", then a CRC of what stands before it: a line that a crash cut off, or tore, does
// not count.
func (s *Spool) appendJournal(id mail.ID, final []Disposition) error {
	var b []byte
	for _, d := range final {
		line := fmt.Sprintf("%d %s %s", d.Recipient, d.Result.Action, oneLine(d.Result.Reply.String()))
		b = fmt.Appendf(b, "%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli))
	}
	path := s.path("queue/" + string(id) + journalSuffix)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > 0 {
		// What a crash left unfinished must not swallow the first new line.
		b = append([]byte{'\n'}, b...)
	}
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil && st.Size() == 0 {
		err = s.queue.Sync()
	}
	return errors.Join(err, f.Close())
}

// readJournal returns the positions of the recipients that the journal of a message says are final.
func (s *Spool) readJournal(id mail.ID) (map[int]bool, error) {
	f, err := os.Open(s.path("queue/" + string(id) + journalSuffix))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	final := map[int]bool{}
	for r := bufio.NewReaderSize(f, 2*maxText+100); ; {
		line, partial, err := r.ReadLine()
		if err == io.EOF {
			return final, nil
		}
		if err != nil {
			return nil, err
		}
		// A line that is too long was never written by us: zeros, perhaps, after a power failure.
		if n, ok := parseJournalLine(string(line)); ok && !partial {
			final[n] = true
		}
	}
}

func parseJournalLine(line string) (n int, ok bool) {
	cut := strings.LastIndexByte(line, ' ')
	if cut < 0 {
		return 0, false
	}
	sum, err := strconv.ParseUint(line[cut+1:], 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum([]byte(line[:cut]), castagnoli) {
		return 0, false
	}
	position, _, _ := strings.Cut(line, " ")
	v, err := strconv.ParseUint(position, 10, 31)
	return int(v), err == nil
}

// oneLine keeps a reply on the line it is written to, and within bounds.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), maxText)]
}
