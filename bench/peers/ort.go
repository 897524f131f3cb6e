package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	ort "github.com/yalue/onnxruntime_go"
)

// openORT loads ONNX Runtime's shared library and returns its version. closeORT ends what it began.
func openORT(path string) (version string, err error) {
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("ONNX Runtime's library is %q: %w; want the path of libonnxruntime.so, as setup.sh prints it", path, errors.Unwrap(err))
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return "", fmt.Errorf("ONNX Runtime's library is %q: %w", path, err)
	}
	return ort.GetVersion(), nil
}

func closeORT() { ort.DestroyEnvironment() }

// ortAttention is ONNX Runtime's GroupQueryAttention over d on some threads, writing out. What it returns must be closed
// after its last run.
func ortAttention(s size, d *data, out []float32, threads int) (c contestant, closeAll func(), err error) {
	var open []interface{ Destroy() error }
	closeAll = func() {
		for i := len(open) - 1; i >= 0; i-- {
			open[i].Destroy()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
			err = fmt.Errorf("ONNX Runtime, %d tokens: %w", s.length, err)
		}
	}()
	cache := s.kvHeads * s.length * s.dim
	inShapes, outShapes := s.shapes()
	var in, outs []ort.Value
	for i, x := range []any{d.q, d.k, d.v, []int32{int32(s.length - 1)}, []int32{int32(s.length)}} {
		v, err := tensor(inShapes[i], x)
		if err != nil {
			return c, nil, err
		}
		in, open = append(in, v), append(open, v)
	}
	for i, x := range []any{out, make([]float32, cache), make([]float32, cache)} {
		v, err := tensor(outShapes[i], x)
		if err != nil {
			return c, nil, err
		}
		outs, open = append(outs, v), append(open, v)
	}
	o, err := ort.NewSessionOptions()
	if err != nil {
		return c, nil, err
	}
	defer o.Destroy()
	err = errors.Join(
		o.SetIntraOpNumThreads(threads),
		// Its threads go on spinning after a run, and would take cores from whoever is next.
		o.AddSessionConfigEntry("session.force_spinning_stop", "1"),
	)
	if err != nil {
		return c, nil, err
	}
	session, err := ort.NewAdvancedSessionWithONNXData(model(s), modelInputs, modelOutputs, in, outs, o)
	if err != nil {
		return c, nil, err
	}
	open = append(open, session)
	return contestant{
		name: "ort/gqa", dtype: "F32", flops: s.flops(), exact: true, out: out,
		run: func(context.Context) error { return session.Run() }, // one node, which nothing interrupts
	}, closeAll, nil
}

// tensor gives ONNX Runtime a view of a slice.
func tensor(shape []int64, x any) (ort.Value, error) {
	switch x := x.(type) {
	case []float32:
		return ort.NewTensor(shape, x)
	case []int32:
		return ort.NewTensor(shape, x)
	}
	return nil, fmt.Errorf("elements are %T; want float32 or int32", x)
}
