//go:build !(linux && amd64)

package crashtest

import "errors"

// Supported returns an error that says why Run cannot work here; nil if it can.
func Supported() error { return errors.New("system calls are traced on linux/amd64 only") }

// Run returns the error of Supported.
func Run(Command, Fault) (Report, error) { return Report{}, Supported() }
