package listen_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
)

func load(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "postrider.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestTable(t *testing.T) {
	got, err := listen.Of(load(t, `[listen]
smtp  = ["192.0.2.1:25", "127.0.0.1:25", "[::1]:2525", "unix:/run//smtp"]
peers = ["192.0.2.7", "192.0.2.77/24", "2001:DB8::/32", "::ffff:198.51.100.0/120"]
users = ["www-data", "1000"]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := listen.Table{
		SMTP:  []listen.Endpoint{{"tcp", "192.0.2.1:25"}, {"tcp", "127.0.0.1:25"}, {"tcp", "[::1]:2525"}, {"unix", "/run/smtp"}},
		Peers: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("198.51.100.0/24")},
		Users: []string{"www-data", "1000"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLogins(t *testing.T) {
	const text = "[listen]\nsmtp = [\"0.0.0.0:587\"]\nlogins = \"/etc/logins\"\ncertificate = \"/etc/cert\"\nkey = \"/etc/key\"\n"
	got, err := listen.Of(load(t, text))
	if err != nil || got.Logins != "/etc/logins" || got.Certificate != "/etc/cert" || got.Key != "/etc/key" || len(got.SMTP) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNothingIsListenedAt(t *testing.T) {
	got, err := listen.Of(&config.Config{})
	if diff := cmp.Diff(listen.Table{}, got); err != nil || diff != "" {
		t.Errorf("error %v, -want +got:\n%s", err, diff)
	}
}

func TestMistakes(t *testing.T) {
	const (
		address = `, expected an IP address and a port as in "127.0.0.1:25" or "[::1]:25", or "unix:" and a path`
		reached = `, which other hosts can reach; expected an address like "127.0.0.1:25", or peers to say which hosts may, or logins and a certificate`
		network = `, expected an IP address, or a network not as wide as that, as in "192.0.2.0/24"`
	)
	tests := []struct{ name, text, want string }{
		{"a name", "smtp = [\"localhost:25\"]", `2:9: listen.smtp: found "localhost:25"` + address},
		{"no port", "smtp = [\"127.0.0.1\"]", `2:9: listen.smtp: found "127.0.0.1"` + address},
		{"port 0", "smtp = [\"127.0.0.1:0\"]", `2:9: listen.smtp: found "127.0.0.1:0"` + address},
		{"a zone", "smtp = [\"[fe80::1%eth0]:25\"]", `2:9: listen.smtp: found "[fe80::1%eth0]:25"` + address},
		{"a relative path", "smtp = [\"unix:run/smtp\"]", `2:9: listen.smtp: found "unix:run/smtp", expected an absolute path after unix:, as in "unix:/run/postrider/smtp"`},
		{"everybody", "smtp = [\"127.0.0.1:25\", \"0.0.0.0:25\"]", `2:25: listen.smtp: found "0.0.0.0:25"` + reached},
		{"everybody who has IPv6", "smtp = [\"[::]:25\"]\nusers = []", `2:9: listen.smtp: found "[::]:25"` + reached},
		{"everybody, and nobody allowed", "peers = []\nsmtp = [\"192.0.2.1:25\"]", `3:9: listen.smtp: found "192.0.2.1:25"` + reached},
		{"everybody is a peer", "peers = [\"0.0.0.0/0\"]", `2:10: listen.peers: found "0.0.0.0/0"` + network},
		{"half of everybody is a peer", "peers = [\"128.0.0.0/1\"]", `2:10: listen.peers: found "128.0.0.0/1"` + network},
		{"half of everybody, as IPv6", "peers = [\"::ffff:0.0.0.0/97\"]", `2:10: listen.peers: found "::ffff:0.0.0.0/97"` + network},
		{"everybody may log in, and be overheard", "smtp = [\"0.0.0.0:25\"]\nlogins = \"/etc/logins\"", `2:9: listen.smtp: found "0.0.0.0:25"` + reached},
		{"a peer in a zone", "peers = [\"fe80::1%eth0\"]", `2:10: listen.peers: found "fe80::1%eth0"` + network},
		{"a name is a peer", "peers = [\"app.example.com\"]", `2:10: listen.peers: found "app.example.com"` + network},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := load(t, "[listen]\n"+test.text+"\n")
			_, err := listen.Of(cfg)
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.TrimPrefix(err.Error(), cfg.File+":"); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
