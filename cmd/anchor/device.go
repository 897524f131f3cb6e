//go:build !nocuda

package main

import (
	"fmt"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/cuda"
)

// devices are what --device may name.
const devices = "cpu or cuda"

// openDevice returns the engine of the name given with --device, nil for the processor, and what closes it.
func openDevice(name string) (engine anchor.Engine, close func() error, err error) {
	switch name {
	case "cpu":
		return nil, func() error { return nil }, nil
	case "cuda":
		d, err := cuda.Open(0)
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	return nil, nil, usageError{fmt.Errorf("--device is %q; want %s", name, devices)}
}
