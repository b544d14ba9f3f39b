package smtp

import (
	"strconv"
	"strings"
)

// extensions is what a server offers in its reply to EHLO (delivery by RFC 5321 alone if all are zero).
type extensions struct {
	pipelining bool     // RFC 2920
	chunking   bool     // RFC 3030
	eightBit   bool     // RFC 6152
	utf8       bool     // RFC 6531
	dsn        bool     // RFC 3461
	startTLS   bool     // RFC 3207
	sized      bool     // RFC 1870
	size       int64    // the largest message in octets; 0: no fixed limit
	auth       []string // RFC 4954: mechanisms, in upper case
	rcptMax    int      // RFC 9422: recipients for one transaction; 0: not said
	mailMax    int      // likewise: transactions for one session
	requireTLS bool     // RFC 8689
	deliverBy  bool     // RFC 2852
	leastTime  int64    // likewise: the shortest it promises, in seconds; 0: any
	priority   bool     // RFC 6710
}

// parseExtensions reads the text of a reply to EHLO. What is malformed counts as not offered.
func parseExtensions(text string) extensions {
	var e extensions
	_, lines, _ := strings.Cut(text, "\n") // the first is a greeting
	for line := range strings.SplitSeq(lines, "\n") {
		keyword, params, _ := strings.Cut(line, " ")
		switch keyword = strings.ToUpper(keyword); keyword {
		case "PIPELINING":
			e.pipelining = true
		case "CHUNKING":
			e.chunking = true
		case "8BITMIME":
			e.eightBit = true
		case "SMTPUTF8":
			e.utf8, e.eightBit = true, true // one needs the other (RFC 6531 section 3.1 (8)), and some forget to say so
		case "DSN":
			e.dsn = true
		case "STARTTLS":
			e.startTLS = true
		case "SIZE":
			e.sized = true
			if n, err := strconv.ParseInt(strings.TrimSpace(params), 10, 64); err == nil && n > 0 {
				e.size = n
			}
		case "AUTH":
			e.auth = append(e.auth, strings.Fields(strings.ToUpper(params))...)
		case "REQUIRETLS":
			e.requireTLS = true
		case "DELIVERBY":
			e.deliverBy = true
			if n, err := strconv.ParseInt(strings.TrimSpace(params), 10, 64); err == nil && n > 0 {
				e.leastTime = n
			}
		case "MT-PRIORITY":
			e.priority = true
		case "LIMITS":
			e.rcptMax, e.mailMax = parseLimits(params)
		default:
			// The form of a draft of RFC 2554 that is still spoken.
			if first, ok := strings.CutPrefix(keyword, "AUTH="); ok {
				e.auth = append(e.auth, strings.Fields(first+" "+strings.ToUpper(params))...)
			}
		}
	}
	return e
}

// parseLimits reads NAME=value pairs (RFC 9422). A value that is no number of 1 to 6 digits does not count; a name that
// comes twice, or a word that is no pair, makes all of it worthless.
func parseLimits(params string) (rcptMax, mailMax int) {
	values := map[string]int{}
	for word := range strings.FieldsSeq(params) {
		name, value, ok := strings.Cut(strings.ToUpper(word), "=")
		if _, twice := values[name]; !ok || name == "" || twice {
			return 0, 0
		}
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || value[0] == '0' || len(value) > 6 {
			n = 0
		}
		values[name] = int(n)
	}
	return values["RCPTMAX"], values["MAILMAX"]
}
