package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/anchorattention/anchor/internal/parallel"
)

const (
	rowTiles   = 4 // tiles whose logits are there at once
	rowsAtOnce = 8 // rows that a goroutine takes out of a tile, a cache line holds numbers of twice as many
)

// checkRows reports what makes the rows whose logits are wanted unusable.
func (opt *ForwardOptions) checkRows(parts []Part) error {
	if len(opt.Rows) == 0 && opt.Logits == nil {
		return nil
	}
	switch {
	case len(opt.Rows) == 0 || opt.Logits == nil:
		return fmt.Errorf("ForwardOptions.Rows are %d, and Logits are wanted: %v; want both or none", len(opt.Rows), opt.Logits != nil)
	case len(parts) > 1:
		return fmt.Errorf("ForwardOptions.Rows with a batch of %d parts; want one part", len(parts))
	}
	before := -1
	for i, r := range opt.Rows {
		if r <= before || r >= len(parts[0].IDs) {
			return fmt.Errorf("ForwardOptions.Rows[%d] is %d after %d; want them ascending, below %d", i, r, before, len(parts[0].IDs))
		}
		before = r
	}
	return nil
}

// rowWork returns the work of the rows' logits, in multiply-adds.
func (f *forward) rowWork(rows int) float64 {
	return float64(rows) * float64(f.cfg.Vocab) * float64(f.cfg.Hidden)
}

// rowLogits computes the head's output for the rows that are wanted, some tiles of them at a time.
func (f *forward) rowLogits(ctx context.Context) error {
	rows, c := f.opt.Rows, f.cfg
	if len(rows) == 0 {
		return nil
	}
	chunk := min((len(rows)+f.width-1)/f.width, rowTiles) * f.width
	x, y := make([]float32, chunk*c.Hidden), make([]float32, chunk*c.Vocab)
	buffers := make([][]float32, f.threads)
	for from := 0; from < len(rows); from += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := rows[from:min(from+chunk, len(rows))]
		tiles := (len(rows) + f.width - 1) / f.width
		f.each(0, tiles, func(tile int) {
			to := x[tile*c.Hidden*f.width:][:c.Hidden*f.width]
			for col := range f.width {
				if i := tile*f.width + col; i < len(rows) {
					r := rows[i]
					in := f.x[r/f.width*c.Hidden*f.width+r%f.width:]
					for d := range c.Hidden {
						to[d*f.width+col] = in[d*f.width]
					}
				} else {
					for d := range c.Hidden {
						to[d*f.width+col] = 0
					}
				}
			}
			f.kernels.Normalise(f.width, to, to, f.norm, c.RMSNormEps)
		})
		f.products(tiles, product{f.head, x[:tiles*c.Hidden*f.width], y, false})
		failed := make([]error, (len(rows)+rowsAtOnce-1)/rowsAtOnce)
		parallel.For(f.threads, len(failed), func(worker, group int) {
			if buffers[worker] == nil {
				buffers[worker] = make([]float32, rowsAtOnce*c.Vocab)
			}
			first := group * rowsAtOnce
			n := min(rowsAtOnce, len(rows)-first) // of one tile, whose width is a multiple of theirs
			in := y[first/f.width*c.Vocab*f.width+first%f.width:]
			f.transpose(c.Vocab, n, in, f.width, buffers[worker], c.Vocab)
			for i := range n {
				if err := f.opt.Logits(rows[first+i], buffers[worker][i*c.Vocab:(i+1)*c.Vocab]); err != nil {
					failed[group] = fmt.Errorf("model: row %d: %w", rows[first+i], err)
					return
				}
			}
		})
		if err := errors.Join(failed...); err != nil {
			return err
		}
		f.progress(f.rowWork(len(rows)), 0, 0)
	}
	return nil
}
