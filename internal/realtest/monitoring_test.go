package realtest

import (
	"fmt"
	"strings"
	"testing"
)

// TestCheckMailq has the plugin that Nagios, Icinga and others count mail queues with count ours, for each kind of mail
// system that it may take us for.
func TestCheckMailq(t *testing.T) {
	w := newClientWorld(t)
	w.sink()
	check := func(kind string, limit int) (string, error) {
		return w.run("root", nil, "sh", "-c", fmt.Sprintf("perl /usr/lib/nagios/plugins/check_mailq -w %d -c 1000 %s", limit, kind))
	}
	queued := 0
	for _, n := range []int{0, 1, 2, 500} {
		w.must("root", "sh", "-euc", fmt.Sprintf(`seq %d | xargs -P 8 -I{} sh -c "echo {} | sendmail root"`, n-queued))
		queued = n
		for _, kind := range []string{"-M postfix", "-M sendmail", ""} {
			out, err := check(kind, 501)
			if err != nil || !strings.HasPrefix(out, "OK: ") || !strings.Contains(out, fmt.Sprintf("|unsent=%d;", n)) {
				t.Errorf("check_mailq %s of %d messages: %v, %q", kind, n, err, out)
			}
			if out, err := check(kind, 400); n >= 400 && err == nil {
				t.Errorf("check_mailq %s of %d messages is content where 400 are too many: %q", kind, n, out)
			}
		}
	}
}
