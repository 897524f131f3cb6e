//go:build nocuda

package main

import (
	"fmt"

	"github.com/anchorattention/anchor"
)

// devices are what --device may name.
const devices = "cpu (this command was built without cuda)"

// openDevice returns the engine of the name given with --device, nil for the processor, and what closes it.
func openDevice(name string) (engine anchor.Engine, close func() error, err error) {
	if name == "cpu" {
		return nil, func() error { return nil }, nil
	}
	return nil, nil, usageError{fmt.Errorf("--device is %q; want %s", name, devices)}
}
