package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A FileSystem is how a Disk is made and mounted.
type FileSystem struct {
	Type    string   // as mount(2) names it; mkfs.Type must be installed
	Make    []string // options of mkfs
	Options string   // of mount(2)
	Size    int64    // in octets
}

// Ext4 returns ext4 as Debian makes it, but for the journal's timer, which would save what nobody synced.
func Ext4() FileSystem {
	return FileSystem{
		Type: "ext4", Make: []string{"-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
		Options: "commit=600", Size: 48 << 20,
	}
}

// Ext4Writeback returns ext4 with everything off that forgives a missing sync.
func Ext4Writeback() FileSystem {
	fs := Ext4()
	fs.Options = "commit=600,data=writeback,noauto_da_alloc"
	return fs
}

// XFS returns XFS as xfsprogs makes it.
func XFS() FileSystem {
	return FileSystem{Type: "xfs", Make: []string{"-q", "-f"}, Size: 320 << 20}
}

// A Disk is a small file system in memory whose power can be cut. It takes root to make and mount one.
type Disk struct {
	fs    FileSystem
	dir   string // where it is mounted
	image *os.File
	saved []chunk // what Restore puts back
	loop  string  // the device it is mounted from; "" if it is not
}

type chunk struct {
	offset int64
	data   []byte
}

const chunkSize = 64 << 10

// NewDisk makes an empty file system, not mounted, for the mount point dir.
func NewDisk(dir string, fs FileSystem) (*Disk, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can mount a file system")
	}
	mkfs, err := exec.LookPath("mkfs." + fs.Type)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	d := &Disk{fs: fs, dir: dir, image: os.NewFile(uintptr(fd), "disk")}
	if err := d.image.Truncate(fs.Size); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	cmd := exec.Command(mkfs, append(fs.Make, "/dev/fd/3")...)
	cmd.ExtraFiles = []*os.File{d.image}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w: %s", mkfs, err, out), d.Close())
	}
	return d, d.Save()
}

// Dir returns the mount point.
func (d *Disk) Dir() string { return d.dir }

// Close unmounts the disk and forgets it.
func (d *Disk) Close() error { return errors.Join(d.Unmount(), d.image.Close()) }

// Mount mounts the disk; the file system repairs itself from its journal.
func (d *Disk) Mount() error {
	// Another process may take the free device before us.
	var err error
	for range 20 {
		if err = d.mount(); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return err
}

func (d *Disk) mount() error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return fmt.Errorf("free loop device: %w", err)
	}
	name := "/dev/loop" + strconv.Itoa(n)
	loop, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	// The device lets go of the image when the last user, the mount, is gone.
	defer loop.Close()
	config := unix.LoopConfig{Fd: uint32(d.image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	if err := unix.Mount(name, d.dir, d.fs.Type, 0, d.fs.Options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", name, d.dir, err)
	}
	d.loop = name
	return nil
}

// Unmount unmounts the disk; what was written before is on it, unless the power was cut.
func (d *Disk) Unmount() error {
	if d.loop == "" {
		return nil
	}
	// The last file of a killed process is closed a moment after the process was waited for.
	busy := func(err error) bool { return errors.Is(err, unix.EBUSY) }
	if err := patiently(busy, func() error { return unix.Unmount(d.dir, 0) }); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	// It would be no power loss if the file system lived on in a copy of our mounts, and wrote to the image later.
	held := func(err error) bool { return errors.Is(err, errHeld) }
	if err := patiently(held, d.released); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	d.loop = ""
	return nil
}

// errHeld is the error for an image that a loop device still has.
var errHeld = errors.New("the disk is still mounted in the mount namespace of another process; see OwnMounts")

// released returns nil if the loop device has let go of the image.
func (d *Disk) released() error {
	loop, err := os.Open(d.loop)
	if err != nil {
		return err
	}
	defer loop.Close()
	info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.image.Fd()), &st); err != nil {
		return err
	}
	if info.Inode == st.Ino && info.Device == st.Dev {
		return errHeld
	}
	return nil
}

// patiently calls f again while its error is of the kind that passes by itself, for ten seconds at most.
func patiently(passes func(error) bool, f func() error) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := f(); err == nil || !passes(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// Reboot is what follows a power loss: the disk is unmounted and mounted again.
func (d *Disk) Reboot() error {
	if err := d.Unmount(); err != nil {
		return err
	}
	return d.Mount()
}

// Save remembers the present state of the disk, which must not be mounted, for Restore.
func (d *Disk) Save() error {
	d.saved = nil
	zero := make([]byte, chunkSize)
	buf := make([]byte, chunkSize)
	for at := int64(0); at < d.fs.Size; {
		data, err := unix.Seek(int(d.image.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return err
		}
		at = data / chunkSize * chunkSize
		if _, err := d.image.ReadAt(buf, at); err != nil {
			return err
		}
		if !bytes.Equal(buf, zero) {
			d.saved = append(d.saved, chunk{at, bytes.Clone(buf)})
		}
		at += chunkSize
	}
	return nil
}

// Restore brings the disk, which must not be mounted, back to the saved state.
func (d *Disk) Restore() error {
	if d.loop != "" {
		return errors.New("restore of a mounted disk")
	}
	const flags = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(d.image.Fd()), flags, 0, d.fs.Size); err != nil {
		return err
	}
	for _, c := range d.saved {
		if _, err := d.image.WriteAt(c.data, c.offset); err != nil {
			return err
		}
	}
	return nil
}

// shutdown is EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, _IOR('X', 125, uint32), and noLogFlush its hardest flag: the
// journal is not written out.
const (
	shutdown   = 0x8004587d
	noLogFlush = 2
)

// cutPower stops the file system mounted at mount: nothing reaches the disk any more.
func cutPower(mount string) error {
	f, err := os.Open(mount)
	if errors.Is(err, unix.EIO) {
		return nil // it is down
	}
	if err != nil {
		return err
	}
	defer f.Close()
	flag := uint32(noLogFlush)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flag))); e != 0 {
		return fmt.Errorf("shut down the file system at %s: %w", mount, e)
	}
	return nil
}

// Cut cuts the power now, with no program running.
func (d *Disk) Cut() error { return cutPower(d.dir) }

// OwnMounts gives the process a mount namespace of its own, by starting the program anew: what a Disk mounts there, no
// other process gets a copy of, and it is gone when the process is. TestMain calls it first. Without the right to, it
// does nothing; then there is nothing to mount either.
func OwnMounts() error {
	const mark = "CRASHTEST_OWN_MOUNTS"
	if os.Getenv(mark) != "" || os.Geteuid() != 0 {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// The namespace is that of one thread; exec makes it the only one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); errors.Is(err, unix.EPERM) {
		return nil
	} else if err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return unix.Exec(program, os.Args, append(os.Environ(), mark+"=1"))
}
