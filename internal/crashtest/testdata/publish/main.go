// Publish puts its standard input into a file. The order called good is right; each of the others has one bug, which
// the tests of the harness expect it to see.
package main

import (
	"errors"
	"io"
	"os"
)

func main() {
	if err := publish(os.Args[1], os.Args[2]); err != nil {
		os.Exit(75)
	}
}

func publish(order, path string) error {
	name, temporary := path+"/message", path+"/message.tmp"
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	if _, err := io.Copy(struct{ io.Writer }{f}, struct{ io.Reader }{os.Stdin}); err != nil {
		return err
	}
	if order != "no-file-sync" {
		if err := f.Sync(); err != nil && order != "ignored-error" {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if order == "unlink-first" {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(temporary, name); err != nil {
		return err
	}
	if order == "no-directory-sync" {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return dir.Sync()
}
