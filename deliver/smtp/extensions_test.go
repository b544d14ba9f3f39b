package smtp

import (
	"reflect"
	"testing"
)

func TestParseExtensions(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       extensions
	}{
		{"none", "mx.invalid", extensions{}},
		{"the greeting is none", "PIPELINING", extensions{}},
		{"any case", "mx\npipelining\nDsn\nStartTLS", extensions{pipelining: true, dsn: true, startTLS: true}},
		{"SMTPUTF8 means 8BITMIME too", "mx\nSMTPUTF8", extensions{utf8: true, eightBit: true}},
		{"parameters of SMTPUTF8 are ignored", "mx\nSMTPUTF8 what", extensions{utf8: true, eightBit: true}},
		{"SIZE", "mx\nSIZE 1000", extensions{sized: true, size: 1000}},
		{"SIZE without limit", "mx\nSIZE 0", extensions{sized: true}},
		{"SIZE without number", "mx\nSIZE", extensions{sized: true}},
		{"SIZE that is none", "mx\nSIZE -5", extensions{sized: true}},
		{"SIZE beyond counting", "mx\nSIZE 99999999999999999999", extensions{sized: true}},
		{"AUTH", "mx\nAUTH plain LOGIN", extensions{auth: []string{"PLAIN", "LOGIN"}}},
		{"AUTH of old", "mx\nAUTH=LOGIN plain", extensions{auth: []string{"LOGIN", "PLAIN"}}},
		{"LIMITS", "mx\nLIMITS RCPTMAX=20 MAILMAX=5 RCPTDOMAINMAX=1", extensions{rcptMax: 20, mailMax: 5}},
		{"a bad limit does not count", "mx\nLIMITS RCPTMAX=abc MAILMAX=5", extensions{mailMax: 5}},
		{"a limit of 0 does not count", "mx\nLIMITS RCPTMAX=0 MAILMAX=05", extensions{}},
		{"a limit of 7 digits does not count", "mx\nLIMITS RCPTMAX=1000000", extensions{}},
		{"a limit given twice spoils all", "mx\nLIMITS RCPTMAX=1 MAILMAX=5 RCPTMAX=1", extensions{}},
		{"what senders ask for", "mx\nREQUIRETLS\nDELIVERBY 240\nMT-PRIORITY MIXER", extensions{requireTLS: true, deliverBy: true, leastTime: 240, priority: true}},
		{"DELIVERBY with no limit", "mx\nDELIVERBY", extensions{deliverBy: true}},
		{"DELIVERBY with none that is one", "mx\nDELIVERBY -1", extensions{deliverBy: true}},
		{"LIMITS that are none", "mx\nLIMITS ;;", extensions{}},
		{"unknown ones", "mx\nXCLIENT NAME\nBURL imap\n\n ", extensions{}},
	} {
		if got := parseExtensions(tt.text); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: parseExtensions(%q) = %+v, want %+v", tt.name, tt.text, got, tt.want)
		}
	}
}
