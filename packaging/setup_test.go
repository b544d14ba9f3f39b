package packaging

import (
	"os"
	"os/exec"
	"testing"
)

// takeOver runs setup where root has used the spool already, and again when it has changed hands, with a user postrider that
// only this process sees. It prints what does not belong to that user.
const takeOver = `
mount --make-rprivate /
cd "$1"
mkdir etc
cp -a /etc/passwd /etc/group /etc/nsswitch.conf etc || :
echo 'postrider:x:54321:54321::/nonexistent:/usr/sbin/nologin' >>etc/passwd
echo 'postrider:x:54321:' >>etc/group
mount --bind etc /etc
umask 077
mkdir -p spool/drop spool/queue
touch spool/lock spool/index.db spool/drop/7UU4F9BFZU0 spool/queue/7UU4F9BFZU1 sendmail
$2 "$1/spool" "$1/sendmail"
find spool ! -user postrider -o ! -group postrider
echo "$(stat -c '%a %U %G' spool/drop), $(stat -c '%a %U %G' sendmail)"
touch spool/queue/planted
$2 "$1/spool" "$1/sendmail"
find spool ! -user postrider
`

func TestSetupTakesOverTheSpoolOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can give files away")
	}
	if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
		t.Skip("SKIPPED: no mount namespaces here")
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "-m", "sh", "-euc", takeOver, "sh", t.TempDir(), wd+"/setup").CombinedOutput()
	want := "2770 postrider postrider, 2755 root postrider\nspool/queue/planted\n"
	if err != nil || string(out) != want {
		t.Errorf("%v:\n%swant\n%s", err, out, want)
	}
}
