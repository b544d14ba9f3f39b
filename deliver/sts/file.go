package sts

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"
)

// maxEntries is how many domains are remembered.
const maxEntries = 4096

// maxLine is more than any entry takes.
const maxLine = 64 << 10

// The file has a line of JSON for each thing learned; of those about one domain the last one counts. So a crash costs one
// line, and what cannot be read is left out: it is fetched again.

// load reads the file.
func (c *Cache) load() {
	c.entries, c.asking = map[string]entry{}, map[string]chan struct{}{}
	if c.File == "" {
		return
	}
	f, err := os.Open(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.Logf("MTA-STS: cannot read what was learned: %v", err)
		return
	}
	defer f.Close() // only read: closing cannot lose anything
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		c.lines++
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Domain != "" && e.MaxAge <= maxAge {
			c.remember(e)
		}
	}
	if err := lines.Err(); err != nil {
		c.Logf("MTA-STS: cannot read all of what was learned: %v", err)
	}
}

// keep remembers what was learned, also for those who come after this process.
func (c *Cache) keep(e entry) {
	c.remember(e)
	if c.File == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.append(e)
	if c.lines > 2*len(c.entries)+100 {
		err = c.rewrite()
	}
	if err != nil {
		c.Logf("MTA-STS: cannot write down what was learned: %v", err)
	}
}

// remember takes an entry, and makes room for it.
func (c *Cache) remember(e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.entries[e.Domain]; !again && len(c.entries) >= maxEntries {
		c.makeRoom(c.Now())
	}
	c.entries[e.Domain] = e
}

// makeRoom drops what is over, and then an eighth if nothing was.
func (c *Cache) makeRoom(now time.Time) {
	for domain, e := range c.entries {
		if !e.holds(now) {
			delete(c.entries, domain)
		}
	}
	for domain := range c.entries {
		if len(c.entries) <= maxEntries-maxEntries/8 {
			return
		}
		delete(c.entries, domain)
	}
}

func (c *Cache) append(e entry) error {
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	line, err := json.Marshal(e)
	if err == nil {
		// The LF goes first: it ends what a crash may have left of another line.
		_, err = f.Write(append([]byte{'\n'}, append(line, '\n')...))
	}
	c.lines += 2
	return errors.Join(err, f.Close())
}

// rewrite writes a new file with what is known now.
func (c *Cache) rewrite() error {
	f, err := os.OpenFile(c.File+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	to := json.NewEncoder(w)
	for _, e := range c.entries {
		err = errors.Join(err, to.Encode(e))
	}
	if err := errors.Join(err, w.Flush(), f.Close()); err != nil {
		return err
	}
	c.lines = len(c.entries)
	return os.Rename(c.File+".new", c.File)
}
