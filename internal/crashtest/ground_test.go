package crashtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A ground is where the trials of one worker happen: a directory that each trial finds as the first one did.
type ground struct {
	dir  string
	disk *Disk  // that dir is the root of; nil if there is no power to cut
	tree []file // what reset puts back where there is no disk
}

// A file is a directory, or a regular file with its content.
type file struct {
	path    string // relative
	mode    fs.FileMode
	content []byte
}

// newGrounds returns n grounds that prepare has filled: on disks of the given kind, or in plain directories if it is
// nil. It skips the test where a disk is needed and cannot be had.
func newGrounds(t *testing.T, n int, kind *FileSystem, prepare func(dir string) error) []*ground {
	t.Helper()
	var grounds []*ground
	for range n {
		g := &ground{dir: t.TempDir()}
		if kind != nil {
			g.disk = newDisk(t, *kind)
			g.dir = g.disk.Dir()
		}
		if err := prepare(g.dir); err != nil {
			t.Fatal(err)
		}
		if err := g.save(); err != nil {
			t.Fatal(err)
		}
		grounds = append(grounds, g)
	}
	return grounds
}

func (g *ground) save() error {
	if g.disk != nil {
		return errors.Join(g.disk.Unmount(), g.disk.Save())
	}
	root := os.DirFS(g.dir)
	return fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := file{path: path, mode: info.Mode()}
		if f.mode.IsRegular() {
			f.content, err = fs.ReadFile(root, path)
		}
		g.tree = append(g.tree, f)
		return err
	})
}

// reset brings the ground back to what prepare made of it.
func (g *ground) reset() error {
	if g.disk != nil {
		return errors.Join(g.disk.Unmount(), g.disk.Restore(), g.disk.Mount())
	}
	if err := os.RemoveAll(g.dir); err != nil {
		return err
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return err
	}
	for _, f := range g.tree {
		path := filepath.Join(g.dir, f.path)
		var err error
		if f.mode.IsDir() {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, f.content, 0o600)
		}
		if err := errors.Join(err, os.Chmod(path, f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// blackout cuts the power, if there is one to cut, and brings it back.
func (g *ground) blackout() error {
	if g.disk == nil {
		return nil
	}
	return errors.Join(g.disk.Cut(), g.disk.Reboot())
}

// power is the loss of it on this ground, which has a disk.
func (g *ground) power() Kind { return PowerLoss(g.disk.Dir()) }
