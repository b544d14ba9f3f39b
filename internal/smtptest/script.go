package smtptest

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// scripted returns what the script says to line, or otherwise.
func (c *session) scripted(line, otherwise string) string {
	if script := c.server.opts.Script; script != nil {
		if reply := script(c.number, line); reply != "" {
			return reply
		}
	}
	return c.server.scripted(line, otherwise)
}

// say answers line as the script says, else with usual.
func (c *session) say(line, usual string) error {
	_, err := c.answer(line, usual)
	return err
}

// answer is like say and returns the reply as well: never empty if the error is nil.
func (c *session) answer(line, usual string) (string, error) {
	reply, err := c.perform(c.scripted(line, usual))
	if reply == "" {
		reply = usual
	}
	return reply, err
}

// perform does what a line of the script says, and returns the reply if it was one.
func (c *session) perform(script string) (string, error) {
	if last := strings.LastIndex(script, "\n!"); last > 0 {
		reply, err := c.perform(script[:last])
		if err == nil {
			err = c.w.Flush()
		}
		if err != nil {
			return "", err
		}
		_, err = c.perform(script[last+1:])
		return reply, err
	}
	switch script {
	case Close:
		return "", errEnd
	case Reset:
		if tcp, ok := c.raw().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.raw().Close()
		return "", errEnd
	case Hang:
		if err := c.w.Flush(); err != nil {
			return "", err
		}
		_, err := io.Copy(io.Discard, c.conn)
		return "", errors.Join(errEnd, err)
	case Stall:
		if err := c.w.Flush(); err != nil {
			return "", err
		}
		<-c.server.done
		return "", errEnd
	}
	if text, ok := strings.CutPrefix(script, Flood); ok {
		return "", c.flood(text)
	}
	if text, ok := strings.CutPrefix(script, Drip); ok {
		return "", c.drip(text)
	}
	if raw, ok := strings.CutPrefix(script, Raw); ok {
		_, err := c.w.WriteString(raw)
		if code, convErr := strconv.Atoi(raw[:min(3, len(raw))]); convErr == nil && code > 0 {
			return raw, err
		}
		return "", err
	}
	if err := c.write(script); err != nil {
		return "", err
	}
	if strings.HasPrefix(script, "421") {
		return script, errEnd
	}
	return script, nil
}

// flood sends a text until nobody takes it any more.
func (c *session) flood(text string) error {
	for {
		if _, err := c.w.WriteString(text); err != nil {
			return err
		}
	}
}

// drip sends a text octet by octet.
func (c *session) drip(script string) error {
	wait, text, _ := strings.Cut(script, " ")
	pause, err := time.ParseDuration(wait)
	if err != nil {
		return err
	}
	for i := range len(text) {
		select {
		case <-time.After(pause):
		case <-c.server.done:
			return errEnd
		}
		if err := errors.Join(c.w.WriteByte(text[i]), c.w.Flush()); err != nil {
			return err
		}
	}
	return nil
}

func (c *session) raw() net.Conn {
	if t, ok := c.conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.conn
}

// write sends a reply whose lines are separated by "\n"; the code stands only before the first.
func (c *session) write(reply string) error {
	first, rest, more := strings.Cut(reply, "\n")
	for more {
		if _, err := c.w.WriteString(first[:3] + "-" + strings.TrimLeft(first[3:], " -") + "\r\n"); err != nil {
			return err
		}
		first, rest, more = strings.Cut(rest, "\n")
		first = reply[:3] + " " + first
	}
	_, err := c.w.WriteString(first + "\r\n")
	return err
}
