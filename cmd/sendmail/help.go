package main

import (
	"fmt"
	"io"
	"strings"
)

// help prints what the table of options says.
func help(w io.Writer) error {
	var b, without, refused strings.Builder
	b.WriteString("usage: sendmail [option ...] [recipient ...]\n\nIt reads a message from standard input and puts it into the mail queue.\n\n")
	for i := range table {
		switch opt := &table[i]; {
		case opt.no != "":
			fmt.Fprintf(&refused, "  -%-12s %s\n", opt.name, opt.no)
		case opt.says != "":
			fmt.Fprintf(&b, "  -%-13s %s\n", strings.TrimSpace(opt.name+" "+opt.arg), opt.says)
		default:
			without.WriteString(" -" + opt.name)
		}
	}
	for _, opt := range named {
		fmt.Fprintf(&b, "  -O %-22s %s\n", strings.TrimSuffix(opt.long+"="+opt.arg, "="), opt.says)
	}
	fmt.Fprintf(&b, "\nAccepted, without effect:%s\n\nRefused:\n%s\nsendmail(8) has the details.\n", &without, &refused)
	_, err := io.WriteString(w, b.String())
	return err
}
